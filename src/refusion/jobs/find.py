"""Search for pictures by files, folders and patterns."""

import glob
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from refusion.errors import ImageError
from refusion.files import kinds
from refusion.imaging.formats import READABLE
from refusion.imaging.raw import INSTALLING, RAW_SUFFIXES, can_develop


class Found(NamedTuple):
    """The files of one path: pictures in the order of people, and others, which are not restored."""

    pictures: list[Path]
    others: list[Path]


def find(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the pictures of files, folders and patterns, each once.

    A file counts whatever its name. A folder stands for the files in it and its subfolders that end in one of
    `READABLE`, or are camera raw by their names if rawpy is installed, and are not hidden, 2.png before
    10.png. A pattern (`*`, `?`, `[abc]`, `**`) stands for those
    of all that it matches, for shells that do not expand patterns, as on Windows.

    Raises:
        ImageError: one of `paths` does not exist or has no pictures.
    """
    return list(dict.fromkeys(found for path in paths for found in search(path).pictures))


def search(path: str | os.PathLike[str]) -> Found:
    """Return the files of a file, a folder or a pattern; see `find`.

    Raises:
        ImageError: there is no such path, or it has no pictures.
    """
    path = Path(path)
    if path.is_file():
        return Found([path], [])
    if path.exists() and not path.is_dir():
        raise ImageError(f"{path} is a pipe, device or socket: save the picture in a file first")
    if path.is_dir():
        files = _inside(path)
    elif glob.has_magic(str(path)):
        matches = [Path(match) for match in glob.glob(str(path), recursive=True)]  # noqa: PTH207 - Path.glob knows no absolute patterns
        files = list(dict.fromkeys(file for match in matches for file in _inside(match)))
    else:
        raise ImageError(f"{path} does not exist: check its name and folder")
    suffixes = (*READABLE, *RAW_SUFFIXES) if can_develop() else READABLE
    pictures = [file for file in files if file.suffix.lower() in suffixes]
    others = [file for file in files if file.suffix.lower() not in suffixes]
    if not pictures:
        held = f", only {kinds_of(others)}" if others else ""
        expected = f"expected files that end in one of {' '.join(READABLE)}"
        raise ImageError(f"{path} gives no pictures{held}: {expected}")
    return Found(sorted(pictures, key=_natural), others)


def kinds_of(others: Iterable[Path]) -> str:
    """Return the suffixes of files that are passed over, their counts, and how camera raw would be read."""
    others = list(others)
    raw = not can_develop() and any(file.suffix.lower() in RAW_SUFFIXES for file in others)
    return f"{kinds(others)} (camera raw: {INSTALLING})" if raw else kinds(others)


def _inside(place: Path) -> list[Path]:
    """Return the files in a folder that are not hidden; for a file, itself."""
    inside = [
        path for path in place.rglob("*") if not any(p[0] == "." for p in path.relative_to(place).parts)
    ]
    return [path for path in [place, *inside] if path.is_file()]


def _natural(path: Path) -> tuple[list[list[str | int]], Path]:
    """Return a sort key by which numbers are ordered by value; each odd piece of the split is a number."""
    pieces = [re.split(r"([0-9]+)", part.casefold()) for part in path.parts]
    return [[int(piece) if i % 2 else piece for i, piece in enumerate(part)] for part in pieces], path
