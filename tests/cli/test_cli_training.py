"""`doctor` and `train`: what is there before training, and what training would be."""

import sys
from pathlib import Path

import pytest
import yaml
from terminal import TINY, described, make_pairs, one_line, photo

from command import Run
from refusion.imaging.formats import read
from refusion.training.recipe import RECIPES, load_yaml, parse


def test_doctor_says_what_is_there(run: Run) -> None:
    said = run("doctor", make_pairs("pairs"), "--sheet", "sheet.png")
    assert said == (0, "pairs: 3 pairs: 1 of 20x16, 1 of 22x16, 1 of 24x16\nsheet.png\n", "")
    assert read("sheet.png").size == (480, 320)


def test_doctor_shows_progress_on_terminals(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    said = run("doctor", make_pairs("pairs"))
    assert (said.status, said.out.count("\n")) == (0, 1)
    assert "0/3" in said.err  # later ones are a matter of time


def test_doctor_says_what_it_passed_over(run: Run) -> None:
    pairs = make_pairs("pairs", 1)
    for name in ("lq/1.heic", "gt/1.heic", "gt/notes.txt"):
        (pairs / name).write_bytes(b"not read")
    said = run("doctor", pairs)
    assert said == (0, "pairs: 1 pairs: 1 of 20x16; 3 passed over: .heic (2) .txt\n", "")


def test_doctor_says_all_that_is_wrong(run: Run) -> None:
    pairs = make_pairs("pairs")
    photo("pairs/lq/alone.png")
    photo("pairs/lq/sizes.png")
    photo("pairs/gt/sizes.png", height=9)
    (pairs / "gt" / "1.png").write_bytes(b"broken")
    said = run("doctor", pairs)
    assert said.status == 1
    assert said.out.startswith("pairs: 2 pairs")
    assert len(said.err.splitlines()) == 3
    for part in ("lq/alone", "10x8 and 10x9", "1.png is not a picture"):
        assert part in said.err


def test_doctor_looks_at_train_and_val(run: Run) -> None:
    make_pairs("data/train", 2)
    make_pairs("data/val", 1)
    said = run("doctor", "data", "--sheet", "s.png")
    assert said.status == 0
    assert "2 pairs" in said.out
    assert "1 pairs" in said.out
    assert Path("s-train.png").exists()
    assert Path("s-val.png").exists()


def test_doctor_makes_what_a_recipe_makes(run: Run) -> None:
    for i in range(2):
        photo(f"clean/{i}.png", i, height=9)
    Path("r.yaml").write_text(
        parse(
            {
                **described(enlarge={"factor": 2}),
                "data": {"degradation": {"name": "Downscale", "factor": 2}},
            },
            "test",
        ).to_yaml()
    )
    said = run("doctor", "clean", "--recipe", "r.yaml", "--sheet", "sheet.png")
    assert said == (0, "clean: 2 pairs, degraded by Downscale: 2 of 5x4\nsheet.png\n", "")
    assert Path("sheet.png").exists()
    without = run("doctor", "clean")
    assert without.status == 1
    assert without.out.startswith("clean: 0 pairs")


def test_a_dry_run_prints_recipe_and_cost(run: Run) -> None:
    Path("tiny.yaml").write_text(yaml.safe_dump(TINY))
    said = run(
        *("train", "tiny.yaml", "--dry-run", "--model.network.width", "8"),
        *("--data.folder=x", "--training.clip", "2"),
    )
    assert said.status == 0
    assert "GMAC" in said.out.splitlines()[-1]
    text = said.out.rsplit("\n", 2)[0]
    recipe = parse(yaml.safe_load(text), "dry run")
    expected = {"model.network.width": 8, "data.folder": "x", "training.clip": 2}
    assert recipe == parse(TINY, "x", expected)
    assert list(Path().iterdir()) == [Path("tiny.yaml")]


@pytest.mark.slow
def test_a_bundled_recipe_is_known_by_name(run: Run) -> None:
    bundled = RECIPES / "super-resolution.yaml"
    by_name = run("train", "super-resolution", "--dry-run")
    assert (by_name.status, by_name.err) == (0, "")
    assert by_name == run("train", bundled, "--dry-run")
    assert parse(yaml.safe_load(by_name.out.rsplit("\n", 2)[0]), "dry run") == load_yaml(bundled)
    factor = load_yaml(bundled).model.enlarge.factor
    photo("clean/a.png", height=4 * factor, width=5 * factor)
    said = run("doctor", "clean", "--recipe", "super-resolution")
    assert said == (0, "clean: 1 pairs, degraded by Downscale: 1 of 5x4\n", "")


def test_training_without_its_libraries_says_what_to_install(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("tiny.yaml").write_text(yaml.safe_dump(TINY))
    for name in [name for name in sys.modules if name.startswith("refusion.training.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lightning.fabric", None)
    one_line(run("train", "tiny.yaml"), "pip install 'refusion[train]'")
