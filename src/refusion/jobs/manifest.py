"""Files of the names of pictures, one a line, of this machine or elsewhere, which are read as a stream."""

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from refusion.errors import ImageError
from refusion.jobs.find import written_suffix
from refusion.remote import Place, Remote, is_remote

SUFFIX = ".txt"


def is_manifest(path: str) -> bool:
    """Return whether a path is taken as a manifest, by its suffix."""
    return path.lower().endswith(SUFFIX) and not os.path.isdir(path)  # noqa: PTH112 - it may be an address


class Row(NamedTuple):
    """A line of a manifest.

    Args:
        path: or address of a picture, as on the command line.
        inner: place of its result in the folder of results.
        problem: a line that says why it has none.
    """

    path: str
    inner: Path
    problem: str = ""


@dataclass(frozen=True)
class Manifest:
    """A file of the names of pictures, one a line, in UTF-8.

    Results keep the whole structure: "a/b.jpg" and "/a/b.jpg" are written to a/b.jpg in the folder of
    results, and "s3://bucket/a/b.jpg" to bucket/a/b.jpg. So that no two rows have one result, all names are
    of the kind of the first one (relative, absolute, or of one protocol), and what is only read gets its new
    suffix behind the old one. Queries of addresses do not count.

    Args:
        path: of the file, or its address.
    """

    path: Place

    def check(self) -> None:
        """Open the file.

        Raises:
            ImageError: it cannot be read.
        """
        next(self.rows(), None)

    def rows(self) -> Iterator[Row]:
        """Yield the lines that are not empty, in their order.

        Raises:
            ImageError: the file cannot be read, or is in UTF-16.
        """
        try:
            binary = self.path.open("rb")
            with io.TextIOWrapper(
                binary, encoding="utf-8-sig", errors="surrogateescape", newline=None
            ) as lines:
                first = ""
                for line in lines:
                    name = line.rstrip("\n")
                    if "\0" in name:
                        raise ImageError(f"{self.path} has zero bytes, as UTF-16 does: save it as UTF-8")
                    if name:
                        first = first or _kind(name)
                        yield _row(name, first)
        except OSError as error:
            raise ImageError(f"{self.path} cannot be read ({error.strerror}): check its name") from error


def _kind(name: str) -> str:
    """Return the kind of a name: its protocol, or whether it is relative or absolute."""
    if is_remote(name):
        return Remote(name).scheme
    return "an absolute path" if Path(name).is_absolute() else "a relative path"


def _row(name: str, kind: str) -> Row:
    path = Path(name)
    inner = Path(Remote(name).inner) if is_remote(name) else path.relative_to(path.anchor)
    if not inner.name:
        return Row(name, inner, f"{name} names no file: give the path of a picture")
    inner = _written(inner)
    if _kind(name) != kind:
        return Row(name, inner, f"{name} is {_kind(name)}, and the first name is {kind}: give two manifests")
    if ".." in inner.parts:
        return Row(name, inner, f"{name}: .. has no place in the folder of results, give a path without it")
    return Row(name, inner)


def _written(inner: Path) -> Path:
    suffix = written_suffix(inner)
    return inner if suffix == inner.suffix else inner.with_name(inner.name + suffix)
