"""A picture on standard input or output: files in a folder of their own stand for it while it is restored."""

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from refusion.remote import Place

INPUT, OUTPUT = "/dev/stdin", "/dev/stdout"
"""The words for standard input and output, on all systems; users write "-", which options begin with."""
LIMIT = 4 * 2**30
"""Most bytes that are taken from standard input."""
HEAD = 64
"""Bytes by which the format of a picture is recognised."""


def spelt_out(tokens: Sequence[str]) -> list[str]:
    """Return the words of a command, in those of `restore` with `INPUT` or `OUTPUT` for each "-"."""
    if tokens[:1] != ["restore"]:
        return list(tokens)
    before = ["", *tokens]
    words = []
    for last, token in zip(before, tokens, strict=False):
        word = OUTPUT if last in ("-o", "--out") else INPUT
        words.append(word if token == "-" else f"{token[:-1]}{OUTPUT}" if token == "--out=-" else token)
    return words


@dataclass(frozen=True)
class Files:
    """The files to restore.

    Args:
        paths: of the pictures.
        out: of the results.
        shown: what the user calls `out`.
        piped: whether the result goes to standard output, and so all messages to stderr.
        folder: that of files which stand for a pipe.
    """

    paths: Sequence[str]
    out: "Place"
    shown: str
    piped: bool = False
    folder: Path | None = None

    def named(self, text: object) -> str:
        """Return a message without the folder, which the user does not know."""
        return str(text).replace(f"{self.folder}{os.sep}", "") if self.folder else str(text)


@contextmanager
def files_of(paths: Sequence[str], out: str | None, form: str | None) -> Iterator[Files]:
    """Yield files that stand for pipes; when the block ends, the result goes to standard output.

    Args:
        paths: of the user; one may be `INPUT`.
        out: of the user, may be `OUTPUT`; by default that of a pipe, else the folder "restored".
        form: suffix of a result on standard output; by default that of the input.

    Raises:
        ValueError: a pipe is not alone, is a terminal, has too many bytes, or has a format without being one.
    """
    from refusion.remote import place

    incoming = INPUT in paths
    outgoing = out == OUTPUT or (incoming and out is None)
    if form is not None and not outgoing:
        raise ValueError(
            "--format is for standard output: the suffix of --out decides, or that of the picture"
        )
    if not (incoming or outgoing):
        folder = place(out or "restored")
        yield Files(paths, folder, str(folder))
        return
    target = None if out is None else place(out)
    if len(paths) > 1 or place(paths[0]).is_dir():
        raise ValueError("- stands for one picture: give one file, or - alone")
    if outgoing and sys.stdout.isatty():
        raise ValueError("standard output is the terminal: add > result.png, or name a file with --out")
    if target is not None and not outgoing and (target.is_dir() or not target.suffix):
        raise ValueError(f"--out is {out}: name a file for the picture on standard input")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = _stored(folder / "standard-input") if incoming else place(paths[0])
        if not outgoing:
            assert target is not None
            yield Files([str(source)], target, str(target), folder=folder)
            return
        suffix = _suffix(source) if form is None else _checked(form)
        target = folder / f"standard-output{suffix}"
        yield Files([str(source)], target, "standard output", piped=True, folder=folder)
        if target.exists():
            sys.stdout.buffer.write(target.read_bytes())
            sys.stdout.buffer.flush()


def _stored(path: Path) -> Path:
    """Store standard input in a file; of what is no picture, the first bytes."""
    from refusion.imaging.formats import is_picture

    if sys.stdin.isatty():
        raise ValueError("standard input is the terminal: add < photo.jpg, or name a file")
    stream = sys.stdin.buffer
    with path.open("wb") as file:
        head = stream.read(HEAD)
        file.write(head)
        while is_picture(head) and (block := stream.read(2**20)):
            file.write(block)
            if file.tell() > LIMIT:
                raise ValueError(f"standard input has more than {LIMIT // 2**30} GiB: name a file")
    return path


def _checked(form: str) -> str:
    """Return the suffix of a format.

    Raises:
        ValueError: it is not written.
    """
    from refusion.imaging.formats import SUFFIXES

    suffix = f".{form.removeprefix('.')}"
    if suffix.lower() not in SUFFIXES:
        raise ValueError(f"--format is {form}: give one of {' '.join(s[1:] for s in SUFFIXES)}")
    return suffix


def _suffix(source: "Place") -> str:
    """Return the suffix in which a picture is written back; .png if there is none."""
    from refusion.imaging.formats import writable_suffix

    if not source.is_file():
        return ".png"
    with source.open("rb") as file:
        return writable_suffix(file.read(HEAD))
