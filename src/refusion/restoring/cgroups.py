"""Memory and processors that the control groups of Linux, versions 1 and 2, leave to this process."""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def bytes_left() -> Iterator[int]:
    """Yield the bytes left in each group that limits the memory of this process."""
    for group, version in _groups("memory"):
        names = ("memory.max", "memory.current", "inactive_file")
        if version == 1:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        with contextlib.suppress(OSError, ValueError):  # some containers do not let their limits be read
            yield from _left(group, *names)


def cores() -> int:
    """Return the processors on which this process may run, within the shares of its groups; at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    for group, version in _groups("cpu"):
        with contextlib.suppress(OSError, ValueError):
            if version == 1:
                quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            else:
                quota, period = (group / "cpu.max").read_text().split()
            if float(quota) > 0:
                count = min(count, math.ceil(float(quota) / float(period)))
    return max(1, count)


def _groups(controller: str) -> Iterator[tuple[Path, int]]:
    """Yield the folder of each group that a controller has for this process, and the version of its files."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = MEMBERSHIP.read_text().splitlines()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root, version = (CGROUPS / controller, 1) if controllers else (CGROUPS, 2)
        group = root / path.strip("/")
        yield from ((place, version) for place in (group, *group.parents) if place.is_relative_to(root))


def _left(group: Path, limit: str, used: str, cached: str) -> Iterator[int]:
    """Yield the bytes left in a group, if it has a limit. Cached files count as free: they make room."""
    max_bytes = (group / limit).read_text().strip()
    if max_bytes != "max":
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used_bytes = int((group / used).read_text()) - int(stat.get(cached, 0))
        yield max(0, int(max_bytes) - used_bytes)
