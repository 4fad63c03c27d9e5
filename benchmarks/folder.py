"""The throughput of a folder in megapixels per second: pictures one after another, and overlapped.

    python benchmarks/folder.py [MODEL MEGAPIXELS COUNT]

One after another, each picture is a run of its own. Both are measured in turn, and the median counts.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import refusion
from refusion.allocator import keep_freed_memory
from refusion.imaging.arrays import from_array
from refusion.imaging.formats import write
from refusion.imaging.resize import antialiased
from refusion.jobs.plan import Job, plan
from refusion.jobs.run import run
from refusion.restoring.threads import use_threads

ROWS = (("shadow-removal", 6.0, 6), ("dehazing", 1.0, 8), ("deraining", 1.0, 4))
ROUNDS = 3


def photos(folder: Path, megapixels: float, count: int) -> None:
    """Write smooth pictures with some noise, which are decoded and encoded like photographs."""
    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    for seed in range(count):
        rng = np.random.default_rng(seed)
        coarse = from_array(rng.random((height // 16, height * 3 // 32, 3), dtype=np.float32)).tensor()
        smooth = antialiased(coarse[None], (height, height * 3 // 2), "bicubic")[0]
        noise = 0.02 * rng.standard_normal((height, height * 3 // 2, 3), dtype=np.float32)
        write(from_array((smooth.permute(1, 2, 0).numpy() + noise).clip(0, 1)), folder / f"{seed}.jpg")


def row(model: str, megapixels: float, count: int) -> None:
    """Print the throughput of both ways, and the median of their ratio."""
    restore = refusion.load(model, "cpu")
    with tempfile.TemporaryDirectory() as name:
        source, out = Path(name, "in"), Path(name, "out")
        source.mkdir()
        photos(source, megapixels, count)
        jobs = list(plan([str(source)], out).jobs)

        def seconds(runs: list[list[Job]]) -> float:
            began = time.perf_counter()
            for some in runs:
                assert all(outcome.status == "restored" for outcome in run(some, restore))
            return time.perf_counter() - began

        seconds([jobs[:1]])
        total = megapixels * count
        rounds = [(seconds([[job] for job in jobs]), seconds([jobs])) for _ in range(ROUNDS)]
    apart, overlapped = (total / statistics.median(column) for column in zip(*rounds, strict=True))
    ratio = statistics.median(a / b for a, b in rounds)
    text = f"one after another {apart:6.3f} MP/s, overlapped {overlapped:6.3f} MP/s, {ratio:.2f} x"
    print(f"{model:16}{count} of {megapixels:g} MP: {text}", flush=True)


def main() -> None:
    keep_freed_memory()
    use_threads(None)
    rows = [(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))] if sys.argv[1:] else ROWS
    for values in rows:
        row(*values)


if __name__ == "__main__":
    main()
