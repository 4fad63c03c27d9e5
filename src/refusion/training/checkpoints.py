"""The files that a run resumes from: written whole or not at all, and checked when they are read.

A checkpoint is what `torch.save` writes: a zip file, in which every record has a CRC-32. `torch.load` does
not look at it, so that a flipped bit would become a weight; `read` does. Nothing in the file is executed.
"""

import contextlib
import os
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from refusion.errors import CheckpointError, RefusionError, first_line
from refusion.files import atomic

LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"
"""The checkpoint that `LAST` replaced."""
DAMAGED = "damaged.ckpt"
BEST = "best-step=*.ckpt"

Content = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """The checkpoint to go on from.

    Args:
        content: see `refusion.training.stage.save`.
        path: of its file.
        passed_over: one clause for each newer file that is damaged or missing.
    """

    content: Content
    path: Path
    passed_over: tuple[str, ...] = ()

    @property
    def step(self) -> int:
        return int(self.content["global_step"])


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file in the error of one that cannot be written, as on a full disk.

    Raises:
        RefusionError: the system refuses; the message has its reason and `path`.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise RefusionError(
            f"{path}: {reason}; what was saved before is whole: make room for it and give the same command"
        ) from error


def write(path: Path, content: Content) -> None:
    """Write a checkpoint, whole or not at all; an earlier `LAST` becomes `PREVIOUS`.

    Raises:
        RefusionError: see `writing`.
    """
    with writing(path), atomic(path) as part:
        with part.open("wb") as file:  # of a path alone, torch does not tell why it cannot be written
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        if path.name == LAST and path.exists():
            _keep(path, path.with_name(PREVIOUS))


def _keep(path: Path, under: Path) -> None:
    """Give a file a second name, in place of what had it; not where the file system has no links."""
    with contextlib.suppress(OSError), atomic(under) as link:
        link.unlink()  # an empty file stands for it
        link.hardlink_to(path)


def set_aside(folder: Path) -> None:
    """Rename a damaged `LAST`, so that it does not become `PREVIOUS`."""
    if (folder / LAST).exists():
        (folder / LAST).replace(folder / DAMAGED)


def read(path: Path) -> Content:
    """Read a checkpoint and check its sums.

    Raises:
        CheckpointError: it is missing, truncated or damaged.
    """
    try:
        with zipfile.ZipFile(path) as records:
            broken = records.testzip()
        if broken is not None:
            raise CheckpointError(f"{path} is damaged: wrong checksum of {broken}")
        content: Content = torch.load(path, weights_only=True, map_location="cpu")
        return content
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except Exception as error:  # zipfile, zlib and torch raise many types for damaged files
        raise CheckpointError(f"{path} is damaged: {first_line(error)}") from error


def newest(folder: Path) -> Found | None:
    """Return the newest whole checkpoint of a stage's folder, and say so if it is not `LAST`; None of none.

    Raises:
        CheckpointError: there are checkpoints, and all of them are damaged.
    """
    older = [folder / PREVIOUS, *sorted(folder.glob(BEST), key=_step, reverse=True)]
    older = [path for path in older if path.exists()]
    if not older and not (folder / LAST).exists():
        return None
    passed_over: list[str] = []
    found: Found | None = None
    for path in (folder / LAST, *older):
        if found is not None and (path.name != PREVIOUS and _step(path) <= found.step):
            continue
        try:
            content = read(path)
        except CheckpointError as error:
            passed_over.append(str(error))
            continue
        if found is None or content["global_step"] > found.step:
            found = Found(content, path)
        if path.name == LAST:
            break
    if found is None:
        raise CheckpointError(f"{'; '.join(passed_over)}: no whole checkpoint is left; give another folder")
    return Found(found.content, found.path, tuple(passed_over))


def read_newest(folder: Path) -> Found | None:
    """Return `newest`, and warn if it is not the last one."""
    found = newest(folder)
    if found is not None and found.passed_over:
        _say(found)
    return found


def read_best(folder: Path, ranked: Sequence[tuple[float, str]]) -> Found | None:
    """Return the first whole one of a run's best checkpoints, and warn if others were passed over.

    Args:
        folder: of the stage.
        ranked: PSNR and name of each, best first.
    """
    passed_over: list[str] = []
    for _, name in ranked:
        try:
            found = Found(read(folder / name), folder / name, tuple(passed_over))
        except CheckpointError as error:
            passed_over.append(str(error))
            continue
        if passed_over:
            _say(found)
        return found
    return None


def _say(found: Found) -> None:
    said = "; ".join(found.passed_over)
    warnings.warn(f"{said}: going on from {found.path.name}, step {found.step}", stacklevel=3)


def _step(path: Path) -> int:
    """Return the step in the name of a best checkpoint."""
    number = path.stem.rpartition("=")[2]
    return int(number) if number.isdecimal() else -1
