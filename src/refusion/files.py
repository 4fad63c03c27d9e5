"""Atomic writing of files, names of files, and safe reading of tensors: no code in a file is executed."""

import contextlib
import os
import pickle
import re
import unicodedata
import uuid
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file

from refusion.errors import CheckpointError, first_line


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a hidden temporary path beside `path`; it replaces `path` when the block ends without error."""
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def comparable(name: str) -> str:
    """Return the name of a file as it is compared with others: letters and their accents composed.

    macOS and some archives store "é" as two characters, others as one; both look alike and mean one name.
    """
    return unicodedata.normalize("NFC", name)


KINDS_SHOWN = 8
"""Kinds of files that `kinds` names; the rest is counted together."""


def kinds(files: Iterable[Path]) -> str:
    """Return the suffixes of files with their counts, the most frequent first: ".heic (2) .bmp"."""
    counts = Counter(file.suffix.lower() or "(no suffix)" for file in files)
    ordered = sorted(counts.items(), key=lambda kind: (-kind[1], kind[0]))
    shown = [f"{suffix} ({count})" if count > 1 else suffix for suffix, count in ordered[:KINDS_SHOWN]]
    rest = len(ordered) - len(shown)
    return " ".join([*shown, f"and {rest} kinds more"] if rest else shown)


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
        if is_safetensors:
            return load_file(path)
        with warnings.catch_warnings(action="ignore"):  # torch's, about protocols of pickle
            return torch.load(path, "cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}; {remedy}") from error
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f"runs {named[1]}, so it was not opened" if named else "damaged, or no file of tensors"
        raise CheckpointError(
            f"{path}: {what}; ask for tensors alone, as safetensors or a state dict"
        ) from error
    except Exception as error:  # torch and safetensors raise many types for damaged files
        raise CheckpointError(f"{path}: damaged, or holds more than tensors ({first_line(error)})") from error
