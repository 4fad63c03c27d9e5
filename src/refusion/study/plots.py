"""The plots of a report: PSNR over training for each level of a factor, or the measure over its levels."""

import math
from collections.abc import Sequence
from pathlib import Path

from refusion.errors import RefusionError
from refusion.study.plan import Arm, Study
from refusion.study.results import Result, level_mean

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ModuleNotFoundError as error:
    raise RefusionError(f"a report needs {error.name}: pip install 'refusion[study]'") from error


def plot(study: Study, results: Sequence[Result], path: Path) -> None:
    """Write the plot of a study: curves of training in a panel for each combination of the other factors."""
    others = list(dict.fromkeys(result.arm[1:] for result in results))
    trained = any(result.curve for result in results)
    panels = len(others) if trained else 1
    figure = Figure(figsize=(max(7, 5 * panels), 4), layout="constrained")
    for axes, other in zip(figure.subplots(1, panels, squeeze=False)[0], others, strict=False):
        axes.grid(alpha=0.3)
        if trained:
            axes.set_title(", ".join(_labels(study, other)), fontsize="medium")
            _draw_curves(axes, study, results, other)
        else:
            _draw_levels(axes, study, results, others)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=120, metadata={"Software": None})


def _labels(study: Study, other: Arm) -> list[str]:
    """Return the levels of all factors but the first, with their names."""
    _, *factors = study.factors
    return [f"{factor} {level}" for factor, level in zip(factors, other, strict=True)]


def _draw_curves(axes: Axes, study: Study, results: Sequence[Result], other: Arm) -> None:
    """Draw, for each level of the first factor, the mean over seeds and their range."""
    factor, levels = next(iter(study.factors.items()))
    for level in levels:
        curves = [r.curve for r in results if r.arm == (level, *other)]
        if not curves:
            continue
        steps = [step for step in curves[0] if all(step in curve for curve in curves)]
        values = [[curve[step] for curve in curves] for step in steps]
        (line,) = axes.plot(steps, [sum(v) / len(v) for v in values], label=f"{factor} {level}")
        low, high = [min(v) for v in values], [max(v) for v in values]
        axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.15, lw=0)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("PSNR in dB")


def _draw_levels(axes: Axes, study: Study, results: Sequence[Result], others: Sequence[Arm]) -> None:
    """Draw the measure over the levels of the first factor, a line for each combination of the others."""
    factor, levels = next(iter(study.factors.items()))
    for other in others:
        values = {level: level_mean(results, (level, *other), study.measure)[0] for level in levels}
        measured = [(level, value) for level, value in values.items() if not math.isnan(value)]
        label = ", ".join(_labels(study, other)) or study.measure
        axes.plot(*zip(*measured, strict=True), marker="o", label=label)
    axes.set_xlabel(factor)
    axes.set_ylabel(f"{study.measure} in {study.unit}" if study.unit else study.measure)
