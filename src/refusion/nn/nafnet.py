"""ConditionalNAFNet: the noise network of Refusion (Luo et al. 2023, section 3.2).

NAFNet (Chen et al., arXiv 2204.04676) in which the time, and the condition of a picture if there is one,
scale and shift the features of every block.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from refusion.nn.cross_attention import DOWNSCALES, SCAM
from refusion.nn.layers import (
    LayerNorm,
    SimpleGate,
    Sinusoid,
    autocast_dtype,
    in_float32,
    pad_to_multiple,
    pointwise,
)
from refusion.nn.network import Network
from refusion.nn.pooling import Pool, local_mean, whole_mean


class NAFBlock(nn.Module):
    """A block of an attention half (depthwise 3x3, channel attention) and a gated FFN half, both residual.

    `beta` and `gamma` start at zero, so a fresh block is the identity.

    Args:
        time_width: width of the embedded time, and of the embedded condition.
        camera: the condition (the camera's lenses, in bokeh) scales and shifts the FFN half, too.
        downscale: of the cross-attention between two views at the block's end, see `SCAM`; None for one view.
    """

    def __init__(
        self, channels: int, time_width: int, camera: bool = False, downscale: int | None = None
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
        self.fusion = SCAM(c, downscale) if downscale is not None else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        modulation: Float[Tensor, "b modulations 1 1"],
        pool: Pool = whole_mean,
    ) -> Float[Tensor, "b c h w"]:
        shift_att, scale_att, shift_ffn, scale_ffn, *camera = torch.split(modulation, x.shape[1], dim=1)
        a = self.sg(self.conv2(_modulated(self.conv1, self.norm1(x), scale_att, shift_att)))
        y = _residual(x, self.beta, self.conv3, a, self.sca(pool(a)))
        f = self.sg(_modulated(self.conv4, self.norm2(y), scale_ffn, shift_ffn))
        if camera:
            scale, shift = camera
            f = f * (scale + 1).to(f.dtype) + shift.to(f.dtype)
        return self.fusion(_residual(y, self.gamma, self.conv5, f))


def _modulated(
    conv: nn.Conv2d,
    x: Float[Tensor, "b c h w"],
    scale: Float[Tensor, "b c 1 1"],
    shift: Float[Tensor, "b c 1 1"],
) -> Float[Tensor, "b out h w"]:
    """Return conv(x * (scale + 1) + shift) for a 1x1 convolution."""
    if not _folds(x):
        # Under autocast x is bfloat16: without the casts the products would fall back to float32.
        return conv(x * (scale + 1).to(x.dtype) + shift.to(x.dtype))
    assert conv.bias is not None
    weight = conv.weight[:, :, 0, 0]
    bias = (weight * shift[:, None, :, 0, 0]).sum(-1) + conv.bias
    return pointwise(x, weight * (scale + 1)[:, None, :, 0, 0], bias)


def _residual(
    x: Float[Tensor, "b c h w"],
    factor: Float[Tensor, "1 c 1 1"],
    conv: nn.Conv2d,
    branch: Float[Tensor, "b c h w"],
    attention: Float[Tensor, "#b c #h #w"] | None = None,
) -> Float[Tensor, "b c h w"]:
    """Return x + factor * conv(branch * attention) for a 1x1 convolution."""
    assert conv.bias is not None
    weight, bias = conv.weight[:, :, 0, 0] * factor[0, :, 0], conv.bias * factor.flatten()
    folds = _folds(x) and (attention is None or attention.shape[-2:] == (1, 1))
    if not folds:
        branch = branch if attention is None else branch * attention
        return x + F.conv2d(branch, weight[..., None, None], bias)
    weights = weight[None] if attention is None else weight * attention[:, None, :, 0, 0]
    return pointwise(branch, weights, bias[None], x)


def _folds(x: Float[Tensor, "b c h w"]) -> bool:
    """Return whether to multiply the weights of a convolution by the factors of channels, not the features.

    It saves passes over memory where the weights of each picture are small beside its features. A graph
    for another engine keeps its weights constant.
    """
    _, channels, height, width = x.shape
    return height * width >= 4 * channels and not torch.compiler.is_exporting()


class Stage(nn.ModuleList):
    """A sequence of NAFBlocks of one width; each takes the next modulation."""

    def forward(
        self, x: Float[Tensor, "b c h w"], modulations: Iterator[Tensor], pool: Pool = whole_mean
    ) -> Float[Tensor, "b c h w"]:
        for block in self:
            x = block(x, next(modulations), pool)
        return x


class ConditionalNAFNet(Network):
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
        conditions: numbers in the condition of each picture, as source lens, target lens and disparity in
            bokeh; 0 for a network without condition.
        stereo: the pictures 2i and 2i + 1 of every batch are the left and the right view of one scene,
            rectified and at the same time t; after every block each attends to the rows of the other.
        downscale: factor by which the views are reduced before that attention, 4 as published or 1, see
            `SCAM`. On pixels unshuffled by 4, 1 is as fine as 4 on pixels.
        conditional: False for the denoising SDE, which has no mean: the network sees x_t alone and
            ignores mu.
        guides: maps that the network sees beside the picture, see `Network.num_guides`.
        map_channels: channels of the state of a guide.
        sees_lq: see `Network.sees_lq`.
        local: height and width of the states in training, if channel attention should take means over
            windows of about that size, see `local_mean`; by default it takes means over the whole state.
            A local network has no `reach` and runs on whole pictures only.

    Raises:
        ValueError: unequal numbers of levels, an odd or small width, a negative number of conditions, a
            `local` that is not height and width, two views with a `downscale` other than 1 or 4, or guides
            or a degraded picture for a network without mu.
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
        downscale: int = 4,
        conditional: bool = True,
        local: Sequence[int] = (),
        guides: int = 0,
        map_channels: int = 1,
        sees_lq: bool = False,
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
        if stereo and downscale not in DOWNSCALES:
            raise ValueError(f"downscale is {downscale}: give one of {DOWNSCALES}")
        if local and (len(local) != 2 or min(local) < 1):
            raise ValueError(f"local is {tuple(local)}: give height and width of the states in training")
        if guides < 0 or (guides and not conditional):
            raise ValueError(
                f"guides is {guides}: give how many maps there are, or 0, as without conditional"
            )
        if sees_lq and not conditional:
            raise ValueError("sees_lq is true and conditional false: a network sees mu, too, or neither")
        self.num_guides, self.sees_lq = guides, sees_lq
        self.long_skip, self.num_conditions, self.conditional = long_skip, conditions, conditional
        self.num_views = 2 if stereo else 1
        self.factor = 2 ** len(encoder)
        """Factor by which sides are reduced at the bottom; they are padded to multiples of it."""
        grid = downscale if stereo else 1
        self.traceable = not local and grid == 1
        self.multiple = grid * self.factor
        self.local = tuple(local)
        self.pool = local_mean((local[0], local[1]), width, self.factor) if local else None
        self.reach = None if local else _reach(encoder, middle, decoder, grid)
        self.working_bytes = 40 * width + 12 * channels  # on a CPU in float32 without gradients
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
        beside = channels + guides * map_channels + channels * sees_lq
        seen = channels + beside if conditional else channels
        self.intro = nn.Conv2d(seen, width, 3, padding=1)
        self.ending = nn.Conv2d(width, channels, 3, padding=1)
        for weight in self.ending.parameters():
            nn.init.zeros_(weight)  # untrained it predicts no correction of mu

        def stage(blocks: int, c: int) -> Stage:
            return Stage(
                NAFBlock(c, time_width, conditions > 0, downscale if stereo else None) for _ in range(blocks)
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
            self._init_condition_mlps()
        self.modulations = [(6 if conditions else 4) * block.beta.numel() for block in self._blocks()]
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _blocks(self) -> list[NAFBlock]:
        """Return all blocks in the order in which a picture passes them."""
        return [block for stage in (*self.encoders, self.middle_blks, *self.decoders) for block in stage]

    def _init_condition_mlps(self) -> None:
        """Initialise the condition MLPs with LeCun's normal weights.

        A condition then changes the output of a block by about a quarter. With torch's own weights it would
        be half a percent, and training would settle on ignoring the condition.
        """
        for mlp in (self.cam_mlp, *(block.cam_mlp for block in self._blocks())):
            for layer in mlp:
                if isinstance(layer, nn.Linear):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
                    nn.init.zeros_(layer.bias)

    def embed(
        self, t: Float[Tensor, " b"], condition: Float[Tensor, "b conditions"] | None = None
    ) -> Float[Tensor, "b modulations"]:
        """Return the modulations of all blocks; sampling computes them once for all steps.

        Raises:
            ValueError: the condition of a picture does not have `num_conditions` numbers.
        """
        count = 0 if condition is None else condition.shape[1]
        if count != self.num_conditions:
            raise ValueError(f"condition has {count} numbers for each picture: give {self.num_conditions}")
        time, blocks = self.time_mlp(t), self._blocks()
        if condition is None or not count:
            return torch.cat([block.mlp(time) for block in blocks], dim=1)
        sinusoids = self.time_mlp[0](condition.flatten()).reshape(condition.shape[0], -1)
        camera = self.cam_mlp(sinusoids)
        parts = [part for block in blocks for part in (block.mlp(time), block.cam_mlp(camera))]
        return torch.cat(parts, dim=1)

    def forward(
        self,
        x_t: Float[Tensor, "b c h w"],
        mu: Float[Tensor, "b seen h w"],
        t: Float[Tensor, " b"],
        embedding: Float[Tensor, "b modulations"] | None = None,
        pool: Pool = whole_mean,
    ) -> Float[Tensor, "b c h w"]:
        """Return the prediction at integer training time t; `embedding` is `embed(t, condition)`.

        `pool` computes the means of the channel attention: it is called once in every block, always in the
        same order. A `local` network uses its own instead.

        Raises:
            ValueError: no embedding for a network that takes a condition, or a view without the other.
        """
        if x_t.shape[0] % self.num_views:  # len would fix the number in a graph
            raise ValueError(
                f"the batch has {x_t.shape[0]} pictures: give left and right view of every scene"
            )
        embedding = self.embed(t) if embedding is None else embedding
        modulations = iter(torch.split(embedding[:, :, None, None], self.modulations, dim=1))
        pool = self.pool or pool
        height, width = x_t.shape[-2:]
        seen = torch.cat([x_t - mu[:, : x_t.shape[1]], mu], dim=1) if self.conditional else x_t
        x = pad_to_multiple(seen, self.factor)
        x = in_float32(self.intro, x.contiguous(memory_format=torch.channels_last))
        x = x.to(autocast_dtype(x) or x.dtype)  # as all features under autocast
        intro = x
        skips = []
        for stage, down in zip(self.encoders, self.downs, strict=True):
            x = stage(x, modulations, pool)
            skips.append(x)
            x = down(x)
        x = self.middle_blks(x, modulations, pool)
        for up, stage in zip(self.ups, self.decoders, strict=True):
            x = stage(up(x) + skips.pop(), modulations, pool)
        x = in_float32(self.ending, x + intro if self.long_skip else x)
        return x[..., :height, :width]


def _reach(encoder: Sequence[int], middle: int, decoder: Sequence[int], grid: int) -> int:
    """Return the receptive field of a window's output in positions beyond the window, without pooling.

    The window starts and ends at multiples of `multiple`. Followed from the output to the input: the 3x3
    convolution of a block adds one position, and two positions become one a level deeper. The attention of
    two views at the end of a block reads whole cells of a grid, along rows that the window holds in full.
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
