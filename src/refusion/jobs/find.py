"""Search for pictures by files, folders and patterns."""

import glob
import os
import re
from collections.abc import Iterable
from pathlib import Path

from refusion.errors import ImageError
from refusion.imaging.formats import SUFFIXES


def find(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the pictures of files, folders and patterns, each once.

    A file counts whatever its name. A folder stands for the files in it and its subfolders that end in one of
    `SUFFIXES` and are not hidden, 2.png before 10.png. A pattern (`*`, `?`, `[abc]`, `**`) stands for those
    of all that it matches, for shells that do not expand patterns, as on Windows.

    Raises:
        ImageError: one of `paths` does not exist or has no pictures.
    """
    return list(dict.fromkeys(found for path in paths for found in _found(Path(path))))


def _found(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if path.exists() and not path.is_dir():
        raise ImageError(f"{path} is a pipe, device or socket: save the picture in a file first")
    if path.is_dir():
        pictures = _inside(path)
    elif glob.has_magic(str(path)):
        matches = [Path(match) for match in glob.glob(str(path), recursive=True)]  # noqa: PTH207 - Path.glob knows no absolute patterns
        pictures = [picture for match in matches for picture in _inside(match)]
    else:
        raise ImageError(f"{path} does not exist: check its name and folder")
    if not pictures:
        raise ImageError(f"{path} gives no pictures: expected files that end in one of {' '.join(SUFFIXES)}")
    return sorted(pictures, key=_natural)


def _inside(place: Path) -> list[Path]:
    """Return the pictures in a folder; for a file, itself."""
    inside = [
        path for path in place.rglob("*") if not any(p[0] == "." for p in path.relative_to(place).parts)
    ]
    return [path for path in [place, *inside] if path.suffix.lower() in SUFFIXES and path.is_file()]


def _natural(path: Path) -> tuple[list[list[str | int]], Path]:
    """Return a sort key by which numbers are ordered by value; each odd piece of the split is a number."""
    pieces = [re.split(r"([0-9]+)", part.casefold()) for part in path.parts]
    return [[int(piece) if i % 2 else piece for i, piece in enumerate(part)] for part in pieces], path
