"""Small restorers in which every weight counts, and what is asked of them."""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import manual_seed, nn

from refusion.diffusion.prediction import Clean
from refusion.diffusion.sde import SDE
from refusion.errors import Notice
from refusion.imaging.resize import Enlarge
from refusion.nn.nafnet import ConditionalNAFNet
from refusion.restoring.codec import Codec, Pixels
from refusion.restoring.request import Result, Sampling
from refusion.restoring.restorer import Restorer
from refusion.restoring.tiling import TilingPolicy

TILED = TilingPolicy(max_whole=1600, patch=16, max_patches=6, min_state_tile=20)
"""A state of more than 40 x 40 positions is always tiled."""


def small_restorer(
    sde: SDE,
    codec: Codec | None = None,
    kind: type[ConditionalNAFNet] = ConditionalNAFNet,
    fixed: str = " ",
    enlarge: Enlarge = Enlarge(),
    sampling: Sampling = Sampling(),
    **network: Any,
) -> Restorer:
    """A network that changes every pixel, with the same weights in every call.

    Args:
        fixed: parameters in whose name this is stay as they start.
        network: arguments of the network's class.
    """
    codec = codec or Pixels(2)
    manual_seed(0)
    small = kind(codec.channels, 4, (1,), 1, (1,), **network)
    for name, parameter in small.named_parameters():
        if fixed not in name:
            nn.init.normal_(parameter, std=0.2)
    return Restorer(small.requires_grad_(False).eval(), codec, sde, Clean(), sampling, enlarge)


def photo(height: int = 13, width: int = 22, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).uniform(0.2, 0.8, (height, width, channels)).astype(np.float32)


def ask(restore: Restorer, *images: object, **options: Any) -> Result:
    """The answer to a whole request, whose warnings stay values."""
    return restore.run(restore.request(*images, **options))


def said(notices: Iterable[Notice]) -> list[tuple[str, str, list[str]]]:
    """Key, level and the numbers in the text of each."""
    return [(notice.key, notice.level, re.findall(r"[+-]?\d+(?:\.\d+)?", notice.text)) for notice in notices]
