"""An archive of files, made while it is sent."""

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

CHUNK = 2**20


def zipped(files: Sequence[tuple[str, Path]]) -> Iterator[bytes]:
    """Yield the bytes of a ZIP archive of files; pictures are compressed already, so they are stored.

    Args:
        files: name in the archive and place of each; those that vanish meanwhile are left out.
    """
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for name, path in files:
            try:
                source = path.open("rb")
            except FileNotFoundError:
                continue
            info = zipfile.ZipInfo.from_file(path, name, strict_timestamps=False)
            with source, archive.open(info, "w", force_zip64=True) as entry:
                while chunk := source.read(CHUNK):
                    entry.write(chunk)
                    yield sink.take()
    yield sink.take()


def unique_names(names: Sequence[str]) -> list[str]:
    """Return file names of which no two are equal, "a.png" and "a (2).png"; letter case does not count."""
    taken: set[str] = set()
    unique: list[str] = []
    for name in names:
        path, number, chosen = PurePath(name), 1, name
        while chosen.casefold() in taken:
            number += 1
            chosen = f"{path.stem} ({number}){path.suffix}"
        taken.add(chosen.casefold())
        unique.append(chosen)
    return unique


class _Sink:
    """A file that can only be written; what was written is taken from it."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes, /) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Do nothing: there is nothing below."""

    def close(self) -> None:
        """Do nothing: what was written can still be taken."""

    def take(self) -> bytes:
        """Return what was written since the last call."""
        parts, self._parts = self._parts, []
        return b"".join(parts)
