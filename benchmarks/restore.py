"""What restoring costs: seconds and peak memory by kind, picture size and steps, and what makes it fast.

    python benchmarks/restore.py

`latent` is the bundled dehazing model and `pixels` its network, untrained, on pixels unshuffled by 4;
`pyramid` is the bundled shadow-removal model. Memory is that of a fresh process for each row, which reads
and writes no files. Speed-ups are ratios of medians of pairs taken in turn.
"""

import copy
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from unittest import mock

import numpy as np
import torch
from torch import nn

import refusion
from refusion.imaging.arrays import from_array
from refusion.models.checkpoint import read_header, resolve
from refusion.models.spec import ModelSpec
from refusion.nn.layers import LayerNorm
from refusion.nn.nafnet import ConditionalNAFNet, NAFBlock

ROWS = (
    *(("latent", size, 1) for size in (0.25, 1, 4, 12, 24)),
    ("latent", 24, 10),
    *(("pixels", size, 1) for size in (0.25, 1, 4, 12, 24)),
    ("pixels", 24, 10),
    ("pyramid", 24, 1),
)


def restorer(kind: str) -> refusion.Restorer:
    """On the CPU."""
    if kind == "pyramid":
        return refusion.load("shadow-removal", "cpu")
    if kind == "latent":
        return refusion.load("dehazing", "cpu")
    latent = read_header(resolve("dehazing")).spec.model_dump(mode="json")
    made = ModelSpec.model_validate({**latent, "codec": {"name": "Pixels", "factor": 4}}).build()
    made.network.requires_grad_(False)
    return made


def row(kind: str, megapixels: float, steps: int) -> None:
    """Restore one random picture of an aspect of 3:2 and print a line."""
    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    picture = from_array(np.random.default_rng(0).random((height, height * 3 // 2, 3), dtype=np.float32))
    restore = restorer(kind)
    started = time.perf_counter()
    restore(picture, steps=steps)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{kind:8}{megapixels:6g} MP {steps:4} steps {seconds:8.2f} s {peak:6.2f} GiB peak", flush=True)


def ratio(slow: Callable[[], object], fast: Callable[[], object], rounds: int = 7) -> float:
    """Median of slow / fast, the two taken in turn after a warm-up."""

    def seconds(call: Callable[[], object]) -> float:
        started = time.perf_counter()
        call()
        return time.perf_counter() - started

    for call in (slow, fast):
        call()
    return statistics.median(seconds(slow) / seconds(fast) for _ in range(rounds))


class HandWrittenNorm(nn.Module):
    """The layer norm as the formula reads, for comparison."""

    def __init__(self, norm: LayerNorm) -> None:
        super().__init__()
        self.g, self.eps = norm.g, norm.eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        variance, mean = torch.var_mean(x, dim=1, unbiased=False, keepdim=True)
        return (x - mean) * (variance + self.eps).rsqrt() * self.g


@torch.inference_mode()
def speedups() -> None:
    """The published shape at 256 x 256 against a straightforward one: the same weights, channels
    first, a layer norm written out, the modulation computed in every step."""
    fast = ConditionalNAFNet(width=64, encoder=(1, 1, 1, 4)).eval()
    plain = copy.deepcopy(fast).to(memory_format=torch.contiguous_format)
    for module in plain.modules():
        if isinstance(module, NAFBlock):
            module.norm1, module.norm2 = HandWrittenNorm(module.norm1), HandWrittenNorm(module.norm2)
    x, t = torch.rand(1, 3, 256, 256), torch.tensor([50.0])
    embedding = fast.embed(t)

    def slow() -> None:
        with mock.patch("torch.channels_last", torch.contiguous_format):
            plain(x, x, t)

    print(
        f"network call against a straightforward one: {ratio(slow, lambda: fast(x, x, t, embedding)):.2f} x"
    )


def main() -> None:
    if sys.argv[1:]:
        row(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
        return
    for values in ROWS:
        subprocess.run([sys.executable, __file__, *map(str, values)], check=True)
    speedups()


if __name__ == "__main__":
    main()
