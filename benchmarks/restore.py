"""What restoring costs: seconds and peak memory by picture size and steps, and what makes it fast.

    python benchmarks/restore.py

Memory is that of a fresh process for each row. Speed-ups are ratios of medians of pairs taken in turn.
"""

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

import refusion
from refusion.image import from_array
from refusion.nn import ConditionalNAFNet

ROWS = ((0.25, 1), (1, 1), (12, 1), (24, 1), (12, 10))


def row(megapixels: float, steps: int) -> None:
    """Restore one random picture of an aspect of 3:2 and print a line."""
    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    picture = from_array(np.random.default_rng(0).random((height, height * 3 // 2, 3), dtype=np.float32))
    restore = refusion.load("shadow-removal", "cpu")
    started = time.perf_counter()
    restore(picture, steps=steps)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{megapixels:8g} MP {steps:4} steps {seconds:8.2f} s {peak:6.2f} GiB peak", flush=True)


def ratio(slow: Callable[[], object], fast: Callable[[], object], rounds: int = 7) -> float:
    """Median of slow / fast, the two taken in turn after a warm-up."""

    def seconds(call: Callable[[], object]) -> float:
        started = time.perf_counter()
        call()
        return time.perf_counter() - started

    for call in (slow, fast):
        call()
    return statistics.median(seconds(slow) / seconds(fast) for _ in range(rounds))


@torch.inference_mode()
def speedups() -> None:
    """The published shape at 128 x 128: memory format, and modulation once for all steps."""
    network = ConditionalNAFNet(width=64).eval()
    x, t = torch.rand(1, 3, 128, 128), torch.tensor([50.0])
    embedding = network.embed(t)
    plain = ConditionalNAFNet(width=64).eval().to(memory_format=torch.contiguous_format)
    print(f"embedding given: {ratio(lambda: network(x, x, t), lambda: network(x, x, t, embedding)):.2f} x")
    print(f"weights channels-last: {ratio(lambda: plain(x, x, t), lambda: network(x, x, t)):.2f} x")


def main() -> None:
    if sys.argv[1:]:
        row(float(sys.argv[1]), int(sys.argv[2]))
        return
    for megapixels, steps in ROWS:
        subprocess.run([sys.executable, __file__, str(megapixels), str(steps)], check=True)
    speedups()


if __name__ == "__main__":
    main()
