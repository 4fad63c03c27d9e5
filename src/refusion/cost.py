"""What a recipe will cost, known before it runs: counted on tensors without memory."""

from dataclasses import dataclass

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from refusion.recipe import Recipe


@dataclass(frozen=True)
class Cost:
    """Of the network: parameters, multiply-accumulates of a sample's pass, bytes of a training step."""

    parameters: int
    macs: int
    memory: int

    def __str__(self) -> str:
        return (
            f"{self.parameters / 1e6:.2f} M parameters, {self.macs / 1e9:.2f} GMAC a sample and pass, "
            f"about {self.memory / 2**30:.2f} GiB a training step"
        )


def cost(recipe: Recipe) -> Cost:
    """Count one training step of a recipe.

    Memory is that of the weights, their gradient, two moments and the average, and of what the
    backward pass keeps; libraries and the pictures come on top.
    """
    saved = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal saved
        saved += tensor.nbytes
        return tensor

    batch = recipe.training.batch
    with torch.device("meta"):
        restorer = recipe.build()
        mu = restorer.codec.encode(torch.zeros(batch, 3, *recipe.data.patch)).mu
        counter = FlopCounterMode(display=False)
        half = recipe.training.precision == "bf16"
        with counter, saved_tensors_hooks(pack, lambda t: t):
            restorer.network(mu, mu, torch.zeros(batch))
    parameters = sum(p.numel() for p in restorer.network.parameters())
    macs = counter.get_total_flops() // 2 // batch
    return Cost(parameters, macs, parameters * 4 * 5 + saved // (2 if half else 1))
