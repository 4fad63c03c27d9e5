"""ConditionalNAFNet: the noise network of Refusion (Luo et al. 2023, section 3.2).

NAFNet (Chen et al., arXiv 2204.04676) in which the time, and whatever else is known of a picture, scales
and shifts every block.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from refusion.nn.layers import LayerNorm, SimpleGate, Sinusoid, pad_to_multiple
from refusion.nn.local import local_mean
from refusion.nn.scam import SCAM, SHRINKS
from refusion.tiling import Pool, whole_mean


class NAFBlock(nn.Module):
    """An attention half (depthwise 3x3, channel attention) and a gated FFN half, both residual.

    `beta` and `gamma` start at zero, so a fresh block is the identity.

    Args:
        time_width: of the embedded time, and of the embedded camera.
        camera: the camera scales and shifts the FFN half, too.
        shrink: at the end two views of a scene look at each other, see `SCAM`; None if there is one view.
    """

    def __init__(
        self, channels: int, time_width: int, camera: bool = False, shrink: int | None = None
    ) -> None:
        super().__init__()
        c = channels
        self.mlp = nn.Sequential(SimpleGate(), nn.Linear(time_width // 2, 4 * c))
        if camera:
            self.cam_mlp = nn.Sequential(SimpleGate(), nn.Linear(time_width // 2, 2 * c))
        self.norm1 = LayerNorm(c)
        self.conv1 = nn.Conv2d(c, 2 * c, 1)
        self.conv2 = nn.Conv2d(2 * c, 2 * c, 3, padding=1, groups=2 * c)
        self.sg = SimpleGate()
        self.sca = nn.Sequential(nn.Identity(), nn.Conv2d(c, c, 1))  # published weights call it sca.1
        self.conv3 = nn.Conv2d(c, c, 1)
        self.norm2 = LayerNorm(c)
        self.conv4 = nn.Conv2d(c, 2 * c, 1)
        self.conv5 = nn.Conv2d(c, c, 1)
        self.beta = nn.Parameter(torch.zeros(1, c, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, c, 1, 1))
        self.fusion = SCAM(c, shrink) if shrink is not None else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        modulation: Float[Tensor, "b modulations 1 1"],
        pool: Pool = whole_mean,
    ) -> Float[Tensor, "b c h w"]:
        # Under autocast x is bfloat16: without the casts every product would fall back to float32.
        parts = torch.split(modulation.to(x.dtype), x.shape[1], dim=1)
        shift_att, scale_att, shift_ffn, scale_ffn, *camera = parts
        beta, gamma = self.beta.to(x.dtype), self.gamma.to(x.dtype)
        a = self.norm1(x) * (scale_att + 1) + shift_att
        a = self.sg(self.conv2(self.conv1(a)))
        y = x + beta * self.conv3(a * self.sca(pool(a)))
        f = self.norm2(y) * (scale_ffn + 1) + shift_ffn
        f = self.sg(self.conv4(f))
        if camera:
            scale, shift = camera
            f = f * (scale + 1) + shift
        return self.fusion(y + gamma * self.conv5(f))


class Stage(nn.ModuleList):
    """NAFBlocks of one width, each with the next modulation."""

    def forward(
        self, x: Float[Tensor, "b c h w"], modulations: Iterator[Tensor], pool: Pool = whole_mean
    ) -> Float[Tensor, "b c h w"]:
        for block in self:
            x = block(x, next(modulations), pool)
        return x


class ConditionalNAFNet(nn.Module):
    """A U-shaped network of NAFBlocks: (x_t, mu, t) -> a tensor like x_t.

    Args:
        channels: channels of the picture (or latent).
        width: channels at full size; doubled at every level.
        encoder: blocks per level on the way down; its length is the number of levels.
        middle: blocks at the bottom.
        decoder: blocks per level on the way up, deepest first.
        long_skip: add the first convolution's output before the last one (the published
            latent-dehazing variant). It has no parameters, so weights of one variant load into the
            other and give wrong pictures: keep the flag with the weights.
        conditions: numbers that are known of each picture besides the time, as source lens, target lens
            and disparity are in bokeh.
        stereo: the pictures 2i and 2i + 1 of every batch are the left and the right view of one scene,
            rectified and of one time; after every block each looks along the rows of the other.
        shrink: of the views before they look, 4 as published or 1, see `SCAM`. On pixels unshuffled four
            times 1 is as fine as 4 on pixels.
        conditional: False for the denoising SDE, which has no mean: the network sees x_t alone, and
            whatever is given as mu is ignored.
        local: height and width of the states in training, if channel attention should take the mean of
            about as much around each position as it did then, see `local_mean`; by default of everything.
            Such a network has no `reach` and runs on whole pictures only.

    Raises:
        ValueError: unequal numbers of levels, an odd or small width, a negative number of conditions, a
            `local` that is no height and width, another `shrink` of two views.
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 64,
        encoder: Sequence[int] = (1, 1, 1, 28),
        middle: int = 1,
        decoder: Sequence[int] = (1, 1, 1, 1),
        long_skip: bool = False,
        conditions: int = 0,
        stereo: bool = False,
        shrink: int = 4,
        conditional: bool = True,
        local: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if len(encoder) != len(decoder):
            raise ValueError(
                f"encoder has {len(encoder)} levels and decoder {len(decoder)}: give both the same"
            )
        if width < 4 or width % 2:
            raise ValueError(f"width is {width}: give an even number of at least 4")
        if conditions < 0:
            raise ValueError(f"conditions is {conditions}: give how many numbers there are, or 0")
        if stereo and shrink not in SHRINKS:
            raise ValueError(f"shrink is {shrink}: give one of {SHRINKS}")
        if local and (len(local) != 2 or min(local) < 1):
            raise ValueError(f"local is {tuple(local)}: give height and width of the states in training")
        self.long_skip, self.conditions, self.conditional = long_skip, conditions, conditional
        self.views = 2 if stereo else 1
        """Pictures of one scene, which follow each other in a batch."""
        self.factor = 2 ** len(encoder)
        """Sides are padded to multiples of this; at the bottom so many positions are one."""
        grid = shrink if stereo else 1
        self.multiple = grid * self.factor
        """Tiles that start at multiples of this have every grid in common with the whole."""
        self.local = tuple(local)
        self.pool = local_mean((local[0], local[1]), width, self.factor) if local else None
        if not local:
            self.reach = _reach(encoder, middle, decoder, grid)
        self.working_bytes = 40 * width + 12 * channels
        """Peak memory for each position, as measured on a CPU in float32 without gradients."""
        time_width = 4 * width
        self.time_mlp = nn.Sequential(
            Sinusoid(width),
            nn.Linear(width, 2 * time_width),
            SimpleGate(),
            nn.Linear(time_width, time_width),
        )
        if conditions:
            self.cam_mlp = nn.Sequential(
                nn.Linear(conditions * width, 2 * time_width), SimpleGate(), nn.Linear(time_width, time_width)
            )
        self.intro = nn.Conv2d((1 + conditional) * channels, width, 3, padding=1)
        self.ending = nn.Conv2d(width, channels, 3, padding=1)

        def stage(blocks: int, c: int) -> Stage:
            return Stage(
                NAFBlock(c, time_width, conditions > 0, shrink if stereo else None) for _ in range(blocks)
            )

        widths = [width * 2**i for i in range(len(encoder) + 1)]
        self.encoders = nn.ModuleList(stage(n, c) for n, c in zip(encoder, widths, strict=False))
        self.downs = nn.ModuleList(nn.Conv2d(c, 2 * c, 2, 2) for c in widths[:-1])
        self.middle_blks = stage(middle, widths[-1])
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, 2 * c, 1, bias=False), nn.PixelShuffle(2)) for c in widths[:0:-1]
        )
        self.decoders = nn.ModuleList(stage(n, c) for n, c in zip(decoder, widths[-2::-1], strict=True))
        if conditions:
            self._heed_conditions()
        self.modulations = [(6 if conditions else 4) * block.beta.numel() for block in self._blocks()]
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _blocks(self) -> list[NAFBlock]:
        """All blocks in the order in which a picture passes them."""
        return [block for stage in (*self.encoders, self.middle_blks, *self.decoders) for block in stage]

    def _heed_conditions(self) -> None:
        """LeCun's normal weights, with which the conditions change what a block does by about a quarter. With
        torch's own it would be half a percent, which training does not notice before it has settled on doing
        nothing."""
        for mlp in (self.cam_mlp, *(block.cam_mlp for block in self._blocks())):
            for layer in mlp:
                if isinstance(layer, nn.Linear):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
                    nn.init.zeros_(layer.bias)

    def embed(
        self, t: Float[Tensor, " b"], condition: Float[Tensor, "b conditions"] | None = None
    ) -> Float[Tensor, "b modulations"]:
        """All that depends on the time and the conditions alone; sampling computes it once for all steps.

        Raises:
            ValueError: other than `conditions` numbers are given for each picture.
        """
        given = 0 if condition is None else condition.shape[1]
        if given != self.conditions:
            raise ValueError(f"condition has {given} numbers for each picture: give {self.conditions}")
        time, blocks = self.time_mlp(t), self._blocks()
        if condition is None or not given:
            return torch.cat([block.mlp(time) for block in blocks], dim=1)
        sinusoids = self.time_mlp[0](condition.flatten()).reshape(condition.shape[0], -1)
        camera = self.cam_mlp(sinusoids)
        parts = [part for block in blocks for part in (block.mlp(time), block.cam_mlp(camera))]
        return torch.cat(parts, dim=1)

    def forward(
        self,
        x_t: Float[Tensor, "b c h w"],
        mu: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        embedding: Float[Tensor, "b modulations"] | None = None,
        pool: Pool = whole_mean,
    ) -> Float[Tensor, "b c h w"]:
        """What the network predicts at integer training time t, or given `embedding = embed(t, condition)`.

        `pool` gives the channel attention what stands for all positions: it is called once in every
        block, always in the same order. A `local` network has its own.

        Raises:
            ValueError: no embedding for a network that takes conditions, or a view without the other.
        """
        if len(x_t) % self.views:
            raise ValueError(f"the batch has {len(x_t)} pictures: give left and right view of every scene")
        embedding = self.embed(t) if embedding is None else embedding
        modulations = iter(torch.split(embedding[:, :, None, None], self.modulations, dim=1))
        pool = self.pool or pool
        height, width = x_t.shape[-2:]
        seen = torch.cat([x_t - mu, mu], dim=1) if self.conditional else x_t
        x = pad_to_multiple(seen, self.factor)
        x = intro = self.intro(x.contiguous(memory_format=torch.channels_last))
        skips = []
        for stage, down in zip(self.encoders, self.downs, strict=True):
            x = stage(x, modulations, pool)
            skips.append(x)
            x = down(x)
        x = self.middle_blks(x, modulations, pool)
        for up, stage in zip(self.ups, self.decoders, strict=True):
            x = stage(up(x) + skips.pop(), modulations, pool)
        x = self.ending(x + intro if self.long_skip else x)
        return x[..., :height, :width]


def _reach(encoder: Sequence[int], middle: int, decoder: Sequence[int], grid: int) -> int:
    """Positions beyond a window that its output depends on, apart from what is pooled.

    The window starts and ends at multiples of `multiple`. Followed from the output to the input: a 3x3
    convolution looks one position further, of which a block has one; two positions are one a level deeper.
    What a block ends with may look at whole cells of a grid; for stereo these are rows, seen in full.
    """

    def through(reach: int, blocks: int) -> int:
        for _ in range(blocks):
            reach = -(-reach // grid) * grid + 1
        return reach

    reach = 1  # the last convolution
    for blocks in reversed(decoder):
        reach = (through(reach, blocks) + 1) // 2
    reach = through(reach, middle)
    for blocks in reversed(encoder):
        reach = through(2 * reach, blocks)
    return reach + 1  # the first
