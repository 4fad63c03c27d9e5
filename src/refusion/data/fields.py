"""Random fields and outlines for synthetic degradations."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

Picture = Float[Tensor, "3 h w"]
Field = Float[Tensor, "1 h w"]


def smooth_field(size: tuple[int, int], rng: np.random.Generator) -> Field:
    """Return a smooth random field from 0 to 1: 2 to 4 octaves of noise, each half as strong as the last."""
    field = torch.zeros(1, 1, *size)
    coarse = int(rng.integers(2, 5))
    for octave in range(int(rng.integers(2, 5))):
        grid = coarse * 2**octave
        noise = torch.from_numpy(rng.normal(size=(1, 1, grid, grid))).float()
        field += F.interpolate(noise, size, mode="bicubic", align_corners=True) / 2**octave
    return stretch(field[0])


def stretch(field: Field) -> Field:
    """Return the field stretched to 0 ... 1; all 0 if it is flat."""
    low, high = field.aminmax()
    return (field - low) / (high - low).clamp(min=1e-6)


def smooth_relief(size: tuple[int, int], rng: np.random.Generator) -> Field:
    """Return a random field from 0 to 1 with a few bumps, independent of its size."""
    coarse = smooth_field((4, 4), rng)[None]
    return F.interpolate(coarse, size, mode="bicubic", align_corners=True)[0].clamp(0, 1)


def front_opacity(size: tuple[int, int], rng: np.random.Generator) -> Field:
    """Return the opacity of a foreground: 1 to 3 smooth blobs with soft edges, mostly at the bottom."""
    y, x = torch.meshgrid(torch.arange(float(size[0])), torch.arange(float(size[1])), indexing="ij")
    opacity = torch.zeros(1, *size)
    waves = torch.arange(1.0, 5)[:, None, None]
    for _ in range(int(rng.integers(1, 4))):
        across, low, tall = rng.uniform((0, 0.4, 1), (1, 1.1, 2))
        right, down = x - across * size[1], (y - low * size[0]) / tall
        height = torch.from_numpy(rng.uniform(0, 0.3, (4, 1, 1))).float()
        phase = torch.from_numpy(rng.uniform(0, 2 * math.pi, (4, 1, 1))).float()
        bumps = (height / waves * torch.cos(waves * torch.atan2(down, right) + phase)).sum(0)
        outline = min(size) * rng.uniform(0.12, 0.35) * (1 + bumps)
        edge = (outline - torch.hypot(right, down)) / rng.uniform(1, 2)
        opacity = opacity.maximum((edge + 0.5).clamp(0, 1))
    return opacity


def front_picture(clean: Picture, rng: np.random.Generator) -> Picture:
    """Return another part of the picture, brighter or darker; the picture is mirrored at its border."""
    width = clean.shape[-1]
    start = int(rng.integers(width // 4 + 1, 2 * width - width // 4))
    columns = mirrored_positions(width, start, start + width)
    return (rng.uniform(0.6, 1.4) * clean[:, :, columns]).clamp(0, 1)


def mirrored_positions(side: int, start: int, end: int) -> Int[Tensor, " n"]:
    """Return positions start ... end - 1 on a side that is mirrored at its ends repeatedly."""
    position = torch.arange(start, end) % (2 * side)
    return position.minimum(2 * side - 1 - position)
