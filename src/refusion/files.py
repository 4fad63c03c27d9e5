"""Files that are on the disk whole or not at all, and files of tensors, of which nothing is executed."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file

from refusion.errors import CheckpointError, first_line


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A hidden neighbour of `path` to write to; it takes the place of `path` when the block ends well."""
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def load_tensors(path: Path, remedy: str) -> object:
    """What is in a safetensors file or in one that `torch.save` wrote.

    Raises:
        CheckpointError: there is no such file, for which `remedy` helps; or it is damaged or holds objects.
    """
    try:
        with path.open("rb") as file:
            safe = file.read(9)[8:] == b"{"
        return load_file(path) if safe else torch.load(path, "cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}; {remedy}") from error
    except Exception as error:  # whatever a damaged archive makes its reader say
        raise CheckpointError(f"{path}: damaged, or holds more than tensors ({first_line(error)})") from error
