"""The random numbers of a training step, the same however the step is divided.

All numbers of a step come from one source, whose seed is that of the step's first sample, and are drawn for
all its samples at once; each batch of each process takes those of its own samples. So what a sample is given
depends on the seed and on the samples of the step, not on batches, accumulation and processes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class StepRandom:
    """A source of the random numbers of the scenes of a batch.

    Args:
        generator: of the step, at its beginning; it goes on with every call.
        device: of the numbers.
        scenes: of the whole step.
        first: number of the batch's first scene in the step.
        count: scenes of the batch.
    """

    generator: torch.Generator
    device: torch.device
    scenes: int
    first: int
    count: int

    def integers(self, low: int, high: int) -> Int[Tensor, " scenes"]:
        """Return an integer in [low, high) for each scene."""
        return self._own(torch.randint(low, high, (self.scenes,), **self._source))

    def uniform(self) -> Float[Tensor, " scenes"]:
        """Return a number in [0, 1) for each scene."""
        return self._own(torch.rand(self.scenes, **self._source))

    def normal(self, shape: tuple[int, ...]) -> Float[Tensor, "scenes *shape"]:
        """Return normal numbers of a shape for each scene."""
        return self._own(torch.randn((self.scenes, *shape), **self._source))

    def chances(self, each: int) -> tuple[float, Float[Tensor, " chances"]]:
        """Return a number in [0, 1) for the step, and as many as asked for each scene, in one row."""
        numbers = torch.rand(1 + self.scenes * each, **self._source)
        return float(numbers[0]), self._own(numbers[1:].view(self.scenes, each)).flatten()

    @property
    def _source(self) -> dict[str, Any]:
        return {"generator": self.generator, "device": self.device}

    def _own(self, numbers: Tensor) -> Tensor:
        return numbers[self.first : self.first + self.count]


def seed_of(seed: int, number: int) -> int:
    """Return one seed from two numbers, the same in every process and version of Python."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1, np.uint64)[0] >> 1)
