"""Results of the runs of a study, and the differences between arms, paired by seed and by picture."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from refusion.study.measure import PictureScores, read_scores
from refusion.study.plan import Arm, Claim, Study
from refusion.study.runs import Run
from refusion.study.statistics import Interval, bootstrap_interval, t_interval

Curve = dict[int, float]
"""PSNR of the validation in dB, by optimizer step."""


@dataclass(frozen=True)
class Result:
    """The result of one run.

    Args:
        arm: of the run.
        seed: of the run.
        metrics: means over the pictures, and scores of the whole run.
        scores: of each picture.
        curve: of the training; empty of a restoration.
    """

    arm: Arm
    seed: int
    metrics: Mapping[str, float]
    scores: PictureScores
    curve: Curve


@dataclass(frozen=True)
class Effect:
    """The difference of two arms that differ in the level of one factor.

    Args:
        factor: that differs.
        level: whose score is taken,
        reference: and the level whose score is subtracted.
        arm: with the level; the other factors' levels are those of both arms.
        mean: difference.
        seeds: its interval over seeds, of the mean over the pictures; None of fewer than two seeds.
        pictures: its interval over pictures, of the mean over the seeds; None of scores of whole runs.
        count: seeds of which both arms are done.
        trained: whether each seed is a training, so that one alone tells nothing of another.
    """

    factor: str
    level: str
    reference: str
    arm: Arm
    mean: float
    seeds: Interval | None
    pictures: Interval | None
    count: int
    trained: bool

    @property
    def sign(self) -> int:
        """1 or -1 if all intervals that there are lie on one side of zero, else 0; 0 of a single training."""
        if self.trained and self.seeds is None:
            return 0
        signs = {interval.sign for interval in (self.seeds, self.pictures) if interval is not None}
        return signs.pop() if len(signs) == 1 else 0


def collect(runs: Sequence[Run]) -> list[Result]:
    """Return the results of the runs that are done."""
    return [
        Result(run.arm, run.seed, run.result()["metrics"], read_scores(run.folder), read_curve(run.folder))
        for run in runs
        if run.done
    ]


def read_curve(folder: Path) -> Curve:
    """Return the PSNR of every validation of the last stage, from the logs of all sessions of a run."""
    curve = {}
    for path in sorted(folder.glob("log/*/metrics.csv"), key=lambda path: path.stat().st_mtime):
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if value := row.get("val/psnr"):
                    curve[int(row["step"])] = float(value)
    return dict(sorted(curve.items()))


def effects(study: Study, results: Sequence[Result], factor: str | None = None) -> list[Effect]:
    """Return the effects of all levels of a factor against its first one, for all levels of the others.

    Args:
        study: the study.
        results: of its runs; arms that nothing was measured of are left out.
        factor: by default the first one.
    """
    factor = factor or next(iter(study.factors))
    place, reference = list(study.factors).index(factor), next(iter(study.factors[factor]))
    found = [effect(study, results, factor, arm, reference) for arm in study.arms if arm[place] != reference]
    return [one for one in found if one is not None]


def effect(study: Study, results: Sequence[Result], factor: str, arm: Arm, reference: str) -> Effect | None:
    """Return the difference between an arm and that with another level; None if it was not measured."""
    place = list(study.factors).index(factor)
    other = (*arm[:place], reference, *arm[place + 1 :])
    first, second = ({r.seed: r for r in results if r.arm == compared} for compared in (arm, other))
    pairs = [(first[seed], second[seed]) for seed in sorted(first.keys() & second.keys())]
    both = [(a, b) for a, b in pairs if study.measure in a.metrics and study.measure in b.metrics]
    if not both:
        return None
    differences = [a.metrics[study.measure] - b.metrics[study.measure] for a, b in both]
    return Effect(
        factor,
        arm[place],
        reference,
        arm,
        sum(differences) / len(differences),
        t_interval(differences),
        bootstrap_interval(_by_picture(both, study.measure)),
        len(both),
        trained=bool(study.recipe),
    )


def _by_picture(both: Sequence[tuple[Result, Result]], measure: str) -> list[float]:
    """Return the difference of each picture, as the mean over seeds; none of a score of whole runs."""
    names = both[0][0].scores
    if not all(measure in scores for scores in names.values()):
        return []
    return [
        sum(a.scores[name][measure] - b.scores[name][measure] for a, b in both) / len(both) for name in names
    ]


@dataclass(frozen=True)
class Finding:
    """A claim beside its effect: "agrees", "disagrees", "cannot tell" or "not measured"."""

    claim: Claim
    effect: Effect | None

    @property
    def verdict(self) -> str:
        if self.effect is None:
            return "not measured"
        return {1: "agrees", -1: "disagrees", 0: "cannot tell"}[self.effect.sign]


def findings(study: Study, results: Sequence[Result]) -> list[Finding]:
    """Return every claim with its effect, for all levels of the other factors."""
    found = []
    for claim in study.claims:
        place = list(study.factors).index(claim.factor)
        for arm in study.arms:
            if arm[place] == claim.better:
                found.append(Finding(claim, effect(study, results, claim.factor, arm, claim.than)))
    return found


def level_mean(results: Sequence[Result], arm: Arm, measure: str) -> tuple[float, float, int]:
    """Return mean and standard deviation over seeds of a score of an arm, and how many seeds."""
    values = [r.metrics[measure] for r in results if r.arm == arm and measure in r.metrics]
    if not values:
        return math.nan, math.nan, 0
    mean = sum(values) / len(values)
    spread = (
        math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1)) if len(values) > 1 else math.nan
    )
    return mean, spread, len(values)
