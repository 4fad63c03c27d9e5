"""Degradations that are made, for tasks whose pairs are few or cannot be had.

Each is a value: called with a clean picture and a source of randomness it gives the degraded one, and
the same randomness gives the same picture.
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Picture = Float[Tensor, "3 h w"]
Field = Float[Tensor, "1 h w"]


@runtime_checkable
class Degradation(Protocol):
    """Clean picture in [0, 1] -> degraded picture of the same size."""

    def __call__(self, clean: Picture, rng: np.random.Generator) -> Picture: ...


@dataclass(frozen=True)
class Haze:
    """Uneven haze by atmospheric scattering: I = J t + A (1 - t), t = exp(-density depth) (Koschmieder).

    Depth is made up: it grows along a random direction, mostly upwards, rolls smoothly, and follows
    the picture's own brightness in part, so that it has edges where objects have. The density varies
    smoothly over the picture.

    Args:
        name: what a recipe calls it.
        thin, thick: range of the optical depth at the farthest point, where the density is average.
        uneven: largest density above, and smallest below the average, as powers of e.
        dim: darkest airlight A; the brightest is 1.
        tint: largest deviation of one colour channel of A from grey.

    Raises:
        ValueError: a range is empty or negative.
    """

    name: Literal["Haze"] = "Haze"
    thin: float = 0.3
    thick: float = 2.5
    uneven: float = 1.0
    dim: float = 0.7
    tint: float = 0.04

    def __post_init__(self) -> None:
        if not 0 <= self.thin <= self.thick < math.inf:
            raise ValueError(f"thin {self.thin} and thick {self.thick}: give 0 <= thin <= thick")
        if not (0 < self.dim <= 1 and 0 <= self.uneven < math.inf and 0 <= self.tint < 1):
            values = f"dim {self.dim}, uneven {self.uneven}, tint {self.tint}"
            raise ValueError(f"{values}: give dim and tint from 0 to 1, and uneven at least 0")

    def __call__(self, clean: Picture, rng: np.random.Generator) -> Picture:
        size = (clean.shape[-2], clean.shape[-1])
        up = rng.normal(0, 0.5)
        y, x = torch.meshgrid(*(torch.linspace(0, 1, n) for n in size), indexing="ij")
        slope = _unit((math.sin(up) * x - math.cos(up) * y)[None])
        light = F.avg_pool2d(clean.mean(0, keepdim=True)[None], 7, 1, 3, count_include_pad=False)[0]
        depth = _unit(slope ** rng.uniform(0.5, 2) + rng.uniform(0, 0.7) * smooth_field(size, rng))
        depth = (1 - (share := rng.uniform(0, 0.5))) * depth + share * _unit(light)
        near = rng.uniform(0, 0.5)
        depth = near + (1 - near) * depth
        density = torch.exp(rng.uniform(0, self.uneven) * (2 * smooth_field(size, rng) - 1))
        transmission = torch.exp(-rng.uniform(self.thin, self.thick) * depth * density)
        tint = 1 + self.tint * torch.from_numpy(rng.uniform(-1, 1, (3, 1, 1))).float()
        airlight = (rng.uniform(self.dim, 1) * tint).clamp(0, 1)
        hazy: Picture = clean * transmission + airlight * (1 - transmission)
        return hazy


def smooth_field(size: tuple[int, int], rng: np.random.Generator) -> Field:
    """A smooth random field from 0 to 1: noise of two to four octaves, each half as strong as the last."""
    field = torch.zeros(1, 1, *size)
    coarse = int(rng.integers(2, 5))
    for octave in range(int(rng.integers(2, 5))):
        grid = coarse * 2**octave
        noise = torch.from_numpy(rng.normal(size=(1, 1, grid, grid))).float()
        field += F.interpolate(noise, size, mode="bicubic", align_corners=True) / 2**octave
    return _unit(field[0])


def _unit(field: Field) -> Field:
    """Stretched to 0 ... 1; all 0 if it is flat."""
    low, high = field.aminmax()
    return (field - low) / (high - low).clamp(min=1e-6)
