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
from refusion.nn.network import Network
from refusion.restoring.memory import COPY
from refusion.restoring.tiling import DEFAULT_MIN_TILE, TilingPolicy, ignore

Pictures = Float[Tensor, "b 3 h w"]
Maps = Float[Tensor, "b maps h w"]
"""Guides of pictures, such as a mask, in [0, 1]."""
States = Float[Tensor, "b channels state_h state_w"]
Features = tuple[Tensor, ...]


MAX_WHOLE = 2**25
"""Pixels of a picture up to which `Pyramid` works on the whole, in the memory of a few copies."""
STRIP = 2**20
"""Pixels of its strips of larger pictures."""


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
    map_channels: int = 1
    """Channels of the state of a guide."""
    multiple: int = 1
    """Pictures are padded to multiples of this before they are encoded."""
    traceable: bool = True
    """Whether one graph computes pictures of all sizes, as ONNX needs it."""
    parts: tuple[str, ...] = ()
    """Names of the methods that hold its network, tensors -> tensors; a backend may replace them."""
    working_bytes: int = 0
    """Peak memory in bytes for each pixel of the picture, besides a few copies of it, as measured."""

    @abstractmethod
    def encode(self, image: Pictures) -> Encoded:
        """Encode pictures of any memory format."""

    @abstractmethod
    def decode(self, state: States, features: Features, size: tuple[int, int]) -> Pictures:
        """Decode a state, which may be outside the bounds, with the features and size of `encode`."""

    def encode_guides(self, guides: Maps) -> Float[Tensor, "b map_channels state_h state_w"]:
        """Return the states of guides, at the positions of the state of their picture; here the means."""
        return antialiased(guides, self.state_size(guides.shape[-2], guides.shape[-1]))

    def seen(
        self, network: Network, mu: States, guides: Maps, lq: States
    ) -> Float[Tensor, "b seen state_h state_w"]:
        """Return what a network sees beside x_t: mu, the states of its guides, and `lq` if it sees that.

        Args:
            network: that sees it.
            mu: the states in its place, those of degraded pictures or of their estimated means.
            guides: of each picture, as many as the network takes.
            lq: states of the degraded pictures.
        """
        maps = [self.encode_guides(guides)] if guides.shape[1] else []
        more = [*maps, lq] if network.sees_lq else maps
        return torch.cat([mu, *more], dim=1) if more else mu

    def seen_channels(self, network: Network) -> int:
        """Return the number of channels of `seen`."""
        return self.channels * (1 + network.sees_lq) + network.num_guides * self.map_channels

    def state_size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the state of a picture, or more."""
        return height, width

    def least_bytes(self, height: int, width: int, tile: int) -> int:
        """Return the memory that a picture takes at least, besides itself, the decoded one and the state.

        Args:
            height, width: of the picture.
            tile: side of the tiles in pixels, if it is cut into tiles.
        """
        return height * width * (3 * COPY + self.working_bytes)

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
        self.channels, self.map_channels, self.multiple = 3 * factor**2, factor**2, factor

    def encode(self, image: Pictures) -> Encoded:
        return Encoded(self._unshuffled(image), (), (image.shape[-2], image.shape[-1]))

    def encode_guides(self, guides: Maps) -> Float[Tensor, "b map_channels state_h state_w"]:
        return self._unshuffled(guides)

    def _unshuffled(self, planes: Tensor) -> Tensor:
        height, width = planes.shape[-2:]
        padding = (0, -width % self.factor, 0, -height % self.factor)
        padded = F.pad(planes.contiguous(), padding, mode="replicate")
        return F.pixel_unshuffle(padded, self.factor)

    def decode(self, state: States, features: Features, size: tuple[int, int]) -> Pictures:
        height, width = size
        return F.pixel_shuffle(state, self.factor)[..., :height, :width]

    def state_size(self, height: int, width: int) -> tuple[int, int]:
        return -(-height // self.factor), -(-width // self.factor)

    def least_bytes(self, height: int, width: int, tile: int) -> int:
        return height * width * COPY  # padded


class Pyramid(Codec):
    """A Laplacian pyramid of one level, in log brightness: the diffusion sees a reduced picture.

    Brightness becomes log(1 + x / dark) / log(1 + 1 / dark), in which factors of light are added. The
    picture is then reduced until its longest side is `longest_side` (smaller ones keep their size). The
    details that the reduction removes are added by `decode`, so they brighten with their surroundings.
    Smooth restorations, as of light and haze, cost the same for every size of picture, and a state that
    the network does not change decodes to the same picture.

    The features are the picture itself, not a copy of it, and the reduced one: details are computed where
    they are added. Pictures of more than `MAX_WHOLE` pixels are encoded and decoded in strips of rows, so
    that they need no memory besides that of the result.

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
        self.channels, self.map_channels = self.pixels.channels, self.pixels.map_channels

    def _reduced_size(self, height: int, width: int) -> tuple[int, int]:
        scale = min(1.0, self.longest_side / max(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))

    def state_size(self, height: int, width: int) -> tuple[int, int]:
        return self.pixels.state_size(*self._reduced_size(height, width))

    def least_bytes(self, height: int, width: int, tile: int) -> int:
        strip = next(_strips(height, width))
        return 5 * COPY * (strip.stop - strip.start) * width

    def encode(self, image: Pictures) -> Encoded:
        height, width = image.shape[-2:]
        small = self._reduced_size(height, width)
        # The reduction is separable: first the columns, strip by strip, then the rows of the whole.
        narrow = image.new_empty(*image.shape[:-1], small[1])  # at once: pieces would cut the heap into holes
        for rows in _strips(height, width):
            narrow[..., rows, :] = antialiased(
                self._light(image[..., rows, :]), (rows.stop - rows.start, small[1])
            )
        reduced = antialiased(narrow, small)
        return Encoded(self.pixels.encode(reduced).mu, (image, reduced), small)

    def encode_guides(self, guides: Maps) -> Float[Tensor, "b map_channels state_h state_w"]:
        small = self._reduced_size(guides.shape[-2], guides.shape[-1])
        return self.pixels.encode_guides(antialiased(guides, small))

    def decode(self, state: States, features: Features, size: tuple[int, int]) -> Pictures:
        image, before = features
        after = self.pixels.decode(state, (), size)
        height, width = image.shape[-2:]
        if len(list(_strips(height, width))) == 1:
            return self._decoded(image, _enlarge(before, (height, width)), _enlarge(after, (height, width)))
        output = torch.empty_like(image, memory_format=torch.channels_last)
        before, after = (_enlarge(reduced, (size[0], width)) for reduced in (before, after))
        for rows in _strips(height, width):
            enlarged = (_enlarged_rows(reduced, height, rows) for reduced in (before, after))
            output[..., rows, :] = self._decoded(image[..., rows, :], *enlarged)
        return output

    def _light(self, image: Pictures) -> Pictures:
        # The memory format changes the last bits of the result.
        return torch.log1p(image.contiguous() / self.dark) / math.log1p(1 / self.dark)

    def _decoded(self, image: Pictures, before: Pictures, after: Pictures) -> Pictures:
        """Return the picture with its reduced light, enlarged, replaced by another."""
        light = after + (self._light(image) - before)
        return self.dark * torch.expm1(light * math.log1p(1 / self.dark))


