"""What the allocator keeps, in a process of its own: the settings hold to its end."""

import os
import platform
import subprocess
import sys

import pytest

from refusion.allocator import KEPT

PROGRAM = """
import os
import numpy as np, psutil
from refusion.allocator import KEPT, keep_freed_memory, release_freed_memory

size = 48 * 2**20  # bytes: above the threshold of glibc, below ours

def resident():
    return psutil.Process().memory_info().rss

keep_freed_memory()
before = resident()
np.ones(size, np.uint8)
kept = resident() - before > size / 2
release_freed_memory()
print(kept, resident() - before > size / 2, *(os.environ[name] for name in KEPT))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
@pytest.mark.parametrize("set_before", [False, True])
def test_what_is_freed_is_kept_until_it_is_released(set_before: bool) -> None:
    """Unless the user has said how much."""
    unset = {name: value for name, value in os.environ.items() if name not in KEPT}
    chosen = dict.fromkeys(KEPT, "65536") if set_before else {}
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=unset | chosen, capture_output=True, text=True, check=True
    ).stdout.split()
    values = chosen.values() if set_before else [str(value) for _, value in KEPT.values()]
    assert told == [str(not set_before), "False", *values]
