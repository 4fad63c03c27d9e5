"""Synthetic stereo: two views of a scene rendered from one clean picture.

A sharp foreground, another part of the same picture cut out along a random outline, is placed before the
whole picture, so that no hidden background must be invented.
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from refusion.data.fields import Field, Picture, front_opacity, front_picture, smooth_relief


def parallax(clean: Picture, rng: np.random.Generator, largest: float = 0.12) -> tuple[Picture, Picture]:
    """Return a left and a right view: a point at column x of the left one is at x - d of the right one.

    The disparity d is from 0 to `largest` of the width. It varies smoothly within the background, which is
    `clean` on the left, and within a nearer foreground, which covers other parts of it in each view. Columns
    that enter at the right border are mirrored.
    """
    size = (clean.shape[-2], clean.shape[-1])
    total = largest * size[1] * rng.uniform(0.2, 1)
    cut = rng.uniform(0.2, 0.8)
    behind = total * cut * smooth_relief(size, rng)
    before = total * (cut + (1 - cut) * smooth_relief(size, rng))
    front, opacity = front_picture(clean, rng), front_opacity(size, rng)
    cover = warp(torch.cat([front, opacity]), before)
    left = torch.lerp(clean, front, opacity)
    return left, torch.lerp(warp(clean, behind), cover[:3], cover[3:])


def warp(left: Float[Tensor, "c h w"], disparity: Field) -> Float[Tensor, "c h w"]:
    """Return the right view: its column x shows what the left one shows at x + disparity.

    The interpolation is bicubic, clipped to [0, 1]; the border is mirrored.

    Args:
        disparity: in pixels, at each point of the right view.
    """
    height, width = left.shape[-2:]
    x = (torch.arange(width) + disparity[0]) * (2 / max(1, width - 1)) - 1
    y = torch.linspace(-1, 1, height)[:, None].expand_as(x)
    grid = torch.stack([x, y], dim=-1)[None]
    right = F.grid_sample(left[None], grid, mode="bicubic", padding_mode="reflection", align_corners=True)
    return right[0].clamp(0, 1)
