"""A stage of training: what it trains, how it is validated, what it releases; and its checkpoints."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from refusion.data.dataset import TrainingSamples
from refusion.data.pairs import Pair
from refusion.errors import RecipeError
from refusion.files import atomic
from refusion.imaging.image import Image
from refusion.training.recipe import Loop, Recipe

LAST = "last.ckpt"


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
        self.ema = copy.deepcopy(learner).requires_grad_(False)

    @abstractmethod
    def samples(self, pairs: Sequence[Pair], scenes: Sequence[Path]) -> TrainingSamples:
        """Return what the stage is trained on."""

    @abstractmethod
    def loss(
        self,
        lq: Float[Tensor, "b 3 h w"],
        gt: Float[Tensor, "b 3 h w"],
        condition: Float[Tensor, "scenes conditions"],
        generator: torch.Generator,
    ) -> Float[Tensor, ""]:
        """Return the loss of a batch, in which the views of a scene follow each other."""

    @abstractmethod
    def measure(self, pair: Pair) -> tuple[dict[str, float], list[Image]]:
        """Return scores of the average on a validation pair, "psnr" among them, and pictures to look at."""

    @property
    def done(self) -> bool:
        """Whether the stage was finished by an earlier call."""
        return False

    def release(self, scores: dict[str, float]) -> None:  # noqa: B027 - not every stage releases
        """Write what users get, after the best validation so far."""

    def finish(self, fabric: Fabric) -> dict[str, float]:
        """Hand on what was trained; return what was measured of it for the card."""
        return {}

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
        """Fill learner and average with the weights of the best validation."""
        _, file = torch.load(self.out / LAST, weights_only=True, mmap=True)["best"][0]
        self.load_state_dict(torch.load(self.out / file, weights_only=True, map_location="cpu")["state_dict"])


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
    """Write a checkpoint, whole or not at all."""
    if fabric.is_global_zero:
        content = {
            "global_step": at.step,
            "validated": at.validated,
            "best": at.best,
            "processes": fabric.world_size,
            "state_dict": stage.state_dict(),
            "optimizer": optimizer.state_dict(),
        }
        with atomic(path) as part:
            torch.save(content, part)
    fabric.barrier()


def resume(stage: Stage, optimizer: Optimizer, fabric: Fabric) -> Progress:
    """Load the run's last checkpoint if there is one."""
    last, loop = stage.out / LAST, stage.loop
    stage.out.mkdir(parents=True, exist_ok=True)
    at = Progress()
    if last.exists():
        saved = torch.load(last, weights_only=True, map_location="cpu")
        before, now = saved["processes"], fabric.world_size
        if before != now:  # the numbers of the samples depend on it, and so the rest of the run
            raise RecipeError(f"{stage.out} was begun by {before} processes, not {now}: give as many")
        stage.load_state_dict(saved["state_dict"])
        optimizer.load_state_dict(saved["optimizer"])
        at = Progress(saved["global_step"], saved["validated"], [tuple(entry) for entry in saved["best"]])
    if fabric.is_global_zero:
        samples = loop.batch * loop.accumulate * fabric.world_size
        print(f"{stage.out}: step {at.step} of {loop.steps}, {samples} samples a step", flush=True)
    return at
