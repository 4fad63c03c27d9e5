"""Means for channel attention: over the whole picture, or over a window around each position.

In tiles, `restoring/tiling.py` measures the means of the whole picture and hands them in.
"""

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Pool = Callable[[Tensor], Tensor]
"""Maps features (b, c, h, w) to the means of a channel attention, (b or 1, c, 1 or h, 1 or w)."""


def whole_mean(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 1 1"]:
    """Return the mean over the picture."""
    return F.adaptive_avg_pool2d(x, 1)


def local_mean(train_size: tuple[int, int], width: int, multiple: int) -> Pool:
    """Return a pool for `ConditionalNAFNet`: the mean over a window around each position.

    This is TLC (Chu et al., arXiv 2112.04491). A network learns from means over patches; those over a large
    picture differ from them. The window is 1.5 times as large as the features were in training. At the
    picture's borders, where the window does not fit, the nearest mean is used.

    Args:
        train_size: height and width of the states in training.
        width: channels of the network at full size; each level halves the sides and doubles the channels.
        multiple: states are padded to multiples of this, the network's `factor`.
    """

    def pool(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c #h #w"]:
        reduced = x.shape[1] // width
        windows = []
        for side in train_size:
            trained = (side + -side % multiple) // reduced
            windows.append(trained * (side * 3 // 2) // side)
        return _box_mean(x, (windows[0], windows[1]))

    return pool


def _box_mean(x: Tensor, window: tuple[int, int]) -> Tensor:
    """Return the mean over a window around each position; an even one reaches further right and down."""
    height, width = x.shape[-2:]
    if window[0] >= height and window[1] >= width:
        return whole_mean(x)
    down, across = min(window[0], height), min(window[1], width)
    means = F.avg_pool2d(F.avg_pool2d(x, (down, 1), 1), (1, across), 1)
    left, top = (across - 1) // 2, (down - 1) // 2
    return F.pad(means, (left, across - 1 - left, top, down - 1 - top), mode="replicate")
