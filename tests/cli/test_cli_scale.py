"""Many pictures by shares, manifests, reports and addresses: together the same bytes as one run."""

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from terminal import mask, one_line, photo

from command import Run
from refusion.jobs.report import rows
from refusion.remote import Remote


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
        ("restore a.png --retry-failed --report none.csv", "none.csv does not exist"),
        ("restore a.png -o file:///out", "is no store"),
        ("restore none.txt", "none.txt cannot be read"),
    ],
)
def test_errors_are_one_line(run: Run, model: Path, words: str, part: str) -> None:
    photo("a.png")
    one_line(run(*words.split(), "--model", model), part)
