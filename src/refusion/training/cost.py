"""What a recipe will cost, known before it runs: counted on tensors without memory."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from refusion.objective import replacing_loss
from refusion.recipe import Loop, Recipe
from refusion.tiling import Network, conditions


@dataclass(frozen=True)
class Cost:
    """Parameters of network and codec, multiply-accumulates of a sample's pass through the network and of
    its way through the codec and back, bytes of a training step."""

    parameters: int
    macs: int
    codec_macs: int
    memory: int

    def __str__(self) -> str:
        codec = f" and {self.codec_macs / 1e9:.2f} in the codec" if self.codec_macs else ""
        return (
            f"{self.parameters / 1e6:.2f} M parameters, {self.macs / 1e9:.2f} GMAC a sample and pass{codec}, "
            f"about {self.memory / 2**30:.2f} GiB a training step"
        )


def cost(recipe: Recipe) -> Cost:
    """Count a training step of each stage of a recipe; its memory is that of the larger one.

    Memory is that of the weights and their average, of the trained ones' gradient and two moments, and
    of what the backward pass keeps; libraries and the pictures come on top.
    """
    first, second = recipe.codec_training, recipe.training
    with torch.device("meta"):
        restorer = recipe.build()
        codec, network = restorer.codec, restorer.network
        denoiser = cast(Network, network)
        pictures, drop = torch.zeros(first.batch, 3, *first.patch), torch.zeros(first.batch, dtype=torch.bool)
        _, kept_first = _count(
            first, lambda: replacing_loss(codec.encode, codec.decode, pictures, pictures, drop, 1.0, 1.0)
        )
        pictures = torch.zeros(second.batch * recipe.views, 3, *recipe.data.patch)
        codec.requires_grad_(False)
        encoded = codec.encode(pictures)
        codec_macs, _ = _count(second, lambda: codec.decode(*codec.encode(pictures)))
        mu, t = encoded.mu, torch.zeros(len(pictures))
        wanted = [torch.zeros(len(t), n)] if (n := conditions(network)) else []

        def predict() -> torch.Tensor:
            return denoiser(mu, mu, t, denoiser.embed(t, *wanted))

        macs, kept_second = _count(second, predict)
        trained = list(network.parameters())
        if second.tune == "decoder":
            network.requires_grad_(False)
            trained = list(codec.decoding())
            for weight in trained:
                weight.requires_grad_(True)
        if second.compare == "picture":
            _, kept_second = _count(second, lambda: codec.decode(predict(), *encoded[1:]))
    inside, outside = (sum(p.numel() for p in module.parameters()) for module in (codec, network))
    learning = sum(p.numel() for p in trained)
    stages = (4 * 5 * inside + kept_first, 4 * (2 * (inside + outside) + 3 * learning) + kept_second)
    return Cost(inside + outside, macs, codec_macs, max(stages))


def _count(loop: Loop, work: Callable[[], object]) -> tuple[int, int]:
    """Multiply-accumulates of one sample of the batch, and bytes that the backward pass keeps of all."""
    saved = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal saved
        saved += tensor.nbytes
        return tensor

    counter = FlopCounterMode(display=False)
    with counter, saved_tensors_hooks(pack, lambda t: t):
        work()
    return counter.get_total_flops() // 2 // loop.batch, saved // (2 if loop.precision == "bf16" else 1)
