"""Network and training step as one writes them down at first, to compare ours with: the same weights."""

import copy
from collections.abc import Callable, Iterator
from unittest import mock

import torch
from torch import Tensor, nn

from refusion.nn import nafnet
from refusion.nn.layers import LayerNorm
from refusion.nn.nafnet import ConditionalNAFNet, NAFBlock


class HandWrittenNorm(nn.Module):
    """The layer norm as the formula reads."""

    def __init__(self, norm: LayerNorm) -> None:
        super().__init__()
        self.g, self.eps = norm.g, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=1, unbiased=False, keepdim=True)
        return (x - mean) * (variance + self.eps).rsqrt() * self.g


class HandWrittenGate(nn.Module):
    """The gate as the formula reads, with the gradient that torch derives."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=1)
        return a * b


def plain_network(network: ConditionalNAFNet) -> ConditionalNAFNet:
    """Return a copy in channels first, with norm and gate written out; call it within `plainly`."""
    plain = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    for module in plain.modules():
        if isinstance(module, NAFBlock):
            module.norm1, module.norm2 = HandWrittenNorm(module.norm1), HandWrittenNorm(module.norm2)
            module.sg = HandWrittenGate()
    return plain


def plainly(call: Callable[[], object]) -> Callable[[], None]:
    """Return a call in which no factor is folded into weights and no picture is turned to channels last."""

    def run() -> None:
        with (
            mock.patch("torch.channels_last", torch.contiguous_format),
            mock.patch.object(nafnet, "_folds", return_value=False),
        ):
            call()

    return run


def plain_update(
    network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, clip: float, decay: float
) -> None:
    """Clip, step and average weight by weight; the optimizer is one with foreach=False. Gradients stay."""
    nn.utils.clip_grad_norm_(network.parameters(), clip, foreach=False)
    optimizer.step()
    with torch.no_grad():
        for kept, value in pairs(average, network):
            kept.mul_(decay).add_(value, alpha=1 - decay)


def pairs(one: nn.Module, other: nn.Module) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
    return zip(one.parameters(), other.parameters(), strict=True)
