"""Layers that the networks share.

Module and parameter names are those of the published weights, so that a published state dict is a
state dict of ours.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class LayerNorm(nn.Module):
    """Normalisation of the channels of every pixel: (x - mean) / sqrt(var + eps) * g, without a bias.

    The normalisation runs on a channels-last view in at least float32, which costs nothing when
    the memory format already is channels-last and is 1.4 times faster than writing it by hand.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.g = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        normalised = F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), self.g.flatten(), None, self.eps)
        return normalised.permute(0, 3, 1, 2)


class SimpleGate(nn.Module):
    """The product of the two halves of the channels (NAFNet, equation 4)."""

    def forward(self, x: Float[Tensor, "b c *rest"]) -> Float[Tensor, "b half_c *rest"]:
        if x.requires_grad and torch.is_grad_enabled():
            return _Gate.apply(x)  # type: ignore[no-untyped-call]
        a, b = x.chunk(2, dim=1)
        return a * b


class _Gate(torch.autograd.Function):
    """The gate with a backward pass that writes both halves of the gradient where they belong."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        a, b = x.chunk(2, dim=1)
        return a * b

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gradient = torch.empty_like(x)
        for half, other in zip(gradient.chunk(2, dim=1), reversed(x.chunk(2, dim=1)), strict=True):
            torch.mul(grad, other, out=half)
        return gradient


def pointwise(
    x: Float[Tensor, "b c h w"],
    weight: Float[Tensor, "#b out c"],
    bias: Float[Tensor, "#b out"],
    onto: Float[Tensor, "b out h w"] | None = None,
) -> Float[Tensor, "b out h w"]:
    """Return a 1x1 convolution of pictures in channels-last memory, added to `onto` if it is given.

    As a matrix product of all pixels it is up to twice as fast as `conv2d`, which on one thread of a CPU
    leaves its fast kernels to batches of 16; and each picture may have its own weight.

    Args:
        weight: one for all pictures, or one for each.
        bias: as many, or one.
    """
    batch, _, height, width = x.shape
    if len(weight) > 1:
        rows = x.permute(0, 2, 3, 1).flatten(1, 2)
        if onto is None:
            y = torch.bmm(rows, weight.mT)
            y = y.add_(bias[:, None].to(y.dtype))
        else:
            y = onto.permute(0, 2, 3, 1).flatten(1, 2) + bias[:, None].to(onto.dtype)
            y = y.baddbmm_(rows.to(y.dtype), weight.mT.to(y.dtype))
        return y.reshape(batch, height, width, -1).permute(0, 3, 1, 2)
    lines = x.permute(0, 2, 3, 1).reshape(batch * height, 1, width, -1).permute(0, 3, 1, 2)
    y = F.conv2d(lines, weight[0, :, :, None, None], bias[0])
    y = y.permute(0, 2, 3, 1).reshape(batch, height, width, -1).permute(0, 3, 1, 2)
    return y if onto is None else onto + y


class Sinusoid(nn.Module):
    """Embedding of a scalar, (b,) -> (b, width): sines, then cosines of geometrically falling frequencies."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b width"]:
        half = self.width // 2
        step = -math.log(10000) / (half - 1)
        frequencies = torch.exp(torch.arange(half, device=t.device, dtype=torch.float32) * step)
        angles = t[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class Block(nn.Module):
    """3x3 convolution without bias, then SiLU; `modulation` holds a scale and a shift between the two."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)

    def forward(
        self, x: Float[Tensor, "b inputs h w"], modulation: Float[Tensor, "b pair 1 1"] | None = None
    ) -> Float[Tensor, "b outputs h w"]:
        x = self.proj(x)
        if modulation is not None:
            scale, shift = modulation.to(x.dtype).chunk(2, dim=1)
            x = x * (scale + 1) + shift
        return F.silu(x)


class ResBlock(nn.Module):
    """Two `Block`s beside a shortcut, which is a 1x1 convolution where the widths differ.

    Args:
        time_width: width of the embedded time, from which `mlp` computes the first block's modulation;
            0 for a block without modulation.
    """

    def __init__(self, inputs: int, outputs: int, time_width: int = 0) -> None:
        super().__init__()
        if time_width:
            self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(time_width, 2 * outputs))
        self.block1 = Block(inputs, outputs)
        self.block2 = Block(outputs, outputs)
        self.res_conv = nn.Conv2d(inputs, outputs, 1, bias=False) if inputs != outputs else nn.Identity()

    def forward(
        self, x: Float[Tensor, "b inputs h w"], modulation: Float[Tensor, "b pair 1 1"] | None = None
    ) -> Float[Tensor, "b outputs h w"]:
        return self.block2(self.block1(x, modulation)) + self.res_conv(x)


class LinearAttention(nn.Module):
    """Attention whose cost is linear in the number of pixels (Shen et al., arXiv 1812.01243).

    q is a softmax over a head's channels, k over the pixels; k v^T is one small matrix for each head.
    The values are divided by the number of pixels, as in the published networks.
    """

    def __init__(self, channels: int, heads: int = 4, head_width: int = 32) -> None:
        super().__init__()
        self.heads, self.head_width = heads, head_width
        inner = heads * head_width
        self.to_qkv = nn.Conv2d(channels, 3 * inner, 1, bias=False)
        self.to_out = nn.Sequential(nn.Conv2d(inner, channels, 1), LayerNorm(channels))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        height, width = x.shape[-2:]
        heads = self.to_qkv(x).reshape(x.shape[0], 3, self.heads, self.head_width, height * width)
        q, k, v = heads.unbind(1)
        q = q.softmax(-2) * self.head_width**-0.5
        context = k.softmax(-1) @ (v / (height * width)).mT
        return self.to_out((context.mT @ q).reshape(x.shape[0], -1, height, width))


class PreNorm(nn.Module):
    """A module after a normalisation: fn(norm(x))."""

    def __init__(self, channels: int, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn
        self.norm = LayerNorm(channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self.fn(self.norm(x))


class Residual(nn.Module):
    """A module with a shortcut: x + fn(x)."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + self.fn(x)


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Return the type to which autocast narrows products on the device of a tensor; None without autocast."""
    kind = x.device.type
    active = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if active else None


def in_float32(module: nn.Module, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b out h w"]:
    """Return module(x), in float32 also under autocast: a picture in bfloat16 has steps of 1 / 256."""
    if autocast_dtype(x) is None:
        return module(x)
    with torch.autocast(x.device.type, enabled=False):
        return module(x.float())


def reflect(x: Float[Tensor, "b c h w"], size: tuple[int, int]) -> Float[Tensor, "b c padded_h padded_w"]:
    """Extend to height and width `size` by reflection on the right and at the bottom.

    Where the picture is smaller than the extension, it is reflected repeatedly.
    """
    for dim, length in zip((-2, -1), size, strict=True):
        last = x.shape[dim] - 1
        if torch.compiler.is_exporting() or length > last + 1:  # a graph for all sizes has no branches
            period = torch.full((1,), max(1, 2 * last), device=x.device)
            phase = torch.arange(length, device=x.device) % period
            x = x.index_select(dim, last - (phase - last).abs())
    return x


def pad_to_multiple(x: Float[Tensor, "b c h w"], multiple: int) -> Float[Tensor, "b c padded_h padded_w"]:
    """Pad with zeros on the right and at the bottom until both sides are multiples of `multiple`."""
    height, width = x.shape[-2:]
    return F.pad(
        x, (0, (multiple - width % multiple) % multiple, 0, (multiple - height % multiple) % multiple)
    )
