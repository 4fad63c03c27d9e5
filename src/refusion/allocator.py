"""Memory that was freed stays with the process: every layer of a network makes tensors as large as the last.

By default glibc asks the system for each block of more than 32 MiB, and gives it back when it is freed. The
system fills every page with zeros at its first use, which takes a sixth to a half of the time of restoring
a large picture. Other C libraries are left as they are.
"""

import ctypes
import os
import platform

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # numbers of glibc's malloc.h
KEPT = {
    "MALLOC_MMAP_THRESHOLD_": (MMAP_THRESHOLD, 2**26),  # larger ones would not fit in what is left by others
    "MALLOC_TRIM_THRESHOLD_": (TRIM_THRESHOLD, 2**31 - 1),
}
"""What glibc is told, by the variable that tells it to processes which this one starts."""


def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def keep_freed_memory() -> None:
    """Keep what is freed, in this process and those that it starts; a variable that is set goes before."""
    libc = _libc()
    for variable, (parameter, value) in KEPT.items():
        if libc is not None and variable not in os.environ:
            os.environ[variable] = str(value)
            libc.mallopt(parameter, value)


def release_freed_memory() -> None:
    """Give back to the system what is kept."""
    libc = _libc()
    if libc is not None:
        libc.malloc_trim(0)