def _strips(height: int, width: int) -> Iterator[slice]:
    """Yield the rows of strips of a large picture, or all rows."""
    rows = height if height * width <= MAX_WHOLE else max(1, STRIP // width)
    for start in range(0, height, rows):
        yield slice(start, min(start + rows, height))


def _enlarge(image: Pictures, size: tuple[int, int]) -> Float[Tensor, "b 3 full_h full_w"]:
    return F.interpolate(image, size, mode="bilinear", align_corners=False)


def _enlarged_rows(image: Pictures, height: int, rows: slice) -> Float[Tensor, "b 3 strip_h w"]:
    """Return some rows of an image that is enlarged to a height, as `_enlarge` does, up to rounding."""
    last = image.shape[-2] - 1
    centres = torch.arange(rows.start, rows.stop, device=image.device, dtype=torch.float64) + 0.5
    places = (centres * ((last + 1) / height) - 0.5).clamp(0, last)
    above = places.long()
    below = (above + 1).clamp(max=last)
    weights = (places - above).to(image.dtype)[:, None]
    return torch.lerp(image[..., above, :], image[..., below, :], weights)


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
        tile: side of the tiles in pixels; by default the largest that fits in the free bytes, and takes half
            as many as a whole picture may: larger ones would hardly be faster.
        policy: the sizes at which tiling begins.
        report: receives a notice if the pictures are cut into tiles.
    """
    batch, _, height, width = pictures.shape
    working_bytes = batch * codec.working_bytes
    if height * width <= (tile or max(policy.min_tile, policy.max_tile_side(working_bytes, free))) ** 2:
        return codec
    side = tile or max(policy.min_tile, policy.max_tile_side(2 * working_bytes, free))
    chosen = codec.tiled(side, policy.min_tile, report)
    if chosen is not codec:
        text = f"{width}x{height}: tiles of {side} pixels, {free / 2**30:.1f} GiB free"
        report(Notice("codec-tiled", text))
    return chosen
