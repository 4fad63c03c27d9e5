"""A training step against the straightforward loop, part by part, taken in turn.

    python benchmarks/training.py [THREADS]

The model is the bundled deraining's, 8 samples of 128 x 128, untrained weights, float32. Straightforward is
what `plain` writes down, with samples whose files are decoded each time. Seconds are of the processor, on
one thread by default, so that a busy neighbour changes little; medians of rounds.
"""

import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from folder import photos
from plain import plain_network, plain_update, plainly

from refusion.allocator import keep_freed_memory
from refusion.data.dataset import TrainingSamples
from refusion.data.pairs import find_pairs
from refusion.diffusion.objective import diffusion_loss
from refusion.nn.nafnet import ConditionalNAFNet
from refusion.training.optimizer import make_optimizer
from refusion.training.recipe import load_yaml
from refusion.training.trainer import clip_gradient, update_average

ROUNDS = 9
RECIPE = Path(__file__).parents[1] / "src/refusion/recipes/deraining.yaml"
Call = Callable[[], object]


def in_turn(slow: Call, fast: Call) -> tuple[float, float, float]:
    """Return the medians of both, and that of their ratio, after a warm-up."""

    def seconds(call: Call) -> float:
        began = time.process_time()
        call()
        return time.process_time() - began

    for call in (slow, fast):
        call()
    rounds = [(seconds(slow), seconds(fast)) for _ in range(ROUNDS)]
    medians = [statistics.median(column) for column in zip(*rounds, strict=True)]
    return medians[0], medians[1], statistics.median(a / b for a, b in rounds)


def main(threads: int = 1) -> None:
    torch.set_num_threads(threads)
    recipe = load_yaml(RECIPE)
    loop = recipe.training
    restorer = recipe.model.build()
    sde, codec, ours = restorer.sde, restorer.codec, restorer.network.train()
    assert isinstance(ours, ConditionalNAFNet)
    plain = plain_network(ours).train()
    pictures = torch.rand(2, loop.batch, 3, *recipe.data.patch)
    x0, mu = (codec.encode(z).mu for z in pictures)
    noise, t = torch.randn_like(x0), torch.randint(1, sde.steps + 1, (loop.batch,))

    def gradient(network: ConditionalNAFNet) -> Call:
        def run() -> None:
            diffusion_loss(
                lambda x_t, mu, t: network(x_t, mu, t, network.embed(t)),
                sde,
                restorer.prediction,
                x0,
                mu,
                t,
                noise,
            ).backward()

        return run

    average, plain_average = (copy.deepcopy(z).requires_grad_(False) for z in (ours, plain))
    optimizer = make_optimizer(loop, ours)
    plain_optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3, betas=(0.9, 0.99), foreach=False)

    def update() -> None:
        clip_gradient(ours, loop.clip)
        optimizer.step()
        update_average(average, ours, loop.ema, 10_000)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("lq", "gt"):
            (folder / part).mkdir()
            photos(folder / part, 0.16, 8)
        pairs = find_pairs(folder)
        samples = [TrainingSamples(pairs, recipe.data.patch, cache_bytes=size) for size in (0, 2**30)]

        def drawn(of: TrainingSamples) -> Call:
            return lambda: [of[i] for i in range(loop.batch)]

        parts: dict[str, tuple[Call, Call]] = {
            "drawing 8 samples": (drawn(samples[0]), drawn(samples[1])),
            "forward and backward": (plainly(gradient(plain)), gradient(ours)),
            "clipping, optimizer, average": (
                lambda: plain_update(plain, plain_average, plain_optimizer, loop.clip, loop.ema),
                update,
            ),
        }
        print("| | straightforward, s | ours, s | ratio |\n|---|---|---|---|")
        total = [0.0, 0.0]
        for part, (slow, fast) in parts.items():
            gradient(ours)()
            plainly(gradient(plain))()
            a, b, ratio = in_turn(slow, fast)
            total = [total[0] + a, total[1] + b]
            print(f"| {part} | {a:.4f} | {b:.4f} | {ratio:.2f} |", flush=True)
        print(f"| a step | {total[0]:.3f} | {total[1]:.3f} | {total[0] / total[1]:.2f} |")


if __name__ == "__main__":
    keep_freed_memory()
    main(*map(int, sys.argv[1:]))
