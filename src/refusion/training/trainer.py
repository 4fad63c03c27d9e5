"""The loop that all stages of training share: Lightning runs it, and everything random is a function of
(seed, sample number).

So a run that was killed goes on from its last checkpoint to the same bits as one that was not.
"""

import contextlib
import copy
import logging
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from refusion import checkpoint
from refusion.data import Pair, stems
from refusion.errors import DataError, RecipeError, RefusionError
from refusion.files import atomic
from refusion.image import Image, from_array, write
from refusion.recipe import Loop, Recipe
from refusion.samples import StepBatches, TrainingSamples

LAST = "last.ckpt"
PICTURES = 4
"""Validation pictures kept for looking at, of each validation."""


class Stage(lightning.LightningModule, ABC):
    """A module in training beside its moving average, which is what is validated and released.

    Args:
        learner: what is trained.
        loop: its settings.
        recipe: all settings.
        out: the stage's folder.
    """

    def __init__(self, learner: nn.Module, loop: Loop, recipe: Recipe, out: Path) -> None:
        super().__init__()
        self.learner, self.loop, self.recipe, self.out = learner, loop, recipe, out
        self.ema = copy.deepcopy(learner).requires_grad_(False)
        self.first_step = first_step(out)
        self.pairs: list[Pair] = []
        self.scores: list[dict[str, float]] = []

    @abstractmethod
    def samples(self, pairs: Sequence[Pair], scenes: Sequence[Path]) -> TrainingSamples: ...

    @abstractmethod
    def loss(self, lq: Tensor, gt: Tensor, condition: Tensor, generator: torch.Generator) -> Tensor:
        """Of (b * views, 3, h, w) pictures, the views of a scene one after the other, and (b, conditions)."""

    @abstractmethod
    def measure(self, pair: Pair) -> tuple[dict[str, float], list[Image]]:
        """Scores of the average on a validation pair, "psnr" among them, and pictures to look at."""

    def release(self, scores: dict[str, float]) -> None:
        """Write what users get, after the best validation so far."""

    def find(self, part: str) -> list[Pair]:
        """The pairs of train/ or val/."""
        return self.recipe.pairs(Path(self.recipe.data.folder) / part)

    def train_dataloader(self) -> DataLoader[Any]:
        data, loop = self.recipe.data, self.loop
        scenes = [path for folder in data.scenes for path in stems(Path(folder)).values()]
        samples = self.samples(self.find("train"), scenes)
        batches = StepBatches(
            self.first_step * loop.accumulate,
            loop.steps * loop.accumulate,
            loop.batch,
            self.trainer.global_rank,
            self.trainer.world_size,
        )
        # A forked worker would hang in libvips, which the parent has used already.
        context = "spawn" if loop.workers else None
        return DataLoader(
            samples, batch_sampler=batches, num_workers=loop.workers, multiprocessing_context=context
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Numbers of pairs, every process its share."""
        self.pairs = self.find("val")
        if len(self.pairs) < self.trainer.world_size:
            raise DataError(f"val: {len(self.pairs)} pairs for {self.trainer.world_size} processes")
        return DataLoader(range(self.trainer.global_rank, len(self.pairs), self.trainer.world_size))  # type: ignore[arg-type]

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        lq, gt, condition, numbers = batch
        generator = torch.Generator(self.device).manual_seed(_seed(self.loop.seed, int(numbers[0])))
        loss = self.loss(lq.flatten(0, 1), gt.flatten(0, 1), condition, generator)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the gradient; drop one that is not finite."""
        norm = nn.utils.clip_grad_norm_(self.learner.parameters(), self.loop.clip)
        if not bool(norm.isfinite()):
            for parameter in self.learner.parameters():
                parameter.grad = None
        self.log("train/gradient_norm", norm)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        decay = min(self.loop.ema, (1 + self.global_step) / (10 + self.global_step))
        with torch.no_grad():
            for average, now in zip(self.ema.parameters(), self.learner.parameters(), strict=True):
                average.lerp_(now, 1 - decay)
            for kept, current in zip(self.ema.buffers(), self.learner.buffers(), strict=True):
                kept.copy_(current)

    def configure_optimizers(self) -> Any:
        optimizer = make_optimizer(self.loop, self.learner)
        schedule = LambdaLR(optimizer, lambda step: rate_factor(self.loop, step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def validation_step(self, number: Tensor, batch_idx: int) -> None:
        """As `refusion evaluate` measures: in float32. Weights that are not finite score NaN."""
        if not all(bool(weight.isfinite().all()) for weight in self.ema.parameters()):
            self.scores.append({"psnr": math.nan})
            return
        pair = self.pairs[int(number)]
        with torch.autocast(self.device.type, enabled=False):
            scores, shown = self.measure(pair)
        self.scores.append(scores)
        if self.trainer.is_global_zero and batch_idx < PICTURES:
            side_by_side = np.concatenate([z.pixels for z in shown], axis=1)
            folder = self.out / "pictures"
            folder.mkdir(exist_ok=True)
            write(from_array(side_by_side), folder / f"{pair.name}-{self.global_step}.jpg")
            board = self.loggers[0].experiment  # type: ignore[attr-defined]
            board.add_image(pair.name, side_by_side, self.global_step, dataformats="HWC")

    def on_validation_epoch_end(self) -> None:
        names = list(self.scores[0])
        rows = [[*(scores.get(name, math.nan) for name in names), 1.0] for scores in self.scores]
        self.scores.clear()
        total = self.trainer.strategy.reduce(torch.tensor(rows, device=self.device).sum(0), reduce_op="sum")
        *sums, count = total.tolist()
        scores = {name: value / count for name, value in zip(names, sums, strict=True)}
        self.log_dict({f"val/{name}": value for name, value in scores.items()}, prog_bar=True)
        keeper = self.trainer.checkpoint_callback
        assert isinstance(keeper, ModelCheckpoint)
        best = -math.inf if keeper.best_model_score is None else float(keeper.best_model_score)
        if scores["psnr"] > best and self.trainer.is_global_zero:
            self.release(scores)
        if not scores["psnr"] > best - self.loop.collapse:
            self._roll_back(keeper.best_model_path, scores["psnr"], best)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["processes"] = self.trainer.world_size

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The numbers of the samples depend on the number of processes, and so the rest of the run."""
        before, now = checkpoint["processes"], self.trainer.world_size
        if before != now:
            raise RecipeError(f"{self.out} was begun by {before} processes, not {now}: give as many")

    def _roll_back(self, path: str, psnr: float, best: float) -> None:
        """Weights, average and optimizer as they were at the best validation; the data goes on."""
        if not path:
            at = f"step {self.global_step}"
            raise RefusionError(f"training diverged before {at}, its first validation: lower learning_rate")
        warnings.warn(
            f"validation fell from {best:.2f} to {psnr:.2f} dB at step {self.global_step}: "
            f"going on from {Path(path).name}",
            stacklevel=2,
        )
        saved = torch.load(self.out / Path(path).name, weights_only=True, map_location=self.device)
        self.load_state_dict(saved["state_dict"])
        self.trainer.optimizers[0].load_state_dict(saved["optimizer_states"][0])


def make_optimizer(training: Loop, network: nn.Module) -> Optimizer:
    """The optimizer that a recipe names, with its values, of all weights that want a gradient."""
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    values: dict[str, Any] = {
        "lr": training.learning_rate,
        "betas": training.betas,
        "weight_decay": training.weight_decay,
    }
    if training.optimizer == "lion":
        from pytorch_optimizer import Lion

        return Lion(weights, **values)
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return kinds[training.optimizer](weights, **values)


def rate_factor(training: Loop, step: int) -> float:
    """The learning rate at a step, as a factor of `learning_rate`."""
    if step < training.warmup:
        return (step + 1) / training.warmup
    progress = (step - training.warmup) / max(1, training.steps - training.warmup)
    if training.decay == "cosine":
        floor = training.final_learning_rate / training.learning_rate
        return floor + (1 - floor) * (1 + math.cos(math.pi * min(1.0, progress))) / 2
    if training.decay == "multistep":
        return training.factor ** sum(step >= m * training.steps for m in training.milestones)
    return 1.0


class AtomicIO(TorchCheckpointIO):
    """A checkpoint is on the disk whole or not at all."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic(target) as part:
            torch.save(checkpoint, part)


class Newest(Callback):
    """Saves what a run resumes from.

    Never between a step and its validation, which a resumed run would skip: then after the next step.
    """

    def __init__(self, path: Path, training: Loop) -> None:
        self.path, self.training = path, training

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step, training = trainer.global_step, self.training
        stepped = (batch_idx + 1) % training.accumulate == 0
        due = step % training.save_every == 0 or step % training.validated_every == 1
        if stepped and due and step % training.validated_every:
            trainer.save_checkpoint(self.path)


def first_step(out: Path) -> int:
    """The step at which a run in this folder goes on."""
    last = out / LAST
    return int(torch.load(last, weights_only=True, mmap=True)["global_step"]) if last.exists() else 0


def fit(stage: Stage, devices: int | None, nodes: int) -> lightning.Trainer:
    """A stage to its end, from its last checkpoint if there is one."""
    out, loop, last = stage.out, stage.loop, stage.out / LAST
    with _quiet():
        trainer = _trainer(loop, out, stage.first_step, devices, nodes)
        if trainer.is_global_zero:
            effective = loop.batch * loop.accumulate * trainer.world_size
            print(f"{out}: step {stage.first_step} of {loop.steps}, {effective} samples a step")
        trainer.fit(stage, ckpt_path=last if last.exists() else None, weights_only=True)
        trainer.save_checkpoint(last)
    return trainer


def _trainer(
    training: Loop, out: Path, first_step: int, devices: int | None, nodes: int
) -> lightning.Trainer:
    """Lightning's loop for a run in the folder `out`."""
    best = ModelCheckpoint(
        out,
        "best-{step}",
        monitor="val/psnr",
        mode="max",
        save_top_k=training.keep,
        save_on_train_epoch_end=False,
        enable_version_counter=False,
    )
    return lightning.Trainer(
        max_steps=training.steps,
        max_epochs=-1,
        devices=devices or (1 if checkpoint.best_device().type == "cpu" else "auto"),
        num_nodes=nodes,
        precision="bf16-mixed" if training.precision == "bf16" else "32-true",
        accumulate_grad_batches=training.accumulate,
        val_check_interval=training.validated_every * training.accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=min(10, training.steps),
        enable_model_summary=False,
        logger=[
            TensorBoardLogger(out, name="log", version="tensorboard"),
            CSVLogger(out, name="log", version=f"from-step-{first_step}"),
        ],
        callbacks=[
            best,
            Newest(out / LAST, training),
            LearningRateMonitor("step"),
            TQDMProgressBar(refresh_rate=10),
        ],
        plugins=[AtomicIO()],
        default_root_dir=out,
    )


def _seed(seed: int, number: int) -> int:
    """One seed from two numbers, the same in every process and version of Python."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1, np.uint64)[0] >> 1)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out Lightning's advice on workers, loggers, hardware, on numbers to reduce, which are, and on
    loaders that do not resume: `StepBatches` starts where the run does."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        advice = "does not have many workers|exists and is not empty|treespec|not resumable|sync_dist"
        warnings.filterwarnings("ignore", f".*({advice}).*")
        yield
    logger.setLevel(level)
