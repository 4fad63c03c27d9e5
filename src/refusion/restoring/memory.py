"""The free memory of a device."""

import psutil
import torch

from refusion.allocator import release_freed_memory
from refusion.restoring.cgroups import bytes_left

COPY = 12
"""Bytes of a pixel of a picture in float32."""


def free_memory(device: torch.device) -> int:
    """Return the bytes that this process may still take.

    On a CPU within the limits of its containers; memory that was freed and kept is given back before.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type == "mps":
        return max(0, torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    release_freed_memory()
    return min([psutil.virtual_memory().available, *bytes_left()])
