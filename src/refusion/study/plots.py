"""The plots of a report: PSNR over training for each arm, or the measure over the levels of a factor."""

import math
from collections.abc import Sequence
from pathlib import Path

from refusion.errors import RefusionError
from refusion.study.plan import Study
from refusion.study.results import Result, level_mean

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ModuleNotFoundError as error:
    raise RefusionError(f"a report needs {error.name}: pip install 'refusion[study]'") from error


def plot(study: Study, results: Sequence[Result], path: Path) -> bool:
    """Write the plot of a study; return whether there was anything to plot."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(alpha=0.3)
    drawn = _curves(axes, study, results) if any(r.curve for r in results) else _levels(axes, study, results)
    if drawn:
        axes.legend(fontsize="small")
        figure.savefig(path, dpi=120, metadata={"Software": None})
    return drawn


def _curves(axes: Axes, study: Study, results: Sequence[Result]) -> bool:
    """Draw the mean over seeds of each arm, and the range of the seeds."""
    for arm in study.arms:
        curves = [r.curve for r in results if r.arm == arm and r.curve]
        if not curves:
            continue
        steps = [step for step in curves[0] if all(step in curve for curve in curves)]
        values = [[curve[step] for curve in curves] for step in steps]
        (line,) = axes.plot(steps, [sum(v) / len(v) for v in values], label=study.label(arm))
        low, high = [min(v) for v in values], [max(v) for v in values]
        axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.15, lw=0)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("PSNR in dB")
    return bool(results)


def _levels(axes: Axes, study: Study, results: Sequence[Result]) -> bool:
    """Draw the measure over the levels of the first factor, a line for each combination of the others."""
    first, *_ = study.factors
    others = list(dict.fromkeys(arm[1:] for arm in study.arms))
    for other in others:
        levels = [
            (level, level_mean(results, (level, *other), study.measure)[0]) for level in study.factors[first]
        ]
        known = [(level, value) for level, value in levels if not math.isnan(value)]
        if known:
            axes.plot(*zip(*known, strict=True), marker="o", label=", ".join(other) or None)
    axes.set_xlabel(first)
    axes.set_ylabel(f"{study.measure} in {study.unit}" if study.unit else study.measure)
    return bool(results)
