"""A run resumes from a whole checkpoint or says that there is none; nothing damaged becomes a weight."""

import contextlib
import random
from pathlib import Path

import pytest
import torch

from refusion.errors import CheckpointError, RefusionError
from refusion.training import checkpoints
from refusion.training.checkpoints import LAST, PREVIOUS


def content(step: int) -> checkpoints.Content:
    torch.manual_seed(step)
    return {"global_step": step, "best": [(1.5, "a")], "state_dict": {"weight": torch.randn(40)}}


def run(folder: Path, *steps: int, best: tuple[int, ...] = ()) -> Path:
    """Write the checkpoints of a run."""
    for step in sorted({*steps, *best}):
        if step in best:
            checkpoints.write(folder / f"best-step={step}.ckpt", content(step))
        if step in steps:
            checkpoints.write(folder / LAST, content(step))
    return folder


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def same(a: object, b: object) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    return a == b


def test_a_flipped_bit_is_found_or_changes_nothing(tmp_path: Path) -> None:
    """At any place of the file; torch itself finds some only."""
    file = tmp_path / LAST
    checkpoints.write(file, content(1))
    whole = file.read_bytes()
    harmless = 0
    for bit in random.Random(0).sample(range(8 * len(whole)), 150):
        file.write_bytes(whole)
        flip(file, bit)
        with contextlib.suppress(CheckpointError):
            assert same(checkpoints.read(file), content(1)), bit
            harmless += 1
    assert harmless < 120


def test_a_flipped_bit_of_a_weight_is_found(tmp_path: Path) -> None:
    file = tmp_path / LAST
    checkpoints.write(file, content(1))
    weight = content(1)["state_dict"]["weight"].numpy().tobytes()
    flip(file, 8 * file.read_bytes().index(weight) + 3)
    assert not same(torch.load(file, weights_only=True), content(1))
    with pytest.raises(CheckpointError, match="damaged: wrong checksum"):
        checkpoints.read(file)


def test_a_cut_file_is_found_at_any_length(tmp_path: Path) -> None:
    file = tmp_path / LAST
    checkpoints.write(file, content(1))
    whole = file.read_bytes()
    for length in range(0, len(whole), 197):
        file.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="damaged"):
            checkpoints.read(file)


@pytest.mark.parametrize(
    ("damaged", "expected"),
    [
        ((), (LAST, 9)),
        ((LAST,), (PREVIOUS, 6)),
        ((LAST, PREVIOUS), ("best-step=5.ckpt", 5)),
        ((LAST, PREVIOUS, "best-step=5.ckpt"), ("best-step=3.ckpt", 3)),
    ],
)
def test_the_newest_whole_one_is_found(
    tmp_path: Path, damaged: tuple[str, ...], expected: tuple[str, int]
) -> None:
    run(tmp_path, 3, 6, 9, best=(3, 5))
    for name in damaged:
        cut(tmp_path / name)
    found = checkpoints.newest(tmp_path)
    assert found is not None
    assert (found.path.name, found.step) == expected
    assert same(found.content, content(found.step))
    for name, clause in zip(damaged, found.passed_over, strict=True):
        assert f"{name} is damaged" in clause


def test_a_best_one_that_is_newer_than_the_previous_one_is_taken(tmp_path: Path) -> None:
    run(tmp_path, 6, 9, best=(8,))
    cut(tmp_path / LAST)
    found = checkpoints.newest(tmp_path)
    assert found is not None
    assert found.path.name == "best-step=8.ckpt"


def test_a_missing_last_one_is_no_beginning(tmp_path: Path) -> None:
    (run(tmp_path, 6, 9) / LAST).unlink()
    with pytest.warns(UserWarning, match=r"last\.ckpt is missing: going on from previous\.ckpt, step 6"):
        checkpoints.read_newest(tmp_path)


def test_none_is_a_beginning_and_none_whole_an_error(tmp_path: Path) -> None:
    assert checkpoints.newest(tmp_path) is None
    for path in run(tmp_path, 6, 9, best=(6,)).glob("*.ckpt"):
        cut(path)
    with pytest.raises(CheckpointError, match=r"no whole checkpoint is left; give another folder$"):
        checkpoints.newest(tmp_path)


def test_the_best_whole_one_is_found(tmp_path: Path) -> None:
    run(tmp_path, 9, best=(3, 5))
    ranked = [(30.0, "best-step=3.ckpt"), (29.0, "best-step=5.ckpt")]
    best = checkpoints.read_best(tmp_path, ranked)
    assert best is not None
    assert best.step == 3
    cut(tmp_path / "best-step=3.ckpt")
    with pytest.warns(UserWarning, match=r"best-step=3\.ckpt is damaged.* going on from best-step=5\.ckpt"):
        best = checkpoints.read_best(tmp_path, ranked)
    assert best is not None
    assert best.step == 5
    cut(tmp_path / "best-step=5.ckpt")
    assert checkpoints.read_best(tmp_path, ranked) is None


def test_a_full_disk_is_one_line_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full is a disk without room; what was saved before stays."""
    run(tmp_path, 3, 6)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    opened = Path.open

    def full(self: Path, mode: str = "r", *rest: object, **named: object) -> object:
        return opened(Path("/dev/full") if "w" in mode else self, mode, *rest, **named)  # type: ignore[call-overload]

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(RefusionError, match=r"last\.ckpt: No space left on device; .*whole") as said:
            checkpoints.write(tmp_path / LAST, content(9))
    assert "\n" not in str(said.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
