"""Atomic writing of files, and safe reading of tensors: no code in a file is executed."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file

from refusion.errors import CheckpointError, first_line


@contextlib.contextmanager
def atomic(path: Path, source: Path | None = None, dated: bool = True) -> Iterator[Path]:
    """Yield a hidden temporary path beside `path`; it replaces `path` when the block ends without error.

    Args:
        path: of the file.
        source: a file whose permissions it gets, as far as the file system lets it.
        dated: whether it gets the source's time of change, too.
    """
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        if source is not None:
            part.touch(0o600)
        yield part
        if source is not None:
            _copy_state(source, part, dated)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def _copy_state(source: Path, target: Path, dated: bool) -> None:
    with contextlib.suppress(OSError):
        state = source.stat()
        target.chmod(state.st_mode & 0o777 | 0o200)  # writable, so that a later run can replace it
        if dated:
            os.utime(target, ns=(state.st_atime_ns, state.st_mtime_ns))


def load_tensors(path: Path, remedy: str) -> object:
    """Read a safetensors file, or a file that `torch.save` wrote.

    Args:
        path: of the file.
        remedy: what the user can do if there is no such file.

    Raises:
        CheckpointError: there is no such file, it is damaged, or it holds objects that are not tensors.
    """
    try:
        with path.open("rb") as file:
            is_safetensors = file.read(9)[8:] == b"{"
        return load_file(path) if is_safetensors else torch.load(path, "cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}; {remedy}") from error
    except Exception as error:  # torch and safetensors raise many types for damaged files
        raise CheckpointError(f"{path}: damaged, or holds more than tensors ({first_line(error)})") from error
