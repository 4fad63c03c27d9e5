"""Atomic writing of files, names of files, and safe reading of tensors: no code in a file is executed."""

import contextlib
import os
import pickle
import re
import sys
import threading
import time
import unicodedata
import uuid
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import torch
from safetensors.torch import load_file

from refusion.errors import CheckpointError, first_line
from refusion.remote import Place

if sys.platform != "win32":
    import fcntl

PART = re.compile(r"\.[0-9a-f]{32}\.part")
"""Names of the temporary files of `atomic`."""
DAY = 86400.0
"""Seconds after which a temporary file counts as left behind, where files cannot be locked."""
MAX_SHARED = 8
"""Tensors that may share each number on the average; tied weights and their averages do."""
_unfinished: set[Path] = set()  # temporary files of this process, for a signal, which may end it anywhere
_claiming = threading.RLock()  # held while a thread makes one, and by a process that ends


@contextlib.contextmanager
def atomic(path: Path, source: Path | None = None, dated: bool = True) -> Iterator[Path]:
    """Yield a hidden temporary path beside `path`; it replaces `path` when the block ends without error.

    Args:
        path: of the file.
        source: a file whose permissions it gets, as far as the file system lets it.
        dated: whether it gets the source's time of change, too.
    """
    with contextlib.ExitStack() as stack:
        part = _claim(path, stack)
        try:
            if source is not None:
                part.chmod(0o600)
            yield part
            if source is not None:
                _copy_state(source, part, dated)
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            with contextlib.suppress(OSError):
                part.unlink()
            _unfinished.discard(part)


def _claim(path: Path, stack: contextlib.ExitStack) -> Path:
    """Create a temporary file beside `path`, locked for as long as the stack is open."""
    while True:
        part = path.with_name(f".{uuid.uuid4().hex}.part")
        with _claiming:
            _unfinished.add(part)
            try:
                file = part.open("xb")
            except OSError:
                _unfinished.discard(part)
                raise
        if sys.platform == "win32":  # an open file could not be renamed
            file.close()
            return part
        stack.enter_context(file)
        if not _is_dead(part, file) or part.exists():  # else another process swept it before it was locked
            return part
        _unfinished.discard(part)


def discard_unfinished() -> None:
    """Remove the temporary files that this process is writing, before it ends at once; let none be made."""
    _claiming.acquire(timeout=1)
    for part in list(_unfinished):
        with contextlib.suppress(OSError):
            part.unlink()


def user_cache() -> Path:
    """Return the folder for what can be made or loaded again, of this user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "refusion"


def comparable(name: str) -> str:
    """Return the name of a file as it is compared with others: letters and their accents composed.

    macOS and some archives store "é" as two characters, others as one; both look alike and mean one name.
    """
    return unicodedata.normalize("NFC", name)


KINDS_SHOWN = 8
"""Kinds of files that `kinds` names; the rest is counted together."""


def kinds(files: Iterable[Place]) -> str:
    """Return the suffixes of files with their counts, the most frequent first: ".heic (2) .bmp"."""
    counts = Counter(file.suffix.lower() or "(no suffix)" for file in files)
    ordered = sorted(counts.items(), key=lambda kind: (-kind[1], kind[0]))
    shown = [f"{suffix} ({count})" if count > 1 else suffix for suffix, count in ordered[:KINDS_SHOWN]]
    rest = len(ordered) - len(shown)
    return " ".join([*shown, f"and {rest} kinds more"] if rest else shown)


def sweep(folder: Path) -> None:
    """Remove the temporary files that dead processes left in a folder."""
    with contextlib.suppress(OSError):
        for part in folder.iterdir():
            if PART.fullmatch(part.name) and part.is_file():
                with contextlib.suppress(OSError), part.open("rb+") as file:
                    if _is_dead(part, file):
                        part.unlink()


def _is_dead(part: Path, file: IO[bytes]) -> bool:
    """Return whether no process is writing a temporary file, and lock it if so."""
    if sys.platform == "win32":
        return time.time() - part.stat().st_mtime > DAY
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return time.time() - part.stat().st_mtime > DAY
    return True


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
        CheckpointError: there is no such file, it is damaged, it holds objects that are not tensors, or
            tensors that are larger than the file.
    """
    try:
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{path} is not a file; {remedy}")
        with path.open("rb") as file:
            is_safetensors = file.read(9)[8:] == b"{"
        if is_safetensors:
            return load_file(path)
        _check_archive(path)
        with warnings.catch_warnings(action="ignore"):  # torch's, about protocols of pickle
            content = torch.load(path, "cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}; {remedy}") from error
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f"runs {named[1]}, so it was not opened" if named else "damaged, or no file of tensors"
        raise CheckpointError(
            f"{path}: {what}; ask for tensors alone, as safetensors or a state dict"
        ) from error
    except Exception as error:  # torch and safetensors raise many types for damaged files
        raise CheckpointError(f"{path}: damaged, or holds more than tensors ({first_line(error)})") from error
    _check_tensors(content, path)
    return content


def _check_archive(path: Path) -> None:
    """Check that an archive of `torch.save` is not compressed; torch would unpack it to any size.

    Raises:
        CheckpointError: it is.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        size = path.stat().st_size
        if unpacked > size:
            text = f"{size} bytes unpack to {unpacked}; torch writes no such file"
            raise CheckpointError(f"{path}: {text}: get another copy")


def _check_tensors(content: object, path: Path) -> None:
    """Check that tensors take no more memory as copies than they took in the file.

    A stride of 0 makes a tensor of any size of one number; many tensors may share a storage.

    Raises:
        CheckpointError: they take more.
    """
    seen: set[int] = set()
    storages: dict[int, int] = {}
    queue, total = [content], 0
    while queue:
        value = queue.pop()
        if isinstance(value, dict | list | tuple | set):
            if id(value) not in seen:
                seen.add(id(value))
                queue += [*value.keys(), *value.values()] if isinstance(value, dict) else value
        elif isinstance(value, torch.Tensor):
            if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
                raise CheckpointError(f"{path}: holds a tensor that is not dense: convert it first")
            storage = value.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
            total += value.numel() * value.element_size()
            if value.numel() * value.element_size() > storage.nbytes():
                shape = "x".join(map(str, value.shape))
                text = f"holds a tensor of {shape} whose numbers are not all in the file"
                raise CheckpointError(f"{path}: {text}: get another copy")
    if total > MAX_SHARED * sum(storages.values()):
        raise CheckpointError(
            f"{path}: tensors share their numbers, and would take {total} bytes: get another copy"
        )
