"""Free memory of a device, and the memory that a restoration needs at least."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from refusion.errors import ImageError

COPY = 12
"""Bytes of a pixel of a picture in float32."""
SLACK = 2**27
"""Bytes that work takes besides its pictures and states."""
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


@dataclass(frozen=True)
class Demand:
    """The least memory that a restoration needs, in bytes.

    Args:
        host: for pictures.
        device: for states, codec and network; on a CPU it is taken from the same memory.
    """

    host: int
    device: int

    def admit(self, subject: str, device: torch.device) -> None:
        """Raise an error if the memory does not suffice.

        Args:
            subject: name and size of the picture, for the message.
            device: of the restoration.

        Raises:
            ImageError: it does not suffice; the message says how much is needed and free.
        """
        parts = [(self.host + self.device, device)]
        if device.type != "cpu":
            parts = [(self.host, torch.device("cpu")), (self.device, device)]
        for needed, place in parts:
            free = free_memory(place)
            if needed > free:
                sizes = f"needs {_gib(needed)} of memory and {_gib(free)} are free"
                remedy = "make it smaller, give a smaller --tile if you gave one, or end other programs"
                raise ImageError(f"{subject} {sizes} on {place.type}: {remedy}")


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"


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
