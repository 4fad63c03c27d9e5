"""Measurements in pictures: the noise of one, and the vertical offset between two views."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Picture = Float[Tensor, "3 h w"]


def estimate_noise_std(picture: Picture) -> float:
    """Estimate the standard deviation of white noise in a picture.

    It is the median of the finest diagonal differences over all colours, divided by 0.6745 (Donoho and
    Johnstone 1994, with Haar's wavelet). Fine texture counts as noise.
    """
    height = picture.shape[-2] // 2 * 2
    width = picture.shape[-1] // 2 * 2
    even, odd = picture[..., 0:height:2, :width], picture[..., 1:height:2, :width]
    diagonal = (even[..., 0::2] - even[..., 1::2] - odd[..., 0::2] + odd[..., 1::2]) / 2
    return float(diagonal.abs().median()) / 0.6745 if diagonal.numel() else 0.0


def vertical_offset(left: Picture, right: Picture) -> float:
    """Estimate how many pixels lower the right view is than the left one; 0 in a rectified pair.

    Rows are matched by their means, which hardly depend on disparity. The error is about a quarter of a pixel
    for offsets up to 8, and at most 10 is reported; noise in small pictures can mislead it.
    """
    reach = min(10, left.shape[-2] // 4)
    if not reach or left.shape[-1] < 2:
        return 0.0
    rows, others = _row_means(left), _row_means(right)
    windows = others.unfold(1, rows.shape[1] - 2 * reach, 1)
    tie_breaker = (torch.arange(-reach, reach + 1.0) * 1e-6).abs()  # of equal costs, the smallest offset
    cost = (windows - rows[:, None, reach:-reach]).abs().mean((0, 2)).cpu() + tie_breaker
    costs: list[float] = cost.tolist()
    best = min(range(len(costs)), key=costs.__getitem__)
    if best in (0, 2 * reach):
        return float(best - reach)
    above = costs[best - 1] ** 2
    lowest = costs[best] ** 2
    below = costs[best + 1] ** 2
    return best - reach + (above - below) / (2 * (above - 2 * lowest + below))  # vertex of a parabola


def _row_means(view: Picture) -> Float[Tensor, "4 h"]:
    """Return row means of brightness and three edge strengths, high-pass filtered, each of std 1."""
    grey = view.mean(0)
    down, across = torch.gradient(grey)
    means = torch.stack([grey, across.abs(), down.relu(), (-down).relu()]).mean(2)
    fine = means - F.avg_pool1d(means, 17, 1, 8, count_include_pad=False)
    return fine / fine.std(1, keepdim=True).clamp(min=1e-6)
