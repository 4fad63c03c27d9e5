"""The free memory of a device."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

COPY = 12
"""Bytes of a pixel of a picture in float32."""
CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def free_memory(device: torch.device) -> int:
    """Return the bytes that this process may still take; on a CPU within the limits of its containers."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type == "mps":
        return max(0, torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return min([psutil.virtual_memory().available, *_left_in_containers()])


def _left_in_containers() -> Iterator[int]:
    """Yield the bytes left in each control group of Linux, version 1 or 2, that limits this process."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = MEMBERSHIP.read_text().splitlines()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        root = CGROUPS / "memory"
        if not controllers:
            names, root = ("memory.max", "memory.current", "inactive_file"), CGROUPS
        elif "memory" not in controllers.split(","):
            continue
        group = root / path.strip("/")
        for place in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError):  # some containers do not let their limits be read
                if place.is_relative_to(root) and (place / names[0]).exists():
                    yield from _left(place, *names)


def _left(group: Path, limit: str, used: str, cached: str) -> Iterator[int]:
    """Yield the bytes left in a group, if it has a limit. Cached files count as free: they make room."""
    max_bytes = (group / limit).read_text().strip()
    if max_bytes != "max":
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used_bytes = int((group / used).read_text()) - int(stat.get(cached, 0))
        yield max(0, int(max_bytes) - used_bytes)
