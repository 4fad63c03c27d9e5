"""What a shorter precision changes: PSNR and the largest pixel, with each model on pictures of val.

    python benchmarks/precision.py DATA [PICTURES]

DATA holds a folder for each model, named as it: lq/ and gt/, or clean pictures. A format that the machine
emulates gives the same pictures as one that has instructions for it, but for the order of sums, and slower.
"""

import sys
from pathlib import Path

import numpy as np

import refusion
from refusion.evaluation.evaluate import evaluate
from refusion.training.recipe import pairs_of


def main(data: Path, count: int = 2) -> None:
    for folder in sorted(data.iterdir()):
        restore = refusion.load(folder.name, "cpu")
        pairs = pairs_of(restore.header, folder)[:count]
        exact = list(evaluate(restore, pairs, precision="32"))
        for precision in ("bf16", "16"):
            short = list(evaluate(restore, pairs, precision=precision))
            both = list(zip(exact, short, strict=True))
            change = np.mean([b.output.psnr - a.output.psnr for (a, _), (b, _) in both])
            largest = max(np.abs(y.pixels - x.pixels).max() for (_, x), (_, y) in both)
            print(
                f"{folder.name:24}{precision:>5}: PSNR {change:+.4f} dB, largest pixel {largest:.4f}",
                flush=True,
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
