"""A codec turns a picture into what the diffusion sees, and back.

`encode` returns the state space's mu and the features that `decode` needs besides it; sizes travel in
the features. "Latent", "unshuffled" or "reduced" is never a branch anywhere else.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from refusion.resize import antialiased

Pictures = Float[Tensor, "b 3 h w"]
States = Float[Tensor, "b channels state_h state_w"]
Features = tuple[Tensor, ...]


class Encoded(NamedTuple):
    """`mu` enters the diffusion; `features` are what `decode` adds to its result."""

    mu: States
    features: Features
    size: tuple[int, int]
    """Height and width that `decode` cuts its result to."""


class Codec(nn.Module, ABC):
    """Picture (b, 3, h, w) in [0, 1] <-> state (b, channels, h', w')."""

    channels: int
    """Channels of the state."""
    bounds: tuple[float, float] | None
    """The range of a state's values, to which estimates are clamped; None where there is none."""
    working_bytes: int = 0
    """Peak memory for each pixel of the picture, besides a few copies of it, as measured."""

    @abstractmethod
    def encode(self, image: Pictures) -> Encoded: ...

    @abstractmethod
    def decode(self, state: States, features: Features, size: tuple[int, int]) -> Pictures: ...

    def tiled(self, tile: int) -> "Codec":
        """The same codec in the memory of tiles of so many pixels, for one restoration.

        Its states are equal, its features are for itself. One whose memory is a few copies of the
        picture stays as it is.
        """
        return self

    def decoding(self) -> Iterator[nn.Parameter]:
        """The weights that decoding alone uses, which may be trained while states stay what they are."""
        yield from ()

    def calibrate(self, pictures: Iterable[Pictures]) -> None:
        """Measure what the states of these pictures need to be told; without weights that is nothing."""


class Pixels(Codec):
    """The picture itself; with a factor, its pixels rearranged without loss.

    Each factor x factor square of pixels becomes channels (pixel unshuffle), so the network works
    on 1 / factor^2 of the positions. Pictures are padded to a multiple by repeating their border.

    Args:
        factor: side of the squares.
        bounded: False leaves estimates outside [0, 1] as they are, as the published samplers do.
    """

    def __init__(self, factor: int = 1, bounded: bool = True) -> None:
        super().__init__()
        if factor < 1:
            raise ValueError(f"factor is {factor}: give at least 1")
        self.factor, self.bounds = factor, (0.0, 1.0) if bounded else None
        self.channels = 3 * factor**2

    def encode(self, image: Pictures) -> Encoded:
        height, width = image.shape[-2:]
        padding = (0, -width % self.factor, 0, -height % self.factor)
        padded = F.pad(image, padding, mode="replicate")
        return Encoded(F.pixel_unshuffle(padded, self.factor), (), (height, width))

    def decode(self, state: States, features: Features, size: tuple[int, int]) -> Pictures:
        height, width = size
        return F.pixel_shuffle(state, self.factor)[..., :height, :width]


class Pyramid(Codec):
    """A Laplacian pyramid of one level, in log brightness: the diffusion sees a reduced picture.

    Brightness becomes log(1 + x / dark) / log(1 + 1 / dark), in which light multiplies by adding. The
    picture is then reduced until its longest side is `longest_side` (smaller ones stay as they are);
    what the reduction took away is the only feature, and `decode` adds it back, so details brighten
    with their surroundings. Restorations that are smooth, as of light and haze, cost the same for
    every size of picture, and where the network changes nothing the picture comes back unchanged.

    Args:
        longest_side: of the reduced picture, in pixels.
        factor: of the pixel unshuffle, see `Pixels`.
        dark: the brightness below which the curve is nearly linear.
    """

    bounds = (0.0, 1.0)

    def __init__(self, longest_side: int = 208, factor: int = 4, dark: float = 0.05) -> None:
        super().__init__()
        if longest_side < factor or not 0 < dark < math.inf:
            raise ValueError(f"longest_side {longest_side}, dark {dark}: give at least {factor} and above 0")
        self.longest_side = longest_side
        self.dark = dark
        self.pixels = Pixels(factor)
        self.channels = self.pixels.channels

    def encode(self, image: Pictures) -> Encoded:
        height, width = image.shape[-2:]
        scale = min(1.0, self.longest_side / max(height, width))
        small = (max(1, round(height * scale)), max(1, round(width * scale)))
        light = torch.log1p(image / self.dark) / math.log1p(1 / self.dark)
        reduced = antialiased(light, small)
        details = light - _enlarge(reduced, (height, width))
        return Encoded(self.pixels.encode(reduced).mu, (details,), small)

    def decode(self, state: States, features: Features, size: tuple[int, int]) -> Pictures:
        (details,) = features
        reduced = self.pixels.decode(state, (), size)
        light = _enlarge(reduced, (details.shape[-2], details.shape[-1])) + details
        return self.dark * torch.expm1(light * math.log1p(1 / self.dark))


def _enlarge(image: Pictures, size: tuple[int, int]) -> Float[Tensor, "b 3 full_h full_w"]:
    return F.interpolate(image, size, mode="bilinear", align_corners=False)
