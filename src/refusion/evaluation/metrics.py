"""PSNR and SSIM as in the literature, of arrays in [0, 1].

`Scores` in `evaluate.py` are made of these. Metrics that `--metric` names are in `perceptual.py`: `METRICS`;
those take batches of pictures.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Array = Float[np.ndarray, "h w c"]
Pictures = Float[Tensor, "b 3 h w"]
BLOCK = 2**18
"""Pixels that are compared at a time."""


def luma(rgb: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w 1"]:
    """Return Y of ITU-R BT.601 in studio range, 16/255 ... 235/255, as MATLAB's rgb2ycbcr."""
    weights = np.array([65.481, 128.553, 24.966], dtype=np.float64) / 255
    return (rgb.astype(np.float64) @ weights + 16 / 255)[..., None]


def extended(x: Pictures, side: int) -> Float[Tensor, "b 3 extended_h extended_w"]:
    """Return pictures of at least `side` pixels a side: smaller ones are continued by their border."""
    height, width = x.shape[-2:]
    return F.pad(x, (0, max(0, side - width), 0, max(0, side - height)), mode="replicate")


def psnr(a: Array, b: Array) -> float:
    """Return the peak signal-to-noise ratio in dB; infinite for equal pictures.

    Raises:
        ValueError: the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"pictures of different shapes {a.shape} and {b.shape}: give equal ones")
    total: float = sum(
        float(np.square(a[rows].astype(np.float64) - b[rows]).sum()) for rows in _blocks(a, len(a))
    )
    error = total / max(1, a.size)
    return float("inf") if error == 0 else -10 * float(np.log10(error))


def ssim(a: Array, b: Array) -> float:
    """Return the structural similarity (Wang et al. 2004), as computed by their MATLAB program.

    The Gaussian window is 11 x 11 with sigma 1.5 and lies inside the picture; pictures with a side under 11
    use the largest odd window that fits. The result is the mean over positions and channels.

    Raises:
        ValueError: the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"pictures of different shapes {a.shape} and {b.shape}: give equal ones")
    size = min(11, (min(a.shape[:2]) - 1) // 2 * 2 + 1)
    offsets = torch.arange(size) - size // 2
    window = torch.exp(-(offsets**2) / (2 * 1.5**2))
    window = window / window.sum()

    positions = len(a) - size + 1
    blocks = (slice(rows.start, rows.stop + size - 1) for rows in _blocks(a, positions))
    total = sum(_similarity(a[rows], b[rows], window) for rows in blocks)
    return float(total / max(1, positions * (a.shape[1] - size + 1) * a.shape[2]))


def _blocks(picture: Array, rows: int) -> Iterator[slice]:
    """Yield slices of so many rows in blocks of bounded memory."""
    step = max(1, BLOCK // picture.shape[1])
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def _similarity(a: Array, b: Array, window: Tensor) -> float:
    """Return the sum of the structural similarity over positions and channels."""
    # Centred at grey, float32 is within 1e-5 of float64; one group per map is five times faster than a batch.
    x = torch.from_numpy((a - 0.5).astype(np.float32)).permute(2, 0, 1)
    y = torch.from_numpy((b - 0.5).astype(np.float32)).permute(2, 0, 1)
    maps = torch.cat([x, y, x * x, y * y, x * y])[None]
    columns = window.reshape(1, 1, -1, 1).expand(maps.shape[1], 1, -1, 1)
    blurred = F.conv2d(F.conv2d(maps, columns, groups=len(columns)), columns.mT, groups=len(columns))
    mean_x, mean_y, square_x, square_y, product = blurred[0].chunk(5)
    var_x, var_y, cov = square_x - mean_x**2, square_y - mean_y**2, product - mean_x * mean_y
    mean_x, mean_y = mean_x + 0.5, mean_y + 0.5
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_x * mean_y + c1) * (2 * cov + c2)
    similarity /= (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return float(similarity.double().sum())
