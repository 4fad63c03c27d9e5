"""LatentUNet: the autoencoder of latent Refusion (Luo et al. 2023, section 3.4), whose skips bypass it."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from refusion.allocator import release_freed_memory
from refusion.errors import Report
from refusion.nn.layers import LinearAttention, PreNorm, ResBlock, Residual, reflect
from refusion.restoring.codec import Codec, Encoded, Features, Maps, Pictures, States
from refusion.restoring.memory import COPY
from refusion.restoring.tiling import DEFAULT_MIN_TILE, Tiles, Window, ignore

MOST_LEVELS = 8


class Down(nn.ModuleList):
    """A level of the encoder: two ResBlocks, attention or nothing, downsampling. Also returns features."""

    def forward(
        self, x: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b deeper_c down_h down_w"], Features]:
        first, second, attend, down = self
        outer = first(x)
        inner = attend(second(outer))
        return down(inner), (outer, inner)


class Up(nn.ModuleList):
    """A level of the decoder: two ResBlocks and attention or nothing; its upsampling is called apart.

    If the level has skips, it takes the last two features. It returns the features that are left.
    """

    def forward(
        self, x: Float[Tensor, "b c h w"], features: Features, skipped: bool
    ) -> tuple[Float[Tensor, "b c h w"], Features]:
        first, second, attend, _ = self
        rest, inner, outer = features, x[:, :0], x[:, :0]
        if skipped:
            rest, inner, outer = features[:-2], features[-2], features[-1]
        x = first(torch.cat([x, outer], dim=1))
        return attend(second(torch.cat([x, inner], dim=1))), rest


class LatentUNet(Codec):
    """A U-Net cut at its bottom: the latent goes through the diffusion, the skips around it.

    States are latents normalised by stored statistics to mean 1/2 and standard deviation 1/4, about those
    of pictures, so that a noise level has the same effect on latents and on pixels.

    Args:
        latent_channels: channels of the state.
        width: channels at full size.
        multipliers: channels after each level, as multiples of the width; one for each level.
        unshuffle: side of the squares of pixels that become channels first (pixel unshuffle).
        skips: number of levels, from the picture on, whose features go to the decoder; by default all.
        attention: linear attention at the deepest level, as in the published networks.

    The published shapes are (8, 8, (4, 8, 8, 16), unshuffle=1, attention=True) of dehazing, which reduces
    8 times, and (4, 64, (1, 2, 4), unshuffle=1, attention=True) of bokeh, which reduces 4 times.
    """

    bounds = None
    parts = ("descend", "bottom", "rise", "ascend")
    latent_mean: Tensor
    latent_std: Tensor

    def __init__(
        self,
        latent_channels: int = 8,
        width: int = 48,
        multipliers: Sequence[int] = (1, 2),
        unshuffle: int = 4,
        skips: int | None = None,
        attention: bool = False,
    ) -> None:
        super().__init__()
        if not multipliers or min(latent_channels, width, unshuffle, *multipliers) < 1:
            raise ValueError(
                f"latent_channels {latent_channels}, width {width}, multipliers {tuple(multipliers)}, "
                f"unshuffle {unshuffle}: give at least 1, and at least one multiplier"
            )
        if skips is not None and not 0 <= skips <= len(multipliers):
            raise ValueError(f"skips is {skips}: give 0 to {len(multipliers)}, the number of levels")
        if len(multipliers) > MOST_LEVELS:
            raise ValueError(f"multipliers has {len(multipliers)} levels: give at most {MOST_LEVELS}")
        widths = [width, *(width * m for m in multipliers)]
        depth = len(multipliers)
        self.channels = latent_channels
        self.unshuffle = unshuffle
        self.skips = depth if skips is None else skips
        self.factor = unshuffle * 2 ** (depth - 1)
        self.multiple = unshuffle * 2**depth
        """Sides are padded to multiples of this, twice the factor by which they are reduced."""
        self.init_conv = nn.Conv2d(3 * unshuffle**2, width, 3, padding=1, bias=False)
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        for i, (c, deeper) in enumerate(pairwise(widths)):
            deepest = i == depth - 1
            skipped = c if i < self.skips else 0

            attends = deepest and attention
            down = nn.Conv2d(c, deeper, 3, 1, 1, bias=False) if deepest else nn.Conv2d(c, deeper, 4, 2, 1)
            self.encoder.append(Down([ResBlock(c, c), ResBlock(c, c), _attention(c, attends), down]))
            up = (
                nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(deeper, c, 3, padding=1))
                if i
                else nn.Conv2d(deeper, c, 3, padding=1, bias=False)
            )
            blocks = (ResBlock(deeper + skipped, deeper), ResBlock(deeper + skipped, deeper))
            self.decoder.insert(0, Up([*blocks, _attention(deeper, attends), up]))
        self.latent_conv = nn.Conv2d(widths[-1], latent_channels, 1, bias=False)
        self.post_latent_conv = nn.Conv2d(latent_channels, widths[-1], 1, bias=False)
        self.final_conv = nn.Conv2d(width, 3 * unshuffle**2, 3, padding=1)
        self.deepest_channels = widths[-2]
        """Channels of the features that `descend` returns."""
        self.working_bytes = 36 * (widths[0] + widths[1]) // unshuffle**2
        self.register_buffer("latent_mean", torch.zeros(latent_channels, 1, 1))
        self.register_buffer("latent_std", torch.ones(latent_channels, 1, 1))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def encode(self, image: Pictures) -> Encoded:
        latent, features = self.latent(image)
        return Encoded(self.normalised(latent), features, (image.shape[-2], image.shape[-1]))

    def encode_guides(self, guides: Maps) -> Float[Tensor, "b map_channels state_h state_w"]:
        """Return the mean of each guide over the pixels of every position."""
        return F.avg_pool2d(self.padded(guides), self.factor)

    def decode(self, state: States, features: Features, size: tuple[int, int]) -> Pictures:
        return self.picture(self.denormalised(state), features, size)

    def normalised(self, latent: States) -> States:
        """Return the state of a latent."""
        return 0.5 + 0.25 * (latent - self.latent_mean) / self.latent_std

    def denormalised(self, state: States) -> States:
        """Return the latent of a state."""
        return self.latent_mean + self.latent_std * (state - 0.5) / 0.25

    def tiled(self, tile: int, smallest: int = DEFAULT_MIN_TILE, report: Report = ignore) -> Codec:
        return Tiled(self, tile, smallest, report)

    def state_size(self, height: int, width: int) -> tuple[int, int]:
        padded = (side + -side % self.multiple for side in (height, width))
        rows, columns = (side // self.factor for side in padded)
        return rows, columns

    def least_bytes(self, height: int, width: int, tile: int) -> int:
        window = (tile + 2 * sum(self.reach)) ** 2
        rows, columns = self.state_size(height, width)
        # In tiles, the padded picture, and features of the deepest level and its blocks.
        whole = 2 * COPY * height * width + 24 * self.deepest_channels * rows * columns
        return min(height * width, window) * self.working_bytes + whole

    def decoding(self) -> Iterator[nn.Parameter]:
        for part in (self.post_latent_conv, self.decoder, self.final_conv):
            yield from part.parameters()

    @torch.inference_mode()
    def calibrate(self, pictures: Iterable[Pictures]) -> None:
        """Store the mean and standard deviation of each channel over the latents of these pictures."""
        latents = [self.latent(picture)[0].transpose(0, 1).flatten(1).double() for picture in pictures]
        std, mean = torch.std_mean(torch.cat(latents, dim=1), dim=1)
        self.latent_mean.copy_(mean[:, None, None])
        self.latent_std.copy_(std[:, None, None].clamp(min=1e-3))  # a channel may be constant

    def latent(self, image: Pictures) -> tuple[States, Features]:
        """Return the latent before its normalisation, and the features."""
        x, outer = self.descend(self.padded(image))
        latent, inner = self.bottom(x)
        return latent, outer + inner

    def picture(self, latent: States, features: Features, size: tuple[int, int]) -> Pictures:
        """Decode a latent that is not normalised, with the features of its or another picture."""
        inner = 2 if self.skips == len(self.encoder) else 0  # features of the deepest level
        split = len(features) - inner
        x = self.rise(latent, features[split:])
        return self.ascend(x, features[:split])[..., : size[0], : size[1]]

    def padded(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c padded_h padded_w"]:
        """Return a picture with its sides padded to multiples, as `descend` expects it."""
        height, width = image.shape[-2:]
        return reflect(image.contiguous(), (height + -height % self.multiple, width + -width % self.multiple))

    def descend(self, image: Pictures) -> tuple[Float[Tensor, "b deep_c deep_h deep_w"], Features]:
        """Run all levels of the encoder but the deepest: return its input, and the features of the others."""
        x = F.pixel_unshuffle(image, self.unshuffle)
        x = self.init_conv(x.contiguous(memory_format=torch.channels_last))
        features = [x]
        for level in self.encoder[:-1]:
            x, passed = level(x)
            features += passed
        return x, tuple(features[: 1 + 2 * self.skips] if self.skips else ())

    def bottom(self, x: Float[Tensor, "b deep_c deep_h deep_w"]) -> tuple[States, Features]:
        """Run the deepest level of the encoder: return the latent, and the level's features."""
        x, passed = self.encoder[-1](x)
        return self.latent_conv(x), passed if self.skips == len(self.encoder) else ()

    def rise(self, latent: States, inner: Features) -> Float[Tensor, "b deep_c state_h state_w"]:
        """Run the deepest level of the decoder but its upsampling, with the features of `bottom`."""
        x, _ = self.decoder[0](self.post_latent_conv(latent), inner, self.skips == len(self.encoder))
        return x

    def ascend(self, x: Float[Tensor, "b deep_c deep_h deep_w"], features: Features) -> Pictures:
        """Run the upsampling of the decoder's deepest level and the other levels; return a padded picture."""
        ups = [list(level.children())[-1] for level in self.decoder]
        x = ups[0](x)
        for i, level in enumerate(self.decoder[1:], 1):
            x, features = level(x, features, len(ups) - 1 - i < self.skips)
            x = ups[i](x)
        x = x + features[0] if self.skips else x
        return F.pixel_shuffle(self.final_conv(x), self.unshuffle)

    @property
    def reach(self) -> tuple[int, int]:
        """Receptive fields of `descend` and of `ascend`, in pixels beyond a window.

        Followed from the output to the input: a convolution adds one position, and the blocks of a level
        have four convolutions. Two positions become one at the next level.
        """
        down, up = 0, 2  # the last convolution, and the last upsampling
        for _ in self.encoder[:-1]:
            down = 2 * down + 1 + 4
            up = (up + 4 + 1 + 1) // 2  # the blocks, and the deeper level's upsampling, rounded up
        return self.unshuffle * (down + 1), self.factor * up


