"""The dial from the mean to a sample, beside further steps of a model without a mean: PSNR and texture.

    python benchmarks/texture.py MODEL PLAIN DATA [PLOT]

MODEL has a mean stage, PLAIN is the model of the same task without one, DATA a folder of pairs or of clean
pictures. Each row is the mean over all pictures. PLOT is a picture file of PSNR against each measure.
"""

import sys
from pathlib import Path
from typing import Any

import torch

import refusion
from refusion.evaluation.evaluate import evaluate, mean_scores, perceived
from refusion.evaluation.perceptual import load as load_metrics
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


def main(model: str, plain: str, data: str, path: str | None = None) -> None:
    restore, regression = refusion.load(model, "cpu"), refusion.load(plain, "cpu")
    pairs = pairs_of(restore.header, Path(data))
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
    if path:
        plot(curves, path)


def plot(curves: dict[str, list[Scores]], path: str) -> None:
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
