"""The runs of a study: tasks, each in a folder named by a hash of its settings, data and seed."""

import functools
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import yaml

from refusion.data.pairs import Pair
from refusion.errors import RecipeError, hint
from refusion.files import atomic
from refusion.models import checkpoint
from refusion.restoring.request import Options, split_options
from refusion.study.measure import SCORES
from refusion.study.plan import Arm, Study
from refusion.study.tasks import RestoringTask, Task, TrainingTask, core_seconds
from refusion.training.recipe import load_yaml, pairs_of, resolve
from refusion.training.run_dir import LOOPS

RESULT, FAILED = "result.json", "failed.txt"
HASH = 16
"""Hexadecimal digits of the hash in the name of a folder."""
SEEDS = tuple(f"{loop}.seed" for loop in LOOPS)


@dataclass(frozen=True)
class Run:
    """An arm of a study with a seed.

    Args:
        arm: levels of the run.
        seed: of data, noise and weights, or of sampling.
        task: to perform.
        folder: of the task.
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

        The cost of a run that goes on where it was stopped is not known, and left out. The checkpoints to
        resume from are deleted; model, logs and scores stay.
        """
        resumed = (self.folder / SCORES).exists() or any(self.folder.rglob("*.ckpt"))
        begun, used = time.monotonic(), core_seconds()
        metrics = self.task.perform(self.folder)
        cost = {"seconds": time.monotonic() - begun, "core_seconds": core_seconds() - used}
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
        RecipeError: an arm has a wrong key or value, or lacks the measure; the message names it.
    """
    make = _training if study.recipe else _restoring
    runs = []
    for seed in range(study.seeds):
        for arm in study.arms:
            try:
                task = make(study, file, study.values(arm), seed, data)
            except (ValueError, TypeError) as error:
                raise RecipeError(f"{file}: {study.label(arm)}: {error}") from error
            if study.measure not in task.metrics:
                near = hint(study.measure, task.metrics)
                choices = f"there are {', '.join(task.metrics)}"
                raise RecipeError(f"{file}: {study.label(arm)}: measure is {study.measure}{near}: {choices}")
            text = json.dumps(task.settings, sort_keys=True, default=str)
            key = hashlib.sha256(text.encode()).hexdigest()[:HASH]
            runs.append(Run(arm, seed, task, out / key))
    return runs


def _training(study: Study, file: Path, values: Mapping[str, Any], seed: int, data: str | None) -> Task:
    settings = {**values, **dict.fromkeys(SEEDS, seed), **({"data.folder": data} if data else {})}
    overrides = [f"{key}={yaml.safe_dump(value, default_flow_style=True)}" for key, value in settings.items()]
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
    folder = data / "val" if (data / "val").is_dir() else data
    return tuple(pairs_of(checkpoint.read_header(model), folder))