class Tiled(Codec):
    """A `LatentUNet` that computes the same in windows as on the whole picture.

    The deepest level, whose attention covers the whole picture, runs on all of it. The features of the
    other levels are not stored: the first of `features` is the picture, from which they are computed again.
    Windows have margins of the whole receptive field, so the result is exact.

    Make one for each restoration: its tiles halve when memory runs out.
    """

    bounds = None

    def __init__(
        self, whole: LatentUNet, tile: int, smallest: int = DEFAULT_MIN_TILE, report: Report = ignore
    ) -> None:
        super().__init__()
        self.whole, self.channels = whole, whole.channels
        self.tiles = Tiles(tile, smallest, report)

    def encode(self, image: Pictures) -> Encoded:
        whole = self.whole
        padded = whole.padded(image)
        height, width = padded.shape[-2] // whole.factor, padded.shape[-1] // whole.factor
        shape = (len(image), whole.deepest_channels, height, width)
        deepest = torch.empty(shape, device=image.device, memory_format=torch.channels_last)

        def work(rows: Window, columns: Window) -> None:
            x, _ = whole.descend(padded[..., rows.outer, columns.outer])
            rows, columns = rows.over(whole.factor), columns.over(whole.factor)
            deepest[..., rows.inner, columns.inner] = x[..., rows.within, columns.within]

        self.tiles.sweep((padded.shape[-2], padded.shape[-1]), whole.reach[0], whole.multiple, work)
        latent, inner = whole.bottom(deepest)
        return Encoded(whole.normalised(latent), (padded, *inner), (image.shape[-2], image.shape[-1]))

    def encode_guides(self, guides: Maps) -> Float[Tensor, "b map_channels state_h state_w"]:
        return self.whole.encode_guides(guides)

    def decode(self, state: States, features: Features, size: tuple[int, int]) -> Pictures:
        whole = self.whole
        padded, *inner = features
        release_freed_memory()  # that of the walk
        deepest = whole.rise(whole.denormalised(state), tuple(inner))
        output = torch.empty_like(padded)

        def work(rows: Window, columns: Window) -> None:
            _, outer = whole.descend(padded[..., rows.outer, columns.outer])
            x = deepest[..., rows.over(whole.factor).outer, columns.over(whole.factor).outer]
            output[..., rows.inner, columns.inner] = whole.ascend(x, outer)[..., rows.within, columns.within]

        self.tiles.sweep((padded.shape[-2], padded.shape[-1]), sum(whole.reach), whole.multiple, work)
        return output[..., : size[0], : size[1]]


def _attention(channels: int, linear: bool) -> nn.Module:
    return Residual(PreNorm(channels, LinearAttention(channels))) if linear else nn.Identity()
