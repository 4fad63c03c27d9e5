"""Many pictures by shares, manifests, reports and addresses: together the same bytes as one run."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from terminal import mask, one_line, photo

from command import Run
from refusion.jobs.report import rows
from refusion.remote import Remote

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def store() -> Iterator[fsspec.AbstractFileSystem]:
    """A store in memory, without files."""
    memory = fsspec.filesystem("memory")
    yield memory
    memory.store.clear()


def contents(folder: str) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


@pytest.mark.slow
def test_shares_together_are_one_run(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(5):
        photo(f"in/day {i % 2}/{i}.png", i)
    Path("in/broken.png").write_bytes(b"broken")
    said = run("restore", "in", "--model", model, "-o", "whole")
    assert (said.status, said.out) == (1, "restored 5 of 6 to whole; 1 failed\n")
    counts = list[int]()
    for i in (1, 2):
        said = run("restore", "in", "--model", model, "-o", "shares", "--shard", f"{i}/2")
        assert f", shard {i}/2" in said.out
        counts.append(int(said.out.split()[1]))
    assert sum(counts) == 5
    assert contents("shares") == contents("whole")
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "3")
        run("restore", "in", "--model", model, "-o", "ranks")
    assert contents("ranks") == contents("whole")


def test_a_manifest_is_restored_reported_and_retried(run: Run, model: Path) -> None:
    for i in range(3):
        photo(f"in/{i}.png", i)
    good = Path("in/1.png").read_bytes()
    Path("in/1.png").write_bytes(good[:60])
    Path("list.txt").write_text("in/0.png\nin/1.png\nin/2.png\n/elsewhere.png\n")
    words = ("restore", "list.txt", "--model", model, "--report", "log/out.csv")
    said = run(*words)
    assert (said.status, said.out) == (1, "restored 2 of 4 to restored; 2 failed\n")
    found = [(row.file, row.status) for row in rows(Path("log/out.csv"))]
    assert found == [
        ("in/0.png", "restored"),
        ("in/1.png", "failed"),
        ("in/2.png", "restored"),
        ("/elsewhere.png", "failed"),
    ]
    Path("in/1.png").write_bytes(good)
    said = run(*words, "--retry-failed", "--shard", "1/1")
    assert (said.status, said.out) == (1, "restored 1 of 2 to restored; 1 failed\n")
    said = run(*words)
    assert (
        said.out == "restored 0 of 4 to restored; 3 were there already (--overwrite redoes them); 1 failed\n"
    )
    run("restore", "in", "--model", model, "-o", "whole")
    assert contents("restored/in") == contents("whole")


def test_everything_may_lie_in_a_store(
    run: Run, models: Path, monkeypatch: pytest.MonkeyPatch, store: fsspec.AbstractFileSystem
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("cache").resolve()))
    photo("in/0.png", 0)
    photo("in/sub/1.png", 1)
    mask("masks/0.png")
    mask("masks/sub/1.png")
    model = models / "plain.safetensors"
    run("restore", "in", "--model", model, "--mask", "masks", "-o", "whole")
    for folder in ("in", "masks"):
        for name, data in contents(folder).items():
            store.pipe_file(f"/{folder}/{name}", data)
    store.put_file(str(model), "/models/plain.safetensors")
    words = ("restore", "memory://in", "--model", "memory://models/plain.safetensors")
    said = run(*words, "--mask", "memory://masks", "-o", "memory://out")
    assert (said.status, said.out) == (0, "restored 2 of 2 to memory://out\n")
    found = {str(path.relative_to(Remote("memory://out"))) for path in Remote("memory://out").files()}
    assert found == set(contents("whole"))
    for name, data in contents("whole").items():
        assert store.cat_file(f"/out/{name}") == data
    run("restore", "memory://in/0.png", "--model", model, "--mask", "masks", "--out", "0.png")
    assert Path("0.png").read_bytes() == contents("whole")["0.png"]
    said = run(*words, "--mask", "memory://masks", "-o", "memory://out")
    assert said.out.startswith("restored 0 of 2 to memory://out; 2 were there already")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("restore a.png --shard 4/3", "shard is 4/3"),
        ("restore a.png --shard x", "shard is x"),
        ("restore a.png --retry-failed", "--report"),
        ("restore a.png --address auto", "--engine ray"),
        ("restore a.png --retry-failed --report none.csv", "none.csv does not exist"),
        ("restore a.png -o file:///out", "is no store"),
        ("restore none.txt", "none.txt cannot be read"),
    ],
)
def test_errors_are_one_line(run: Run, model: Path, words: str, part: str) -> None:
    photo("a.png")
    one_line(run(*words.split(), "--model", model), part)


@pytest.mark.parametrize(
    ("library", "words"),
    [("ray", ("a.png", "--engine", "ray")), ("fsspec", ("a.png", "-o", "s3://bucket/out"))],
)
def test_what_is_not_installed_is_named_with_its_extra(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch, library: str, words: tuple[str, ...]
) -> None:
    photo("a.png")
    monkeypatch.setitem(sys.modules, library, None)
    one_line(run("restore", *words, "--model", model), "pip install 'refusion[")


# ---- scripts for SLURM


def script(name: str, *words: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a script of the examples as a job, with the programs of `bin` before all others."""
    return subprocess.run(
        ["sh", EXAMPLES / name, *map(str, words)],
        env={**os.environ, **environment, "PATH": f"{Path('bin').resolve()}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )


def program(name: str, line: str) -> None:
    Path("bin").mkdir(exist_ok=True)
    Path("bin", name).write_text(f"#!/bin/sh\n{line}\n")
    Path("bin", name).chmod(0o755)


@pytest.mark.skipif(os.name == "nt", reason="SLURM has no Windows")
@pytest.mark.slow
def test_the_script_of_an_array_restores_a_share_in_each_task(run: Run, model: Path) -> None:
    for i in range(4):
        photo(f"in/{i}.png", i)
    run("restore", "in", "--model", model, "-o", "whole")
    Path("list.txt").write_text("".join(f"in/{i}.png\n" for i in range(4)))
    program("refusion", f'exec "{sys.executable}" -m refusion "$@" --precision 32')
    array = {"COUNT": "2", "MIN": "0", "MAX": "1", "STEP": "1"}
    for task in range(2):
        values = {f"SLURM_ARRAY_TASK_{name}": value for name, value in {**array, "ID": str(task)}.items()}
        done = script("restore.sbatch", "list.txt", "out", MODEL=str(model), SLURM_JOB_NAME="job", **values)
        assert done.returncode == 0, done.stderr
        assert f", shard {task + 1}/2" in done.stdout
    assert contents("out/in") == contents("whole")
    reports = Path("reports").glob("job-*-of-2.csv")
    assert sorted(row.file for report in reports for row in rows(report)) == [f"in/{i}.png" for i in range(4)]


@pytest.mark.skipif(os.name == "nt", reason="SLURM has no Windows")
def test_the_script_that_trains_starts_an_agent_on_each_machine() -> None:
    program("scontrol", "echo first; echo second")
    program("srun", 'echo "$@"')
    values = {"SLURM_JOB_NODELIST": "[first-second]", "SLURM_NNODES": "2", "SLURM_JOB_ID": "7"}
    done = script("train.sbatch", "recipe.yaml", "runs/mine", **values)
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert words[0] == "torchrun"
    assert {"--nnodes=2", "--nproc-per-node=4", "--rdzv-endpoint=first:29500"} <= set(words)
    assert words[words.index("-m") :] == (
        ["-m", "refusion", "train", "recipe.yaml", "--out", "runs/mine", "--nodes", "2", "--devices", "4"]
    )
