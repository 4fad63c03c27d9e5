"""A stage of training: what it trains, how it is validated, what it releases; and its checkpoints."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from lightning.fabric import Fabric
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from refusion.data.dataset import Augment, TrainingSamples
from refusion.data.pairs import Pair
from refusion.errors import CheckpointError, RecipeError, printable
from refusion.imaging.image import Image
from refusion.restoring.memory import free_memory
from refusion.training import checkpoints
from refusion.training.checkpoints import LAST
from refusion.training.randomness import StepRandom
from refusion.training.recipe import Loop, Recipe
from refusion.training.stopping import Stop

MAX_CACHE = 2**31
"""Most bytes of decoded pictures that are kept, by all processes of a machine that read them."""


class Stage(ABC):
    """A module in training beside its moving average, which is what is validated and released.

    Args:
        learner: the module that is trained.
        loop: settings of the loop.
        recipe: all settings.
        out: the stage's folder.
    """

    def __init__(self, learner: nn.Module, loop: Loop, recipe: Recipe, out: Path) -> None:
        self.learner, self.loop, self.recipe, self.out = learner, loop, recipe, out
        self.criterion = "psnr"
        """The score, in dB, by which the best validation is chosen."""
        self.ema = copy.deepcopy(learner).requires_grad_(False)

    @abstractmethod
    def samples(self, pairs: Sequence[Pair], scenes: Sequence[Path]) -> TrainingSamples:
        """Return what the stage is trained on."""

    @abstractmethod
    def loss(
        self,
        lq: Float[Tensor, "b 3 h w"],
        gt: Float[Tensor, "b 3 h w"],
        guides: Float[Tensor, "b guides h w"],
        condition: Float[Tensor, "scenes conditions"],
        random: StepRandom,
    ) -> Float[Tensor, ""]:
        """Return the loss of a batch, in which the views of a scene follow each other."""

    @abstractmethod
    def measure(self, pair: Pair) -> tuple[dict[str, float], list[Image]]:
        """Return scores of the average on a validation pair, `criterion` among them, and pictures to look
        at."""

    file: Path | None = None
    """What the stage leaves when it is done, if that is more than a release."""

    @property
    def done(self) -> bool:
        """Whether the stage was finished by an earlier call."""
        return self.file is not None and self.file.exists()

    def release(self, scores: dict[str, float]) -> None:  # noqa: B027 - not every stage releases
        """Write what users get, after the best validation so far."""

    def finish(self, fabric: Fabric, stop: Stop) -> dict[str, float]:
        """Hand on what was trained; return what was measured of it for the card.

        Raises:
            KeyboardInterrupt or SystemExit: a signal asked to stop.
        """
        return {}

    def drawn_samples(
        self, pairs: Sequence[Pair], scenes: Sequence[Path], patch: tuple[int, int], augment: Augment
    ) -> TrainingSamples:
        """Return samples of a size and augmentation; all else is of the recipe."""
        data, model = self.recipe.data, self.recipe.model
        return TrainingSamples(
            pairs,
            patch,
            augment,
            self.loop.seed,
            scenes,
            data.degradation,
            model.enlarge,
            cache_bytes(self.loop),
            model.guides,
            model.fill,
        )

    def find(self, part: str) -> list[Pair]:
        """Return the pairs of train/ or val/."""
        return self.recipe.pairs(Path(self.recipe.data.folder) / part)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights of learner and average."""
        return {
            f"{part}.{name}": value
            for part, module in (("learner", self.learner), ("ema", self.ema))
            for name, value in module.state_dict().items()
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Fill learner and average."""
        for part, module in (("learner", self.learner), ("ema", self.ema)):
            prefix = f"{part}."
            module.load_state_dict(
                {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            )

    def load_best(self) -> None:
        """Fill learner and average with the weights of the best validation.

        Raises:
            CheckpointError: no best checkpoint is whole.
        """
        last = checkpoints.newest(self.out)
        best = checkpoints.read_best(self.out, last.content["best"]) if last else None
        if best is None:
            raise CheckpointError(f"{self.out}: no whole best checkpoint is left; give another folder")
        self.load_state_dict(best.content["state_dict"])


@dataclass
class Progress:
    """How far a run has come.

    Args:
        step: optimizer steps done.
        validated: the step of the last validation.
        best: PSNR and file of the best checkpoints, best first.
    """

    step: int = 0
    validated: int = 0
    best: list[tuple[float, str]] = field(default_factory=list)


def save(stage: Stage, optimizer: Optimizer, at: Progress, path: Path, fabric: Fabric) -> None:
    """Write a checkpoint, whole or not at all, see `checkpoints.write`."""
    if fabric.is_global_zero:
        content = {
            "global_step": at.step,
            "validated": at.validated,
            "best": at.best,
            "processes": fabric.world_size,
            "samples": samples_per_step(stage.loop, fabric.world_size),
            "precision": stage.loop.precision_on(fabric.device),
            "state_dict": stage.state_dict(),
            "optimizer": optimizer.state_dict(),
        }
        checkpoints.write(path, content)
    fabric.barrier()


def samples_per_step(loop: Loop, processes: int) -> int:
    """Return the number of samples of an optimizer step."""
    return loop.batch * loop.accumulate * processes


def cache_bytes(loop: Loop) -> int:
    """Return the bytes of decoded pictures that each process which reads them may keep.

    All processes of the run count, as if they were on one machine.
    """
    processes = distributed.get_world_size() if distributed.is_initialized() else 1
    readers = max(1, loop.workers) * processes
    return min(MAX_CACHE, free_memory(torch.device("cpu")) // 4) // readers


def resume(stage: Stage, optimizer: Optimizer, fabric: Fabric) -> Progress:
    """Load the run's newest whole checkpoint if there is one, and say so if it is not the last.

    Raises:
        RecipeError: the run was begun with another number of samples a step.
        CheckpointError: there are checkpoints, and all of them are damaged.
    """
    loop, at = stage.loop, Progress()
    stage.out.mkdir(parents=True, exist_ok=True)
    found = checkpoints.read_newest(stage.out)
    now, precision = samples_per_step(loop, fabric.world_size), loop.precision_on(fabric.device)
    if found is not None:
        saved = found.content
        before = saved.get("samples", samples_per_step(loop, saved["processes"]))
        if before != now:  # the numbers of the samples depend on it, and so the rest of the run
            raise RecipeError(
                f"{stage.out} was begun with {before} samples a step, not {now} (batch x accumulate x "
                "processes): give as many"
            )
        stage.load_state_dict(saved["state_dict"])
        optimizer.load_state_dict(saved["optimizer"])
        best = [(psnr, name) for psnr, name in saved["best"] if (stage.out / name).exists()]
        at = Progress(saved["global_step"], saved["validated"], best)
    fabric.barrier()
    if fabric.is_global_zero:
        if found is not None and found.path.name != LAST:
            checkpoints.set_aside(stage.out)
        earlier = found.content.get("precision", precision) if found else precision
        if earlier != precision:
            changed = (
                f"{stage.out}: precision {earlier} -> {precision}: the weights will not be those of a run in "
                f'one of them; the recipe\'s precision "{earlier}" goes on as before'
            )
            print(printable(changed), flush=True)
        begun = f"{stage.out}: step {at.step} of {loop.steps}, {now} samples a step, precision {precision}"
        print(printable(begun), flush=True)
    return at
