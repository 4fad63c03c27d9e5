"""The dial from the mean to a sample, beside further steps of a model without a mean: PSNR and texture.

    python benchmarks/texture.py MODEL PLAIN DATA [FOLDER]

MODEL has a mean stage, PLAIN is the model of the same task without one, DATA a folder of pairs or of clean
pictures. Each row is the mean over all pictures. FOLDER gets texture.png, PSNR against each measure, and
texture-crops.jpg, parts of a photograph of scikit-image: the input, PLAIN, texture 0, 0.5 and 1, the truth.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from skimage import data

import refusion
from refusion.data.degradation import Downscale
from refusion.evaluation.evaluate import evaluate, mean_scores, perceived
from refusion.evaluation.perceptual import load as load_metrics
from refusion.imaging.arrays import from_array
from refusion.training.recipe import pairs_of

MEASURES = ("ssimulacra2", "swd", "spectrum", "detail")
TEXTURES = (0.0, 0.25, 0.5, 0.75, 1.0)
STEPS = (1, 2, 3, 5, 10)
Scores = dict[str, float]


def measured(restore: refusion.Restorer, pairs: list[Any], **options: Any) -> Scores:
    """Return the mean PSNR and measures of restored pictures."""
    metrics = load_metrics(MEASURES, torch.device("cpu"))
    rows = [row for row, _ in evaluate(restore, pairs, perceptual=metrics, **options)]
    means = {name: sum(outputs) / len(outputs) for name, (_, outputs) in perceived(rows).items()}
    return {"PSNR": mean_scores([row.output for row in rows]).psnr, **means}


def main(model: str, plain: str, pictures: str, folder: str | None = None) -> None:
    restore, regression = refusion.load(model, "cpu"), refusion.load(plain, "cpu")
    pairs = pairs_of(restore.header, Path(pictures))
    curves: dict[str, list[Scores]] = {"texture": [], "steps from the mean": [], "plain steps": []}
    print(f"| | PSNR | {' | '.join(MEASURES)} |\n|---|{'---|' * (1 + len(MEASURES))}")

    def row(curve: str, name: str, of: refusion.Restorer, **options: Any) -> None:
        scores = measured(of, pairs, **options)
        curves[curve].append(scores)
        print(f"| {name} | {' | '.join(f'{value:.2f}' for value in scores.values())} |", flush=True)

    for steps in STEPS:
        row("plain steps", f"{plain}, steps {steps}", regression, steps=steps)
    for texture in TEXTURES:
        row("texture", f"texture {texture:g}", restore, texture=texture)
    for steps in STEPS:
        row("steps from the mean", f"texture 1, steps {steps}", restore, steps=steps)
    if folder:
        plot(curves, Path(folder, "texture.png"))
        crops(restore, regression, Path(folder, "texture-crops.jpg"))


def crops(restore: refusion.Restorer, regression: refusion.Restorer, path: Path) -> None:
    """Write parts of a reduced and enlarged photograph at 100 %, in two rows."""
    clean = data.astronaut()[:320, 60:460].astype(np.float32) / 255
    lq = Downscale(factor=4)(from_array(clean).tensor(), np.random.default_rng(3)).lq
    before = from_array(lq.permute(1, 2, 0).clamp(0, 1).numpy())
    shown = [restore.upscale_input(before).pixels, regression(before).pixels]
    shown += [restore(before, texture=texture).pixels for texture in (0.0, 0.5, 1.0)]
    parts = [z[40:260, 60:300] for z in (*shown, clean)]
    rows = [np.concatenate(parts[i : i + 3], axis=1) for i in (0, 3)]
    refusion.write(from_array(np.concatenate(rows)), path)


def plot(curves: dict[str, list[Scores]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3), layout="constrained")
    for axes, measure in zip(figure.subplots(1, 3), MEASURES[:3], strict=True):
        for curve, scores in curves.items():
            axes.plot([s["PSNR"] for s in scores], [s[measure] for s in scores], "o-", label=curve)
        axes.set(xlabel="PSNR, dB", title=measure)
        axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:])
