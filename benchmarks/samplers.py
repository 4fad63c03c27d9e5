"""PSNR and SSIM of every sampler by number of steps, and whether the samples' deviation predicts the error.

    python benchmarks/samplers.py PAIRS [MODEL [STRIDE]]

PAIRS holds lq/ and gt/; every STRIDE-th pair is used. The table is Markdown, as in docs/sampling.md.
"""

import sys
from pathlib import Path

import numpy as np
import torch

import refusion
from refusion.data.pairs import find_pairs
from refusion.diffusion.sampling import SAMPLERS
from refusion.evaluation.evaluate import score
from refusion.evaluation.metrics import psnr, ssim
from refusion.restoring.request import Options
from refusion.restoring.restorer import Restorer

STEPS = (1, 2, 5, 10, 20, 100)
SETTINGS: list[tuple[str, Options]] = [
    ("posterior, eta 1", {"sampler": "posterior"}),
    ("posterior, eta 0.5", {"sampler": "posterior", "eta": 0.5}),
    *[(name, {"sampler": name}) for name in SAMPLERS if name != "posterior"],
]


def table(restore: Restorer, pairs: list[tuple[refusion.Image, refusion.Image]]) -> None:
    """A row for each sampler, PSNR / SSIM in RGB for each number of steps. The pictures are of one size."""
    lq = torch.stack([torch.from_numpy(pair[0].pixels).permute(2, 0, 1) for pair in pairs])
    truths = [as_file(gt.pixels) for _, gt in pairs]
    print("| sampler | " + " | ".join(f"{n} step{'s' * (n > 1)}" for n in STEPS) + " |")
    print("|---" * (len(STEPS) + 1) + "|")
    for name, options in SETTINGS:
        cells = []
        for steps in STEPS:
            parts = [restore.restore_batch(part, steps=steps, **options) for part in lq.split(8)]
            restored = [as_file(z.permute(1, 2, 0).numpy()) for z in torch.cat(parts)]
            scores = [(psnr(z, gt), ssim(z, gt)) for z, gt in zip(restored, truths, strict=True)]
            cells.append("{:.2f} / {:.3f}".format(*np.mean(scores, axis=0)))
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def as_file(pixels: np.ndarray) -> np.ndarray:
    """Rounded to 8 bit."""
    return np.round(pixels * 255) / 255


def uncertainty(restore: Restorer, pairs: list[tuple[refusion.Image, refusion.Image]], steps: int) -> None:
    """Correlation, over 8 x 8 blocks of each picture, of 8 samples' deviation with their mean's error."""

    def blocks(x: np.ndarray) -> np.ndarray:
        height, width = (n // 8 * 8 for n in x.shape)
        return x[:height, :width].reshape(height // 8, 8, width // 8, 8).mean((1, 3)).ravel()

    correlations, ratios, singles, means = [], [], [], []
    for lq, gt in pairs:
        drawn = restore.run(restore.request(lq, samples=8, steps=steps))
        error, deviation = blocks(np.abs(drawn.image.pixels - gt.pixels).mean(-1)), blocks(drawn.stds[0])
        ranks = [np.argsort(np.argsort(z)) for z in (error, deviation)]
        correlations.append(np.corrcoef(*ranks)[0, 1])
        ratios.append(deviation.mean() / error.mean())
        singles.append(score(restore(lq, steps=steps), gt).psnr)
        means.append(score(drawn.image, gt).psnr)
    print(f"{steps} steps: rank correlation {np.mean(correlations):.2f}, ", end="")
    print(f"mean deviation / mean error {np.mean(ratios):.2f}, ", end="")
    print(f"PSNR of one sample {np.mean(singles):.2f}, of the mean of 8 {np.mean(means):.2f} dB")


def main() -> None:
    restore = refusion.load(sys.argv[2] if len(sys.argv) > 2 else "shadow-removal", "cpu")
    stride = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    views = [pair.read() for pair in find_pairs(Path(sys.argv[1]))[::stride]]
    pairs = [(z.lq[0], z.gt[0]) for z in views]
    for steps in (2, 5, 10):
        uncertainty(restore, pairs, steps)
    table(restore, pairs)


if __name__ == "__main__":
    main()
