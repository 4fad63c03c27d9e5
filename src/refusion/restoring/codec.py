"""Codecs, each of which maps a picture to the state of the diffusion, and back.

`encode` returns the state mu, and features and a size that `decode` needs besides a state. No other module
depends on whether states are latent, unshuffled or reduced.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from refusion.errors import Notice, Report
from refusion.imaging.resize import antialiased
from refusion.restoring.tiling import DEFAULT_MIN_TILE, TilingPolicy, ignore

Pictures = Float[Tensor, "b 3 h w"]
States = Float[Tensor, "b channels state_h state_w"]
Features = tuple[Tensor, ...]


class Encoded(NamedTuple):
    """An encoded picture: the state `mu` for the diffusion, `features` and `size` for `decode`."""

    mu: States
    features: Features
    size: tuple[int, int]
    """Height and width of the picture in the state, without padding."""


class Codec(nn.Module, ABC):
    """A map between pictures (b, 3, h, w) in [0, 1] and states (b, channels, h', w')."""

    channels: int
    """Channels of the state."""
    bounds: tuple[float, float] | None
    """Range of the values of a state, to which estimates are clamped; None if they are not."""
    multiple: int = 1
    """Pictures are padded to multiples of this before they are encoded."""
    traceable: bool = True
    """Whether one graph computes pictures of all sizes, as ONNX needs it."""
    working_bytes: int = 0
    """Peak memory in bytes for each pixel of the picture, besides a few copies of it, as measured."""

    @abstractmethod
    def encode(self, image: Pictures) -> Encoded: ...

    @abstractmethod
    def decode(self, state: States, features: Features, size: tuple[int, int]) -> Pictures: ...

    def tiled(self, tile: int, smallest: int = DEFAULT_MIN_TILE, report: Report = ignore) -> "Codec":
        """Return a codec that computes the same states in tiles, for one restoration.

        Its features fit its own `decode` only. A codec that needs the memory of a few copies of the picture
        returns itself.

        Args:
            tile: side of the tiles in pixels.
            smallest: side of the smallest tiles to which they are halved when memory runs out.
            report: receives a notice when they are halved.
        """
        return self

    def decoding(self) -> Iterator[nn.Parameter]:
        """Yield the weights that decoding alone uses; training them does not change the states."""
        yield from ()

    def calibrate(self, pictures: Iterable[Pictures]) -> None:
        """Measure and store the statistics of the states of these pictures, if the codec has any."""


class Pixels(Codec):
    """The picture itself; with a factor, its pixels rearranged without loss.

    Each factor x factor square of pixels becomes channels (pixel unshuffle), so the network works
    on 1 / factor^2 of the positions. Pictures are padded to a multiple by repeating their border.

    Args:
        factor: side of the squares.
        bounded: whether estimates are clamped to [0, 1]; the published samplers do not clamp.
    """

    def __init__(self, factor: int = 1, bounded: bool = True) -> None:
        super().__init__()
        if factor < 1:
            raise ValueError(f"factor is {factor}: give at least 1")
        self.factor, self.bounds = factor, (0.0, 1.0) if bounded else None
        self.channels, self.multiple = 3 * factor**2, factor

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

    Brightness becomes log(1 + x / dark) / log(1 + 1 / dark), in which factors of light are added. The
    picture is then reduced until its longest side is `longest_side` (smaller ones keep their size). The
    details that the reduction removes are the only feature; `decode` adds them, so they brighten with
    their surroundings. Smooth restorations, as of light and haze, cost the same for every size of
    picture, and a state that the network does not change decodes to the same picture.

    Args:
        longest_side: longest side of the reduced picture, in pixels.
        factor: see `Pixels`.
        dark: brightness below which the curve is nearly linear.
    """

    bounds = (0.0, 1.0)
    traceable = False  # the reduced picture has a size of its own

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


def codec_with_tiling(
    codec: Codec,
    pictures: Float[Tensor, "b 3 h w"],
    free: int,
    tile: int | None = None,
    policy: TilingPolicy = TilingPolicy(),
    report: Report = ignore,
) -> Codec:
    """Return the codec for these pictures: itself, or one in tiles if they are larger than a tile.

    Args:
        pictures: the pictures to encode.
        free: bytes of memory that may be used.
        tile: side of the tiles in pixels; by default the largest that fits in the free bytes.
        policy: the sizes at which tiling begins.
        report: receives a notice if the pictures are cut into tiles.
    """
    batch, _, height, width = pictures.shape
    side = tile or max(policy.min_tile, policy.max_tile_side(batch * codec.working_bytes, free))
    chosen = codec if height * width <= side**2 else codec.tiled(side, policy.min_tile, report)
    if chosen is not codec:
        text = f"{width}x{height}: tiles of {side} pixels, {free / 2**30:.1f} GiB free"
        report(Notice("codec-tiled", text))
    return chosen
