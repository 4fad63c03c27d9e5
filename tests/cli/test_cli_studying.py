"""`study` and `study report`, on runs whose results are made up."""

import json
from pathlib import Path

import pytest
import yaml
from terminal import TINY, one_line

from command import Run
from refusion.study import runs
from refusion.study.plan import read_study
from refusion.study.runs import FAILED, RESULT, make_runs

STUDY = {
    "name": "tiny",
    "recipe": "recipe.yaml",
    "seeds": 2,
    "factors": {"batch": {1: {"training.batch": 1}, 2: {"training.batch": 2}}},
}


@pytest.fixture
def folders(here: Path) -> list[Path]:
    """The folders of four runs: of a study in the present folder."""
    (here / "studies").mkdir()
    file = here / "studies" / "tiny.yaml"
    file.write_text(yaml.safe_dump(STUDY, sort_keys=False))
    (here / "studies" / "recipe.yaml").write_text(yaml.safe_dump({**TINY, "training": {"steps": 10}}))
    (here / "pairs" / "train").mkdir(parents=True)
    return [run.folder for run in make_runs(read_study(file), file, "pairs", Path("runs/study"))]


def finish(folder: Path, psnr: float) -> None:
    folder.mkdir(parents=True)
    (folder / "scores.csv").write_text(f"name,psnr,ssim\na,{psnr},0.5\n")
    content = {"metrics": {"psnr": psnr, "ssim": 0.5}, "steps": 10, "core_seconds": 720.0}
    (folder / RESULT).write_text(json.dumps(content))


def test_a_dry_run_says_what_is_left(run: Run, folders: list[Path]) -> None:
    said = run("study", "studies/tiny.yaml", "--data", "pairs", "--dry-run")
    assert said.status == 0
    assert said.out.splitlines()[-1].startswith("tiny: 0 of 4 runs done, 4 left; the cost is not known")
    finish(folders[0], 20)
    folders[1].mkdir()
    (folders[1] / FAILED).write_text("why\n")
    said = run("study", "studies/tiny.yaml", "--data", "pairs", "--dry-run")
    lines = said.out.splitlines()
    assert [line.split()[:2] for line in lines[:4]] == [
        [folder.name, state] for folder, state in zip(folders, ("done", "failed", "-", "-"), strict=True)
    ]
    assert lines[0].endswith("batch 1, seed 0")
    assert lines[4] == "tiny: 1 of 4 runs done, 1 failed, 2 left; 0.40 core-hours"


def test_what_is_done_is_not_done_again_and_failures_are_the_status(run: Run, folders: list[Path]) -> None:
    for folder in folders[:3]:
        finish(folder, 20)
    folders[3].mkdir()
    (folders[3] / FAILED).write_text("why\n")
    said = run("study", "studies/tiny.yaml", "--data", "pairs")
    assert (said.status, said.out) == (1, "tiny: 3 of 4 runs done, 1 failed\n")


def test_what_a_file_says_cannot_move_the_cursor(
    run: Run, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names of levels are printed before and after each run, and so are reasons of failures."""
    file = Path("studies") / "tiny.yaml"
    levels = {"batch": {"\x1b[2Jone": {"training.batch": 1}}}
    file.write_text(yaml.safe_dump({**STUDY, "factors": levels, "seeds": 1}))

    def fail(run: runs.Run) -> None:
        raise ValueError("\x1b[2Jtwo")

    monkeypatch.setattr(runs.Run, "perform", fail)
    said = run("study", file, "--data", "pairs")
    assert (said.status, len(said.out.splitlines())) == (1, 3)
    assert "one" in said.out
    assert "two" in said.out
    assert "\x1b" not in said.out


def test_a_report_is_of_all_studies(run: Run, folders: list[Path]) -> None:
    for folder, psnr in zip(folders, (20, 21, 20, 22), strict=True):
        finish(folder, psnr)
    (Path("studies") / "recipe.yaml").rename("recipe.yaml")
    changed = {**STUDY, "recipe": "../recipe.yaml"}
    (Path("studies") / "tiny.yaml").write_text(yaml.safe_dump(changed, sort_keys=False))
    assert run("study", "report", "--data", "pairs") == (0, "runs/report/study.md\n", "")
    assert "+1.50" in Path("runs/report/study.md").read_text()


def test_without_pairs_no_run_is_begun(run: Run, folders: list[Path]) -> None:
    one_line(run("study", "studies/tiny.yaml"), "data.folder")
    one_line(run("study", "studies/tiny.yaml", "--data", "nowhere"), "nowhere")
    assert not any(folder.exists() for folder in folders)


def test_what_is_wrong_is_one_line(run: Run, here: Path) -> None:
    one_line(run("study", "nothing.yaml"), "nothing.yaml")
    one_line(run("study", "report"), "no studies")
