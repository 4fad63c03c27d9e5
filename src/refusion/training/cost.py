"""The cost of a recipe, counted before it runs on tensors of the device "meta", without memory."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from refusion.diffusion.objective import replacing_loss
from refusion.models.checkpoint import best_device
from refusion.nn.network import Network
from refusion.restoring.codec import Codec
from refusion.training.recipe import Loop, Recipe

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Cost:
    """The cost of a training step.

    Args:
        parameters: of network, codec and mean.
        macs: multiply-accumulates of the network, and of the mean, for a sample.
        codec_macs: multiply-accumulates of encoding and decoding a sample.
        memory: bytes.
    """

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
    """Count the cost of a training step of a recipe; memory is that of its largest stage.

    Memory is that of the weights and their average, of the gradient and two moments of the trained ones, and
    of the tensors saved for the backward pass, without that of libraries and of the input pictures.
    """
    first, between, second = recipe.codec_training, recipe.mean_training, recipe.training
    with torch.device("meta"):
        restorer = recipe.model.build()
        codec, network = restorer.codec, restorer.network
        pictures = torch.zeros(first.batch, 3, *first.patch)
        drop = torch.zeros(first.batch, dtype=torch.bool)
        _, saved_first = _count(
            first, lambda: replacing_loss(codec.encode, codec.decode, pictures, pictures, drop, 1.0, 1.0)
        )
        pictures = torch.zeros(second.batch * recipe.model.views, 3, *recipe.data.patch)
        codec.requires_grad_(False)
        encoded = codec.encode(pictures)
        codec_macs, _ = _count(second, lambda: codec.decode(*codec.encode(pictures)))
        predict = _prediction(recipe, network, codec, second)
        macs, saved_second = _count(second, predict)
        mean_macs, mean_size, saved_between = 0, 0, 0
        if restorer.mean is not None:
            mean_size = sum(p.numel() for p in restorer.mean.parameters())
            mean_macs, saved_between = _count(between, _prediction(recipe, restorer.mean, codec, between))
        trained = list(network.parameters())
        if second.trainable == "decoder":
            network.requires_grad_(False)
            trained = list(codec.decoding())
            for weight in trained:
                weight.requires_grad_(True)
        if second.compare == "picture":
            _, saved_second = _count(second, lambda: codec.decode(predict(), *encoded[1:]))
    codec_size = sum(p.numel() for p in codec.parameters())
    parameters = codec_size + mean_size + sum(p.numel() for p in network.parameters())
    trained_size = sum(p.numel() for p in trained)
    first_bytes = 4 * 5 * codec_size + saved_first
    between_bytes = 4 * (codec_size + 5 * mean_size) + saved_between
    second_bytes = 4 * (2 * parameters + 3 * trained_size) + saved_second
    return Cost(parameters, macs + mean_macs, codec_macs, max(first_bytes, between_bytes, second_bytes))


def _prediction(recipe: Recipe, network: Network, codec: Codec, loop: Loop) -> Callable[[], torch.Tensor]:
    """Return a call of a network on a batch of a loop."""
    count = loop.batch * recipe.model.views
    mu, t = codec.encode(torch.zeros(count, 3, *recipe.data.patch)).mu, torch.zeros(count)
    seen = codec.seen(network, mu, torch.zeros(count, network.num_guides, *recipe.data.patch), mu)
    condition = torch.zeros(count, network.num_conditions)
    return lambda: network(mu, seen, t, network.embed(t, condition))


def _count(loop: Loop, work: Callable[[], object]) -> tuple[int, int]:
    """Return multiply-accumulates for one sample of the batch, and bytes saved for the backward pass."""
    saved = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal saved
        saved += tensor.nbytes
        return tensor

    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.baddbmm_: _baddbmm_flops})
    with counter, saved_tensors_hooks(pack, lambda t: t):
        work()
    return counter.get_total_flops() // 2 // loop.batch, saved // (
        2 if loop.precision_on(best_device()) == "bf16" else 1
    )


def _baddbmm_flops(_: Shape, a: Shape, b: Shape, **options: object) -> int:
    """Count what torch's counter counts out of place only."""
    batch, rows, inner = a
    return 2 * batch * rows * inner * b[-1]
