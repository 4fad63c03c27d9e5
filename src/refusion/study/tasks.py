"""The tasks of a study: a training or a restoration, scored in the same way."""

import functools
import hashlib
import math
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from refusion.data.pairs import Pair
from refusion.evaluation.evaluate import LatentSwapScores, Scores
from refusion.evaluation.uncertainty import Spread
from refusion.models import checkpoint
from refusion.nn.precision import resolve as resolve_precision
from refusion.restoring.request import Options
from refusion.restoring.self_ensemble import ORIENTATIONS
from refusion.study.measure import measure
from refusion.training import checkpoints
from refusion.training.recipe import Loop, Recipe
from refusion.training.run import train
from refusion.training.run_dir import FREE, LOOPS, fingerprint
from refusion.training.stages import CodecStage, DiffusionStage, MeanStage, stages

TIMED = 8
"""Optimizer steps over which the time of a step is measured."""
SCORE_NAMES, SPREAD_NAMES, CODEC_NAMES = (
    [field.name for field in fields(scores)] for scores in (Scores, Spread, LatentSwapScores)
)
LOOP_OF = {CodecStage: "codec_training", MeanStage: "mean_training", DiffusionStage: "training"}
"""The names of the settings of each stage."""
PRECISIONS = {f"{loop}.precision" for loop in LOOPS}
MEASURED: Options = {"precision": "32"}
"""Options of every measurement, so that machines that multiply in other formats measure alike."""


class Task(ABC):
    """A unit of work of a study: a training or a restoration, with its scores."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return all that the result depends on, as JSON values."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Return the number of optimizer steps, or of calls of the network for each picture."""

    @property
    @abstractmethod
    def metrics(self) -> list[str]:
        """Return the names of the metrics that `perform` returns."""

    @abstractmethod
    def perform(self, folder: Path) -> dict[str, float]:
        """Perform the task in a folder, going on where it was stopped; return metrics of the whole run."""

    @abstractmethod
    def estimate(self) -> float:
        """Return the core-seconds of the task, measured on a few steps of it."""


@dataclass(frozen=True)
class TrainingTask(Task):
    """Train by a recipe, then score the pictures of val/ with the averaged weights of the last step.

    The last, not the best: nothing is chosen on the pictures that are compared.
    """

    recipe: Recipe
    stride: int

    @property
    def settings(self) -> dict[str, Any]:
        # Without defaults, so that runs stay done when a later version has a setting more.
        values = self.recipe.model_dump(mode="json", exclude={"card", "task"}, exclude_defaults=True)
        for key in ("folder", "scenes"):
            values.get("data", {}).pop(key, None)
        for part, _, name in (key.partition(".") for key in FREE - PRECISIONS):
            values.get(part, {}).pop(name, None)
        device = checkpoint.best_device()
        for loop in LOOPS if len(self._loops) > 1 else ["training"]:
            values.setdefault(loop, {})["precision"] = getattr(self.recipe, loop).precision_on(device)
        return {**values, "pictures": _digest(self.recipe), "stride": self.stride}

    @property
    def steps(self) -> int:
        return sum(loop.steps for loop in self._loops)

    @property
    def metrics(self) -> list[str]:
        codec = [name for name in self.recipe.card.metrics if name.startswith("codec_")]
        if CodecStage in stages(self.recipe) and self.recipe.training.trainable == "network":
            codec += [f"codec_{name}" for name in CODEC_NAMES]
        return [*SCORE_NAMES, *codec]

    @property
    def _loops(self) -> list[Loop]:
        """Return the settings of the stages that run."""
        return [getattr(self.recipe, LOOP_OF[stage]) for stage in stages(self.recipe)]

    def perform(self, folder: Path) -> dict[str, float]:
        recipe = self.recipe
        model = train(recipe, folder, devices=1)
        last = checkpoints.read_newest(folder)
        assert last is not None  # training has just written it
        stage = DiffusionStage(recipe.model.build(), recipe, folder, {})
        stage.load_state_dict(last.content["state_dict"])
        pairs = stage.find("val")[:: self.stride]
        restore = stage.restorer.to(checkpoint.best_device())
        scores = measure(restore, pairs, MEASURED, folder)
        card = checkpoint.read_header(model).card.metrics
        return {**_means(scores), **{name: card[name] for name in card if name.startswith("codec_")}}

    def estimate(self) -> float:
        loop = self.recipe.training
        short, long = (_core_seconds_of(self._short(steps)) for steps in (2, 2 + TIMED))
        step = max(0.0, long - short) / TIMED / len(self._loops)  # every stage has that many more
        measurements = loop.steps // loop.validated_every + 1  # the short run has two
        return self.steps * step + measurements * max(0.0, short - 2 * len(self._loops) * step) / 2

    def _short(self, steps: int) -> "TrainingTask":
        """Return the training of a few steps, which ignores the gate."""
        changes: dict[str, Any] = {"steps": steps, "validate_every": steps}
        gates = {"codec_training": {"gate": -math.inf}}
        loops = {
            name: getattr(self.recipe, name).model_copy(update=changes | gates.get(name, {}))
            for name in LOOPS
        }
        return TrainingTask(self.recipe.model_copy(update=loops), self.stride)


@dataclass(frozen=True)
class RestoringTask(Task):
    """Restore the pictures of a folder with a model, with given options, and score them."""

    model: Path
    options: Options
    pairs: tuple[Pair, ...]

    @property
    def settings(self) -> dict[str, Any]:
        files = [path for pair in self.pairs for path in (*pair.lq, *pair.gt)]
        pictures = [(path.name, path.stat().st_size) for path in files]
        precision = resolve_precision(self.options.get("precision", "32"), checkpoint.best_device())
        options = {**self.options, "precision": precision}
        return {"model": _file_digest(self.model), "options": options, "pictures": pictures}

    @property
    def steps(self) -> int:
        several = len(ORIENTATIONS) if self.options.get("self_ensemble") else self.options.get("samples", 1)
        return self.options.get("steps", 1) * several

    @property
    def metrics(self) -> list[str]:
        spread = SPREAD_NAMES if self.options.get("samples", 1) > 1 else []
        return [*SCORE_NAMES, *spread]

    def perform(self, folder: Path) -> dict[str, float]:
        options: Options = {**MEASURED, **self.options}
        return _means(measure(checkpoint.load(self.model), self.pairs, options, folder))

    def estimate(self) -> float:
        timed = self.pairs[:2]
        once: Options = {"samples": 1, "self_ensemble": False}
        short, long = (
            _core_seconds_of(RestoringTask(self.model, {**self.options, **once, "steps": n}, timed))
            for n in (1, 5)
        )
        step = max(0.0, long - short) / 4
        return len(self.pairs) * (self.steps * step + max(0.0, short - step)) / len(timed)


def _core_seconds_of(task: Task) -> float:
    with tempfile.TemporaryDirectory() as folder:
        begun = core_seconds()
        task.perform(Path(folder))
        return core_seconds() - begun


def core_seconds() -> float:
    """Return the seconds that cores worked for this process and those that it started and that ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _means(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    rows = list(scores.values())
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


_digests: dict[tuple[str, tuple[str, ...]], str] = {}


def _digest(recipe: Recipe) -> str:
    """Return the digest of a recipe's data, computed once for all arms on the same data."""
    place = recipe.data.folder, recipe.data.scenes
    if place not in _digests:
        _digests[place] = fingerprint(recipe)
    return _digests[place]


@functools.cache
def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
