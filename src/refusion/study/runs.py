"""The runs of a study: what each does, in a folder named by a hash of its settings, data and seed."""

import functools
import hashlib
import json
import math
import os
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import yaml

from refusion.data.pairs import Pair, find_pairs
from refusion.errors import RecipeError
from refusion.files import atomic
from refusion.models import checkpoint
from refusion.restoring.request import Options, split_options
from refusion.study.measure import measure
from refusion.study.plan import Arm, Study
from refusion.training import checkpoints
from refusion.training.recipe import Recipe, degradation_of, load_yaml, resolve
from refusion.training.run import train
from refusion.training.run_dir import FREE, fingerprint
from refusion.training.stages import DiffusionStage

RESULT, FAILED = "result.json", "failed.txt"
TIMED = 8
"""Optimizer steps over which the time of a step is measured."""
HASH = 16
"""Hexadecimal digits of the hash in the name of a folder."""
SEEDS = ("training.seed", "codec_training.seed")


class Task(ABC):
    """What a run does."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All that its result depends on, as JSON values."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Optimizer steps, or calls of the network for each picture."""

    @abstractmethod
    def perform(self, folder: Path) -> dict[str, float]:
        """Do it in a folder, going on where it was stopped; return metrics of the whole run."""

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
        for part, _, name in (key.partition(".") for key in FREE):
            values.get(part, {}).pop(name, None)
        return {**values, "pictures": _digest(self.recipe), "stride": self.stride}

    @property
    def steps(self) -> int:
        trains_codec = any(True for _ in self.recipe.model.outline.codec.parameters())
        return self.recipe.training.steps + trains_codec * self.recipe.codec_training.steps

    def perform(self, folder: Path) -> dict[str, float]:
        recipe = self.recipe
        model = train(recipe, folder, devices=1)
        last = checkpoints.read_newest(folder)
        assert last is not None  # training has just written it
        stage = DiffusionStage(recipe.model.build(), recipe, folder, {})
        stage.load_state_dict(last.content["state_dict"])
        pairs = stage.find("val")[:: self.stride]
        restore = stage.restorer.to(checkpoint.best_device())
        scores = measure(restore, pairs, {}, folder)
        card = checkpoint.read_header(model).card.metrics
        return {**_means(scores), **{name: card[name] for name in card if name.startswith("codec_")}}

    def estimate(self) -> float:
        loop = self.recipe.training
        short, long = (_core_seconds_of(self._short(steps)) for steps in (2, 2 + TIMED))
        step = max(0.0, long - short) / TIMED
        measurements = loop.steps // loop.validated_every + 1  # the short run has two
        return self.steps * step + measurements * max(0.0, short - 2 * step) / 2

    def _short(self, steps: int) -> "TrainingTask":
        """Return the training of a few steps, which ignores the gate."""
        changes: dict[str, Any] = {"steps": steps, "validate_every": steps}
        loops = {
            "codec_training": self.recipe.codec_training.model_copy(update={**changes, "gate": -math.inf}),
            "training": self.recipe.training.model_copy(update=changes),
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
        return {"model": _file_digest(self.model), "options": dict(self.options), "pictures": pictures}

    @property
    def steps(self) -> int:
        return self.options.get("steps", 1) * self.options.get("samples", 1)

    def perform(self, folder: Path) -> dict[str, float]:
        return _means(measure(checkpoint.load(self.model), self.pairs, self.options, folder))

    def estimate(self) -> float:
        short, long = (
            _core_seconds_of(
                RestoringTask(self.model, {**self.options, "steps": n, "samples": 1}, self.pairs[:2])
            )
            for n in (1, 5)
        )
        step = max(0.0, long - short) / 4
        return len(self.pairs) * (self.steps * step + max(0.0, short - step)) / 2


@dataclass(frozen=True)
class Run:
    """An arm of a study with a seed.

    Args:
        arm: its levels.
        seed: of data, noise and weights, or of sampling.
        task: what it does.
        folder: where.
    """

    arm: Arm
    seed: int
    task: Task
    folder: Path

    @property
    def done(self) -> bool:
        return (self.folder / RESULT).exists()

    @property
    def failed(self) -> bool:
        return (self.folder / FAILED).exists()

    def result(self) -> dict[str, Any]:
        """Return the metrics and the cost of a run that is done."""
        content: dict[str, Any] = json.loads((self.folder / RESULT).read_text(encoding="utf-8"))
        return content

    def perform(self) -> None:
        """Do what is left of the run, and write its result.

        The checkpoints to resume from are deleted; model, logs and scores stay.
        """
        resumed = any(self.folder.rglob("*.ckpt"))
        begun, used = time.monotonic(), _core_seconds()
        metrics = self.task.perform(self.folder)
        cost = {"seconds": time.monotonic() - begun, "core_seconds": _core_seconds() - used}
        content = {
            "metrics": metrics,
            "steps": self.task.steps,
            **({} if resumed else cost),
            "torch": torch.__version__,
        }
        with atomic(self.folder / RESULT) as part:
            part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        for path in self.folder.rglob("*.ckpt"):
            path.unlink()


def make_runs(study: Study, file: Path, data: str | None, out: Path) -> list[Run]:
    """Return the runs of a study, all arms of a seed before those of the next.

    Args:
        study: the study.
        file: it was read from; its recipe is looked for beside it.
        data: the folder of the pairs, instead of that of the recipe.
        out: the folder of all runs.

    Raises:
        RecipeError: an arm has a wrong key or value; the message names it.
    """
    make = _training if study.recipe else _restoring
    runs = []
    for seed in range(study.seeds):
        for arm in study.arms:
            try:
                task = make(study, file, study.values(arm), seed, data)
            except (ValueError, TypeError) as error:
                raise RecipeError(f"{file}: {study.label(arm)}: {error}") from error
            text = json.dumps(task.settings, sort_keys=True, default=str)
            key = hashlib.sha256(text.encode()).hexdigest()[:HASH]
            runs.append(Run(arm, seed, task, out / key))
    return runs


def _training(study: Study, file: Path, values: Mapping[str, Any], seed: int, data: str | None) -> Task:
    given = {**values, **dict.fromkeys(SEEDS, seed), **({"data.folder": data} if data else {})}
    overrides = [f"{key}={yaml.safe_dump(value, default_flow_style=True)}" for key, value in given.items()]
    beside = file.parent / study.recipe
    recipe = load_yaml(beside if beside.is_file() else resolve(study.recipe), overrides)
    if not (Path(recipe.data.folder) / "train").is_dir():  # else every run would fail
        raise RecipeError(
            f"{recipe.data.folder or 'data.folder'} holds no train/: give the folder of the pairs"
        )
    return TrainingTask(recipe, study.stride)


def _restoring(study: Study, file: Path, values: Mapping[str, Any], seed: int, data: str | None) -> Task:
    if data is None:
        raise RecipeError(f"{study.name} restores with {study.model}: give the folder of the pairs")
    options = cast(Options, {**values, "seed": seed})
    split_options(options)
    beside = file.parent / study.model
    model = beside if beside.is_file() else checkpoint.resolve(study.model)
    return RestoringTask(model, options, _pairs(model, Path(data))[:: study.stride])


@functools.cache
def _pairs(model: Path, data: Path) -> tuple[Pair, ...]:
    header = checkpoint.read_header(model)
    folder = data / "val" if (data / "val").is_dir() else data
    degradation = None if (folder / "lq").is_dir() else degradation_of(header)
    return tuple(find_pairs(folder, degradation, header.spec.enlarge.factor, header.spec.check))


def _core_seconds_of(task: Task) -> float:
    with tempfile.TemporaryDirectory() as folder:
        begun = _core_seconds()
        task.perform(Path(folder))
        return _core_seconds() - begun


def _core_seconds() -> float:
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
