"""ConditionalUNet: the noise network of IR-SDE (Luo et al. 2023, arXiv 2301.11699), Refusion's baseline."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from refusion.nn.layers import LinearAttention, PreNorm, ResBlock, Residual, Sinusoid, reflect
from refusion.nn.network import Network
from refusion.nn.pooling import Pool, whole_mean

MOST_LEVELS = 8


class Attention(nn.Module):
    """Attention of every pixel to every pixel: softmax(q k^T / sqrt(head_width)) v in each head."""

    def __init__(self, channels: int, heads: int = 4, head_width: int = 32) -> None:
        super().__init__()
        self.heads, self.head_width = heads, head_width
        inner = heads * head_width
        self.to_qkv = nn.Conv2d(channels, 3 * inner, 1, bias=False)
        self.to_out = nn.Conv2d(inner, channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        height, width = x.shape[-2:]
        heads = self.to_qkv(x).reshape(x.shape[0], 3, self.heads, self.head_width, height * width)
        q, k, v = heads.mT.unbind(1)
        values = F.scaled_dot_product_attention(q, k, v)
        return self.to_out(values.mT.reshape(x.shape[0], -1, height, width))


class Down(nn.ModuleList):
    """A level on the way down: two ResBlocks, attention, downsampling. Also returns two skips."""

    def forward(
        self, x: Float[Tensor, "b c h w"], modulations: Iterator[Tensor]
    ) -> tuple[Float[Tensor, "b deeper_c down_h down_w"], list[Tensor]]:
        first, second, attend, down = self
        outer = first(x, next(modulations))
        inner = attend(second(outer, next(modulations)))
        return down(inner), [outer, inner]


class Up(nn.ModuleList):
    """A level on the way up: two ResBlocks, each with a skip that it pops, attention, upsampling."""

    def forward(
        self, x: Float[Tensor, "b deeper_c h w"], modulations: Iterator[Tensor], skips: list[Tensor]
    ) -> Float[Tensor, "b c up_h up_w"]:
        first, second, attend, up = self
        x = first(torch.cat([x, skips.pop()], dim=1), next(modulations))
        return up(attend(second(torch.cat([x, skips.pop()], dim=1), next(modulations))))


class ConditionalUNet(Network):
    """A U-Net of ResBlocks with attention at every level: (x_t, mu, t) -> a tensor like x_t.

    Linear attention depends on the whole picture at every level, by sums that are no means of features and
    cannot be measured in patches. So there is no `reach`: the network runs on whole pictures only.
    The published widths are 64, and 32 with the multipliers (2, 4, 8, 16, 32) for deshadowing.

    Args:
        channels: channels of the picture.
        width: channels at full size.
        multipliers: channels after each level, as multiples of the width; one for each level.
        conditional: False for the denoising SDE, which has no mean: the network sees x_t alone and
            ignores mu.
        softmax: full attention at the bottom, as in the published network of the denoising SDE.

    Raises:
        ValueError: no multiplier, more than 8, or one below 1; an odd or small width.
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 64,
        multipliers: Sequence[int] = (2, 4, 8, 16),
        conditional: bool = True,
        softmax: bool = False,
    ) -> None:
        super().__init__()
        if not multipliers or min(multipliers) < 1 or len(multipliers) > MOST_LEVELS:
            raise ValueError(f"multipliers is {tuple(multipliers)}: give 1 to {MOST_LEVELS}, each at least 1")
        if width < 4 or width % 2:
            raise ValueError(f"width is {width}: give an even number of at least 4")
        widths = [width, *(width * m for m in multipliers)]
        depth, time_width = len(multipliers), 4 * width
        self.conditional = conditional
        self.multiple = 2**depth
        """Sides are padded to multiples of this, twice the factor by which they are reduced."""
        self.working_bytes = 4000 + 44 * width  # on a CPU in float32 without gradients; most is attention's

        def block(inputs: int, outputs: int) -> ResBlock:
            return ResBlock(inputs, outputs, time_width)

        def attend(c: int, kind: type[nn.Module] = LinearAttention) -> nn.Module:
            return Residual(PreNorm(c, kind(c)))

        self.init_conv = nn.Conv2d(2 * channels if conditional else channels, width, 7, padding=3, bias=False)
        self.time_mlp = nn.Sequential(
            Sinusoid(width), nn.Linear(width, time_width), nn.GELU(), nn.Linear(time_width, time_width)
        )
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        for i, (c, deeper) in enumerate(pairwise(widths)):
            deepest = i == depth - 1
            down = nn.Conv2d(c, deeper, 3, 1, 1, bias=False) if deepest else nn.Conv2d(c, deeper, 4, 2, 1)
            self.downs.append(Down([block(c, c), block(c, c), attend(c), down]))
            up = (
                nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(deeper, c, 3, padding=1))
                if i
                else nn.Conv2d(deeper, c, 3, padding=1, bias=False)
            )
            blocks = (block(deeper + c, deeper), block(deeper + c, deeper))
            self.ups.insert(0, Up([*blocks, attend(deeper), up]))
        self.mid_block1 = block(widths[-1], widths[-1])
        self.mid_attn = attend(widths[-1], Attention if softmax else LinearAttention)
        self.mid_block2 = block(widths[-1], widths[-1])
        self.final_res_block = block(2 * width, width)
        self.final_conv = nn.Conv2d(width, channels, 3, padding=1)
        self.modulations = [2 * block.block1.proj.out_channels for block in self._blocks()]
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _blocks(self) -> list[ResBlock]:
        """Return all ResBlocks in the order in which a picture passes them."""
        levels: list[Any] = [*self.downs, (self.mid_block1, self.mid_block2), *self.ups]
        return [*(block for level in levels for block in level[:2]), self.final_res_block]

    def embed(
        self, t: Float[Tensor, " b"], condition: Float[Tensor, "b conditions"] | None = None
    ) -> Float[Tensor, "b modulations"]:
        """Return the modulations of all ResBlocks; there is no condition."""
        time = self.time_mlp(t)
        return torch.cat([block.mlp(time) for block in self._blocks()], dim=1)

    def forward(
        self,
        x_t: Float[Tensor, "b c h w"],
        mu: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        embedding: Float[Tensor, "b modulations"] | None = None,
        pool: Pool = whole_mean,
    ) -> Float[Tensor, "b c h w"]:
        """Return the prediction at integer training time t; `embedding` is `embed(t)`, `pool` is not used."""
        embedding = self.embed(t) if embedding is None else embedding
        modulations = iter(torch.split(embedding[:, :, None, None], self.modulations, dim=1))
        height, width = x_t.shape[-2:]
        x = torch.cat([x_t - mu, mu], dim=1) if self.conditional else x_t
        x = reflect(x, (height + -height % self.multiple, width + -width % self.multiple))
        x = first = self.init_conv(x.contiguous(memory_format=torch.channels_last))
        skips: list[Tensor] = []
        for down in self.downs:
            x, passed = down(x, modulations)
            skips += passed
        x = self.mid_attn(self.mid_block1(x, next(modulations)))
        x = self.mid_block2(x, next(modulations))
        for up in self.ups:
            x = up(x, modulations, skips)
        x = self.final_res_block(torch.cat([x, first], dim=1), next(modulations))
        return self.final_conv(x)[..., :height, :width]
