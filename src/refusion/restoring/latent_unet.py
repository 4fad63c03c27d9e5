"""LatentUNet: the autoencoder of latent Refusion (Luo et al. 2023, section 3.4), whose skips bypass it."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from refusion.codec import Codec, Encoded, Features, Pictures, States
from refusion.nn.layers import LinearAttention, PreNorm, ResBlock, Residual, reflect
from refusion.tiling import SMALLEST, Tiles, Window

MOST_LEVELS = 8


class Down(nn.ModuleList):
    """Two ResBlocks, attention or nothing, and the way down; what the first two make are the features."""

    def forward(self, x: Tensor) -> tuple[Tensor, Features]:
        first, second, attend, down = self
        passed = (x := first(x), x := attend(second(x)))
        return down(x), passed


class Up(nn.ModuleList):
    """The same back, except the way up, with the last two features where it has skips; leaves the others."""

    def forward(self, x: Tensor, features: Features, skipped: bool) -> tuple[Tensor, Features]:
        first, second, attend, _ = self
        *rest, inner, outer = features if skipped else (*features, x[:, :0], x[:, :0])
        x = first(torch.cat([x, outer], dim=1))
        return attend(second(torch.cat([x, inner], dim=1))), tuple(rest)


class LatentUNet(Codec):
    """A U-Net cut at its bottom: the latent goes through the diffusion, the skips around it.

    States are latents normalised by stored statistics to mean 1/2 and deviation 1/4, about those of
    pictures, so that a noise level means the same in latents and in pixels.

    Args:
        latent_channels: channels of the state.
        width: channels at full size.
        multipliers: of the width, for what each level hands on; their number is that of the levels.
        unshuffle: side of the squares of pixels that become channels before anything else.
        skips: levels, from the picture on, whose features reach the decoder; by default all.
        attention: linear attention at the deepest level, as in the published networks.

    The published shapes are (8, 8, (4, 8, 8, 16), unshuffle=1, attention=True) of dehazing, which reduces
    8 times, and (4, 64, (1, 2, 4), unshuffle=1, attention=True) of bokeh, which reduces 4 times.
    """

    bounds = None
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
        """Sides are padded to multiples of this, which is twice what they are reduced by."""
        self.init_conv = nn.Conv2d(3 * unshuffle**2, width, 3, padding=1, bias=False)
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        for i, (c, deeper) in enumerate(pairwise(widths)):
            deepest = i == depth - 1
            skipped = c if i < self.skips else 0

            def attend(channels: int, here: bool = deepest and attention) -> nn.Module:
                return Residual(PreNorm(channels, LinearAttention(channels))) if here else nn.Identity()

            down = nn.Conv2d(c, deeper, 3, 1, 1, bias=False) if deepest else nn.Conv2d(c, deeper, 4, 2, 1)
            self.encoder.append(Down([ResBlock(c, c), ResBlock(c, c), attend(c), down]))
            up = (
                nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(deeper, c, 3, padding=1))
                if i
                else nn.Conv2d(deeper, c, 3, padding=1, bias=False)
            )
            blocks = (ResBlock(deeper + skipped, deeper), ResBlock(deeper + skipped, deeper))
            self.decoder.insert(0, Up([*blocks, attend(deeper), up]))
        self.latent_conv = nn.Conv2d(widths[-1], latent_channels, 1, bias=False)
        self.post_latent_conv = nn.Conv2d(latent_channels, widths[-1], 1, bias=False)
        self.final_conv = nn.Conv2d(width, 3 * unshuffle**2, 3, padding=1)
        self.deepest_channels = widths[-2]
        """Of what `descend` returns."""
        self.working_bytes = 36 * (widths[0] + widths[1]) // unshuffle**2
        self.register_buffer("latent_mean", torch.zeros(latent_channels, 1, 1))
        self.register_buffer("latent_std", torch.ones(latent_channels, 1, 1))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def encode(self, image: Pictures) -> Encoded:
        latent, features = self.latent(image)
        return Encoded(self.normalised(latent), features, (image.shape[-2], image.shape[-1]))

    def decode(self, state: States, features: Features, size: tuple[int, int]) -> Pictures:
        return self.picture(self.denormalised(state), features, size)

    def normalised(self, latent: States) -> States:
        """The state of a latent."""
        return 0.5 + 0.25 * (latent - self.latent_mean) / self.latent_std

    def denormalised(self, state: States) -> States:
        """The latent of a state."""
        return self.latent_mean + self.latent_std * (state - 0.5) / 0.25

    def tiled(self, tile: int) -> Codec:
        return Tiled(self, tile)

    def decoding(self) -> Iterator[nn.Parameter]:
        for part in (self.post_latent_conv, self.decoder, self.final_conv):
            yield from part.parameters()

    @torch.inference_mode()
    def calibrate(self, pictures: Iterable[Pictures]) -> None:
        """Take the mean and deviation of each channel from the latents of these pictures."""
        latents = [self.latent(picture)[0].transpose(0, 1).flatten(1).double() for picture in pictures]
        std, mean = torch.std_mean(torch.cat(latents, dim=1), dim=1)
        self.latent_mean.copy_(mean[:, None, None])
        self.latent_std.copy_(std[:, None, None].clamp(min=1e-3))  # of a channel that never varies

    def latent(self, image: Pictures) -> tuple[States, Features]:
        """The latent as the network makes it, before its normalisation, and the features."""
        x, outer = self.descend(self.padded(image))
        latent, inner = self.bottom(x)
        return latent, outer + inner

    def picture(self, latent: States, features: Features, size: tuple[int, int]) -> Pictures:
        """The picture of a latent that is not normalised, and the features of this or another picture."""
        x, outer = self.rise(latent, features)
        return self.ascend(x, outer)[..., : size[0], : size[1]]

    def padded(self, image: Pictures) -> Float[Tensor, "b 3 padded_h padded_w"]:
        """With sides that `descend` takes."""
        height, width = (side + -side % self.multiple for side in image.shape[-2:])
        return reflect(image, (height, width))

    def descend(self, image: Pictures) -> tuple[Tensor, Features]:
        """All levels but the deepest: its input, and the features passed on the way."""
        x = F.pixel_unshuffle(image, self.unshuffle)
        x = self.init_conv(x.contiguous(memory_format=torch.channels_last))
        features = [x]
        for level in self.encoder[:-1]:
            x, passed = level(x)
            features += passed
        return x, tuple(features[: 1 + 2 * self.skips] if self.skips else ())

    def bottom(self, x: Tensor) -> tuple[States, Features]:
        """The deepest level: the latent and its features."""
        x, passed = self.encoder[-1](x)
        return self.latent_conv(x), passed if self.skips == len(self.encoder) else ()

    def rise(self, latent: States, features: Features) -> tuple[Tensor, Features]:
        """The deepest level of the decoder but its way up, and the features left for the others."""
        return self.decoder[0](self.post_latent_conv(latent), features, self.skips == len(self.encoder))

    def ascend(self, x: Tensor, features: Features) -> Pictures:
        """From the deepest level of the decoder up to the picture, with its padding."""
        ups = [up for *_, up in (level.children() for level in self.decoder)]
        x = ups[0](x)
        for i, level in enumerate(self.decoder[1:], 1):
            x, features = level(x, features, len(ups) - 1 - i < self.skips)
            x = ups[i](x)
        x = x + features[0] if self.skips else x
        return F.pixel_shuffle(self.final_conv(x), self.unshuffle)

    @property
    def reach(self) -> tuple[int, int]:
        """Pixels beyond a window that what `descend`, and what `ascend`, makes of it depends on.

        Followed from the output to the input: a convolution looks one position further, and a level's
        blocks have four. Two positions are one at the next level.
        """
        down, up = 0, 2  # the last convolution, and the last way up
        for _ in self.encoder[:-1]:
            down = 2 * down + 1 + 4
            up = (up + 4 + 1 + 1) // 2  # the blocks, and the deeper level's way up, rounded up
        return self.unshuffle * (down + 1), self.factor * up


class Tiled(Codec):
    """A `LatentUNet` that sees the picture in windows, and gives what it gives of the whole.

    The deepest level, whose attention sees everything, runs whole. The features of the other levels
    are not kept: the first of `features` is the picture, from which they are computed again where they
    are needed. Margins are all that a window depends on, so nothing is lost.

    Make one for each restoration: its tiles halve where memory ends.
    """

    bounds = None

    def __init__(self, whole: LatentUNet, tile: int) -> None:
        super().__init__()
        self.whole, self.channels = whole, whole.channels
        self.tiles = Tiles(tile, SMALLEST)

    def encode(self, image: Pictures) -> Encoded:
        whole, padded = self.whole, self.whole.padded(image)
        height, width = (side // whole.factor for side in padded.shape[-2:])
        shape = (len(image), whole.deepest_channels, height, width)
        deepest = torch.empty(shape, device=image.device, memory_format=torch.channels_last)

        def work(rows: Window, columns: Window) -> None:
            x, _ = whole.descend(padded[..., rows.outer, columns.outer])
            rows, columns = rows.over(whole.factor), columns.over(whole.factor)
            deepest[..., rows.inner, columns.inner] = x[..., rows.within, columns.within]

        self.tiles.sweep((padded.shape[-2], padded.shape[-1]), whole.reach[0], whole.multiple, work)
        latent, inner = whole.bottom(deepest)
        return Encoded(whole.normalised(latent), (padded, *inner), (image.shape[-2], image.shape[-1]))

    def decode(self, state: States, features: Features, size: tuple[int, int]) -> Pictures:
        whole, (padded, *inner) = self.whole, features
        deepest, _ = whole.rise(whole.denormalised(state), tuple(inner))
        output = torch.empty_like(padded)

        def work(rows: Window, columns: Window) -> None:
            _, outer = whole.descend(padded[..., rows.outer, columns.outer])
            x = deepest[..., rows.over(whole.factor).outer, columns.over(whole.factor).outer]
            output[..., rows.inner, columns.inner] = whole.ascend(x, outer)[..., rows.within, columns.within]

        self.tiles.sweep((padded.shape[-2], padded.shape[-1]), sum(whole.reach), whole.multiple, work)
        return output[..., : size[0], : size[1]]
