"""Search for pictures by files, folders and patterns."""

import glob
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from refusion.errors import ImageError
from refusion.files import kinds
from refusion.imaging.formats import READABLE, SUFFIXES
from refusion.imaging.raw import INSTALLING, RAW_SUFFIXES, can_develop
from refusion.remote import Place, Remote, has_magic, place


class Found(NamedTuple):
    """The files of one path: pictures in the order of people, and others, which are not restored."""

    pictures: list[Place]
    others: list[Place]


def find(paths: Iterable[str | os.PathLike[str] | Remote]) -> list[Place]:
    """Return the pictures of files, folders and patterns, each once.

    A file counts whatever its name. A folder stands for the files in it and its subfolders that end in one of
    `READABLE`, or are camera raw by their names if rawpy is installed, and are not hidden, 2.png before
    10.png. A pattern (`*`, `?`, `[abc]`, `**`) stands for those of all that it matches, for shells that do
    not expand patterns, as on Windows.

    Raises:
        ImageError: one of `paths` does not exist or has no pictures.
    """
    return list(dict.fromkeys(found for path in paths for found in search(path).pictures))


def search(path: str | os.PathLike[str] | Remote) -> Found:
    """Return the files of a file, a folder or a pattern, of this machine or elsewhere; see `find`.

    Raises:
        ImageError: there is no such path, it cannot be reached, or it has no pictures.
    """
    found = place(path)
    try:
        files = _remote_files(found) if isinstance(found, Remote) else _local_files(found)
    except OSError as error:
        raise ImageError(f"{path} cannot be listed ({error.strerror}): check name and access") from error
    if files == [found]:
        return Found(files, [])
    suffixes = (*READABLE, *RAW_SUFFIXES) if can_develop() else READABLE
    pictures = [file for file in files if file.suffix.lower() in suffixes]
    others = [file for file in files if file.suffix.lower() not in suffixes]
    if not pictures:
        held = f", only {kinds_of(others)}" if others else ""
        expected = f"expected files that end in one of {' '.join(READABLE)}"
        raise ImageError(f"{path} gives no pictures{held}: {expected}")
    return Found(sorted(pictures, key=_natural), others)


def _local_files(path: Path) -> list[Place]:
    """Return the files of a file, a folder or a pattern.

    Raises:
        ImageError: there is no such path.
    """
    if path.is_file():
        return [path]
    if path.exists() and not path.is_dir():
        raise ImageError(f"{path} is a pipe, device or socket: save the picture in a file first")
    if path.is_dir():
        return [*_inside(path)]
    if glob.has_magic(str(path)):
        matches = [Path(match) for match in glob.glob(str(path), recursive=True)]  # noqa: PTH207 - Path.glob knows no absolute patterns
        return list(dict.fromkeys(file for match in matches for file in _inside(match)))
    raise ImageError(f"{path} does not exist: check its name and folder")


def _remote_files(path: Remote) -> list[Place]:
    """Return the files of an address or of a pattern of addresses.

    Raises:
        ImageError: there is no such address.
    """
    if path.is_file():
        return [path]
    if has_magic(str(path)):
        matches = path.matches()
        inside = [file for match in matches for file in ([match] if match.is_file() else match.files())]
        return list(dict.fromkeys(inside))
    if path.is_dir():
        files = path.files()
        return [file for file in files if not _hidden(file.relative_to(path))]
    raise ImageError(f"{path} does not exist: check its name and folder")


def written_suffix(path: Path) -> str:
    """Return the suffix of a result: the picture's; of what is only read .tif for camera raw, else .png."""
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return path.suffix
    return ".tif" if suffix in RAW_SUFFIXES else ".png"


def kinds_of(others: Iterable[Place]) -> str:
    """Return the suffixes of files that are passed over, their counts, and how camera raw would be read."""
    others = list(others)
    raw = not can_develop() and any(file.suffix.lower() in RAW_SUFFIXES for file in others)
    return f"{kinds(others)} (camera raw: {INSTALLING})" if raw else kinds(others)


def _inside(folder: Path) -> list[Path]:
    """Return the files in a folder that are not hidden; for a file, itself."""
    inside = [path for path in folder.rglob("*") if not _hidden(path.relative_to(folder))]
    return [path for path in [folder, *inside] if path.is_file()]


def _hidden(path: Path) -> bool:
    return any(part[0] == "." for part in path.parts)


def _natural(path: Place) -> tuple[list[list[str | int]], str]:
    """Return a sort key by which numbers are ordered by value; each odd piece of the split is a number."""
    pieces = [re.split(r"([0-9]+)", part.casefold()) for part in path.parts]
    return [[int(piece) if i % 2 else piece for i, piece in enumerate(part)] for part in pieces], str(path)
