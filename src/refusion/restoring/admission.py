"""Admission: the least memory that restoring a picture takes, compared with what is free."""

import math
from dataclasses import dataclass

import torch

from refusion.errors import ImageError
from refusion.nn.network import Network
from refusion.restoring.codec import Codec
from refusion.restoring.memory import COPY, free_memory
from refusion.restoring.request import Limits
from refusion.restoring.tiling import least_bytes

SLACK = 160 * 2**20
"""Bytes that work takes besides its pictures and states, as measured."""
HEAP = 1.5
"""Bytes that the heap holds, with its holes, for each in which a network works: measured 1.0 to 1.6."""
STATES = 4
"""States in memory at a time: mu, x_t, the output of the network, and the estimate of x_0."""
MORE_STATES = 2
"""Further ones of several steps: noise or earlier estimates, and a sum."""


@dataclass(frozen=True)
class Demand:
    """The least memory that a restoration needs, in bytes.

    Args:
        host: for pictures.
        device: for states, codec and network; on a CPU it is taken from the same memory.
    """

    host: int
    device: int

    def __add__(self, other: "Demand") -> "Demand":
        return Demand(self.host + other.host, self.device + other.device)

    def fits(self, device: torch.device) -> bool:
        """Return whether the memory suffices for a restoration on a device."""
        return all(needed <= free_memory(place) for needed, place in self._parts(device))

    def admit(self, subject: str, device: torch.device) -> None:
        """Raise an error if the memory does not suffice.

        Args:
            subject: name and size of the picture, for the message.
            device: of the restoration.

        Raises:
            ImageError: it does not suffice; the message says how much is needed and free.
        """
        for needed, place in self._parts(device):
            free = free_memory(place)
            if needed > free:
                sizes = f"needs {_gib(needed)} of memory and {_gib(free)} are free"
                remedy = "make it smaller, give a smaller --tile if you gave one, or end other programs"
                raise ImageError(f"{subject} {sizes} on {place.type}: {remedy}")

    def _parts(self, device: torch.device) -> list[tuple[int, torch.device]]:
        if device.type == "cpu":
            return [(self.host + self.device, device)]
        return [(self.host, torch.device("cpu")), (self.device, device)]


@dataclass(frozen=True)
class Work:
    """The size of a restoration: all that decides how much memory it takes besides its network.

    Args:
        size: width and height of the restored picture.
        steps: of the sampler.
        samples: number of restorations.
        enlarged: whether the input picture has fewer pixels.
        masked: whether the request has a mask.
        trajectory: whether the picture after every step is kept.
        solved: whether the holes of a mask are filled by solving an equation, see `harmonic_fill`.
    """

    size: tuple[int, int]
    steps: int
    samples: int = 1
    enlarged: bool = False
    masked: bool = False
    trajectory: bool = False
    solved: bool = False

    @property
    def copies(self) -> int:
        """Pictures in memory: the result; the enlarged input; with a mask three, or five if it is solved; of
        several samples the mean, the squares, a sample and a difference; the trajectory."""
        several, masked = self.samples > 1, 5 if self.solved else 3
        return 1 + self.enlarged + masked * self.masked + 4 * several + self.steps * self.trajectory


def least_demand(work: Work, network: Network, codec: Codec, limits: Limits, on_cpu: bool) -> Demand:
    """Return the least memory that a restoration takes, besides its input pictures.

    Args:
        work: what is restored.
        network, codec: of the model.
        limits: of the request; their budget is not looked at.
        on_cpu: whether states and pictures share a memory.
    """
    (width, height), views = work.size, network.num_views
    rows, columns = codec.state_size(height, width)
    states = 4 * codec.channels * rows * columns * (STATES + MORE_STATES * (work.steps > 1))
    seen = codec.seen_channels(network)
    if seen > codec.channels:  # the maps, their states, and all that the network sees in one tensor
        maps = network.num_guides * (width * height + codec.map_channels * rows * columns)
        states += 4 * (maps + seen * rows * columns)
    tile = limits.tile and math.ceil(limits.tile * max(rows / height, columns / width))
    coding = views * codec.least_bytes(height, width, limits.tile or limits.policy.min_tile)
    walking = int(HEAP * least_bytes(network, rows, columns, limits.policy, tile))
    device = views * states + max(coding, walking) + SLACK
    if not on_cpu:
        device += 2 * COPY * views * width * height
    return Demand(work.copies * COPY * views * width * height, device)


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
