"""The sliced Wasserstein distance of patches in Laplacian pyramids (Karras et al. 2018, arXiv 1710.10196).

Section 5 compares sets of pictures so: whether the small structures of each size are distributed alike,
wherever they are. It does as well for a restored picture and its original.
"""

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from refusion.evaluation.metrics import Pictures, extended

COARSEST = 16
"""The coarsest level has at least so many pixels a side, and less than twice as many."""
SIDE = 7
"""Of a patch, in pixels."""
PATCHES = 2048
"""Most patches of a level, at positions that are drawn at random, and alike for all pictures of a size."""
PROJECTIONS = 256
SEED = 0

Batches = Iterable[Float[Tensor, "_ 3 _ _"]]
"""A set of pictures, those of one size together."""
Patches = Float[Tensor, "_ 147"]
"""Patches of 3 x 7 x 7, the colours one after another."""


class SlicedWasserstein(nn.Module):
    """The distance of a picture to another, times 1000: the mean over the levels of their pyramids.

    It is symmetric and 0 for equal pictures. Pictures with a side under 16 pixels are continued by their
    border.
    """

    def forward(self, a: Pictures, b: Pictures) -> Float[Tensor, " b"]:
        """Return the distances of pairs of pictures in [0, 1]."""
        return torch.stack([sliced_wasserstein([x[None]], [y[None]]) for x, y in zip(a, b, strict=True)])


def sliced_wasserstein(a: Batches, b: Batches) -> Float[Tensor, ""]:
    """Return the distance of two sets of pictures, times 1000: the mean over the levels of their pyramids.

    Args:
        a: batches of pictures in [0, 1]; the batches may differ in size.
        b: others, as many at each level.

    Raises:
        ValueError: a level of one set has more patches than that of the other.
    """
    levels = [_levels(pictures) for pictures in (a, b)]
    counts = [[len(patches) for patches in one] for one in levels]
    if counts[0] != counts[1]:
        raise ValueError(
            f"{counts[0]} and {counts[1]} patches by level: give sets of as many pictures, in the same sizes"
        )
    return 1000 * torch.stack([_distance(x, y) for x, y in zip(*levels, strict=True)]).mean()


def _levels(batches: Batches) -> list[Patches]:
    """Return the patches of all pictures at each level, from the finest."""
    found: list[list[Patches]] = []
    for batch in batches:
        for i, level in enumerate(laplacian(extended(batch, COARSEST))):
            found += [[]] if i == len(found) else []
            found[i].append(_patches(level))
    return [torch.cat(patches) for patches in found]


def laplacian(x: Pictures) -> list[Float[Tensor, "b 3 _ _"]]:
    """Return the pyramid of Burt and Adelson (1983), from the finest level, which sum up to the pictures."""
    levels = []
    while min(x.shape[-2:]) >= 2 * COARSEST:
        smaller = _smooth(x)[..., ::2, ::2]
        levels.append(x - enlarged(smaller, x))
        x = smaller
    return [*levels, x]


def enlarged(x: Float[Tensor, "b 3 half_h half_w"], ref: Pictures) -> Pictures:
    """Return a level of twice the size, that of `ref`."""
    spread = torch.zeros_like(ref)
    spread[..., ::2, ::2] = x
    return 4 * _smooth(spread)


def _smooth(x: Pictures) -> Pictures:
    """Return pictures under a binomial window of 5 x 5, mirrored at the border."""
    x = F.pad(x, (2, 2, 2, 2), mode="reflect")
    for _ in range(4):  # the sums of neighbours, four times, are the window 1 4 6 4 1
        x = x[..., 1:, :] + x[..., :-1, :]
    for _ in range(4):
        x = x[..., 1:] + x[..., :-1]
    return x / 256


def _patches(level: Pictures) -> Patches:
    """Return patches of a level of every picture: all of them, or as many as `PATCHES`."""
    windows = level.unfold(2, SIDE, 1).unfold(3, SIDE, 1)
    rows, columns = windows.shape[2:4]
    chosen = torch.randperm(rows * columns, generator=torch.Generator().manual_seed(SEED))[:PATCHES]
    chosen = chosen.to(level.device)
    return windows[:, :, chosen // columns, chosen % columns].transpose(1, 2).flatten(2).flatten(0, 1)


def _distance(a: Patches, b: Patches) -> Float[Tensor, ""]:
    """Return the mean distance of the projections of two sets, in deviations of a colour in both of them.

    The paper divides each set by its own deviation, and does not see how strong a structure is.
    """
    both = torch.cat([a, b])
    colours = both.reshape(len(both), 3, -1)
    std, mean = torch.std_mean(colours, (0, 2), keepdim=True)
    scaled = ((colours - mean) / std.clamp(min=1e-6)).flatten(1)
    directions = torch.randn(scaled.shape[1], PROJECTIONS, generator=torch.Generator().manual_seed(SEED))
    projected = (scaled @ (directions / directions.norm(dim=0)).to(scaled)).T.cpu().numpy()
    x, y = np.sort(projected.reshape(PROJECTIONS, 2, -1)).swapaxes(0, 1)  # five times faster than torch's
    return a.new_tensor(np.abs(x - y).mean())
