"""Downscaling and upscaling of pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def antialiased(
    pictures: Float[Tensor, "b c h w"], size: Sequence[int], mode: str = "bilinear"
) -> Float[Tensor, "b c new_h new_w"]:
    """Resize pictures to a height and width, without aliasing.

    torch's filter is wrong for a memory format of channels last and a side of 1, so it gets contiguous ones.
    """
    return F.interpolate(pictures.contiguous(), list(size), mode=mode, antialias=True)


def reduced(pictures: Float[Tensor, "b c h w"], factor: int) -> Float[Tensor, "b c reduced_h reduced_w"]:
    """Reduce pictures by a bicubic with antialiasing and a = -1/2, as MATLAB's imresize; cut the rest."""
    height, width = pictures.shape[-2] // factor, pictures.shape[-1] // factor
    whole = pictures[..., : height * factor, : width * factor]
    return antialiased(whole, (height, width), "bicubic").clamp(0, 1)


def fitted(pictures: Float[Tensor, "b c h w"], side: int) -> Float[Tensor, "b c fitted_h fitted_w"]:
    """Reduce pictures until the longest side is `side`; smaller ones stay as they are."""
    height, width = pictures.shape[-2:]
    scale = side / max(height, width)
    if scale >= 1:
        return pictures
    return antialiased(pictures, (max(1, round(height * scale)), max(1, round(width * scale))))


@dataclass(frozen=True)
class Enlarge:
    """The enlargement of an input picture, the first step of super-resolution.

    Args:
        factor: by which each side grows; 1 leaves the picture as it is.
        mode: "bicubic" (a = -1/2, clipped to [0, 1]) or "nearest", which published weights expect.

    Raises:
        ValueError: the factor is not in 1 ... 16.
    """

    factor: int = 1
    mode: Literal["bicubic", "nearest"] = "bicubic"

    def __post_init__(self) -> None:
        if not 1 <= self.factor <= 16:
            raise ValueError(f"factor is {self.factor}: give 1 to 16")

    def __call__(self, pictures: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c larger_h larger_w"]:
        """Enlarge pictures in [0, 1]."""
        if self.factor == 1:
            return pictures
        size = [side * self.factor for side in pictures.shape[-2:]]
        if self.mode == "nearest":
            return F.interpolate(pictures, size, mode="nearest")
        return antialiased(pictures, size, "bicubic").clamp(0, 1)
