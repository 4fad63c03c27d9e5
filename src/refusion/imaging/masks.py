"""Masks of the missing parts of a picture: (1, h, w), 1 in a hole and 0 elsewhere."""

import re

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Picture = Float[Tensor, "3 h w"]
Mask = Float[Tensor, "1 h w"]


def apply_mask(picture: Picture, mask: Mask) -> Picture:
    """Return the picture with white holes, gt m + (1 - m) with m = 1 - mask, as published models expect it.

    Args:
        mask: 1 in a hole, 0 elsewhere.
    """
    return picture * (1 - mask) + mask


def mask_from_colour(picture: Picture, colour: str, tolerance: float = 0.12) -> Mask:
    """Return the mask of the pixels of one colour, widened by one pixel for soft edges.

    Args:
        colour: as "#ff00ff", six hexadecimal digits.
        tolerance: largest difference of a channel; JPEG changes a painted colour a little.

    Raises:
        ValueError: the colour is written otherwise.
    """
    digits = colour.removeprefix("#")
    if not re.fullmatch("[0-9a-fA-F]{6}", digits):
        raise ValueError(f"colour is {colour!r}: give six hexadecimal digits, as #ff00ff")
    rgb = torch.tensor(list(bytes.fromhex(digits)))[:, None, None] / 255
    painted = ((picture - rgb).abs().amax(0, keepdim=True) <= tolerance).float()
    return F.max_pool2d(painted, 3, 1, 1)
