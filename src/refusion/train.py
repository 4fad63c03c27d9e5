"""Training: Lightning runs the loop, and everything random is a function of (seed, sample number).

So a run that was killed goes on from its last checkpoint to the same bits as one that was not.
"""

import contextlib
import copy
import logging
import math
import warnings
from collections.abc import Iterator
from dataclasses import replace
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
from refusion.data import Pair, StepBatches, TrainingSamples, find_pairs, stems
from refusion.errors import DataError, RecipeError, RefusionError
from refusion.evaluate import evaluate, mean_scores
from refusion.files import atomic
from refusion.image import from_array, write
from refusion.objective import diffusion_loss
from refusion.recipe import Recipe, Training, load_yaml
from refusion.restorer import Restorer

LAST, RECIPE = "last.ckpt", "recipe.yaml"
PICTURES = 4
"""Validation pictures kept for looking at, of each validation."""


class Diffusion(lightning.LightningModule):
    """A network in training beside its moving average, which is what is validated and released.

    Args:
        recipe: all settings.
        out: the run's folder.
        start: a model whose weights to begin with, instead of fresh ones from the recipe's seed.
        first_step: the step that the run resumes at.
    """

    def __init__(self, recipe: Recipe, out: Path, start: Restorer | None = None, first_step: int = 0) -> None:
        super().__init__()
        torch.manual_seed(recipe.training.seed)
        built = recipe.build()
        self.recipe, self.out, self.first_step = recipe, out, first_step
        self.network = built.network
        if start is not None:
            self.network.load_state_dict(start.network.state_dict())
        self.codec = built.codec
        self.ema = copy.deepcopy(self.network).requires_grad_(False)
        self.restorer = replace(built, network=self.ema)
        self.pairs: list[Pair] = []
        self.scores: list[tuple[float, float]] = []

    def train_dataloader(self) -> DataLoader[Any]:
        data, training = self.recipe.data, self.recipe.training
        scenes = [path for folder in data.scenes for path in stems(Path(folder)).values()]
        pairs = find_pairs(Path(data.folder) / "train")
        samples = TrainingSamples(pairs, data.patch, data.augment, training.seed, scenes)
        batches = StepBatches(
            self.first_step * training.accumulate,
            training.steps * training.accumulate,
            training.batch,
            self.trainer.global_rank,
            self.trainer.world_size,
        )
        # A forked worker would hang in libvips, which the parent has used already.
        context = "spawn" if training.workers else None
        return DataLoader(
            samples, batch_sampler=batches, num_workers=training.workers, multiprocessing_context=context
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Numbers of pairs, every process its share."""
        folder = Path(self.recipe.data.folder) / "val"
        self.pairs = find_pairs(folder)
        if len(self.pairs) < self.trainer.world_size:
            raise DataError(f"{folder}: {len(self.pairs)} pairs for {self.trainer.world_size} processes")
        return DataLoader(range(self.trainer.global_rank, len(self.pairs), self.trainer.world_size))  # type: ignore[arg-type]

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        lq, gt, numbers = batch
        training, sde = self.recipe.training, self.restorer.sde
        mu, features, size = self.codec.encode(lq)
        x0 = self.codec.encode(gt).mu
        generator = torch.Generator(self.device).manual_seed(_seed(training.seed, int(numbers[0])))
        draw: dict[str, Any] = {"generator": generator, "device": self.device}
        t = torch.randint(1, sde.steps + 1, (len(mu),), **draw)
        t = torch.where(torch.rand(len(mu), **draw) < training.terminal, sde.steps, t)
        noise = torch.randn(mu.shape, **draw)
        loss = diffusion_loss(
            self.network,
            sde,
            self.restorer.prediction,
            x0,
            mu,
            t,
            noise,
            training.compare,
            lambda state: self.codec.decode(state, features, size),
        )
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the gradient; drop one that is not finite."""
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.training.clip)
        if not bool(norm.isfinite()):
            for parameter in self.network.parameters():
                parameter.grad = None
        self.log("train/gradient_norm", norm)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        decay = min(self.recipe.training.ema, (1 + self.global_step) / (10 + self.global_step))
        with torch.no_grad():
            for average, now in zip(self.ema.parameters(), self.network.parameters(), strict=True):
                average.lerp_(now, 1 - decay)
            for kept, current in zip(self.ema.buffers(), self.network.buffers(), strict=True):
                kept.copy_(current)

    def configure_optimizers(self) -> Any:
        training = self.recipe.training
        optimizer = make_optimizer(training, self.network)
        schedule = LambdaLR(optimizer, lambda step: rate_factor(training, step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def validation_step(self, number: Tensor, batch_idx: int) -> None:
        """As `refusion evaluate` measures: in float32. Weights that are not finite score NaN."""
        if not all(bool(weight.isfinite().all()) for weight in self.ema.parameters()):
            self.scores.append((math.nan, math.nan))
            return
        pair = self.pairs[int(number)]
        with torch.autocast(self.device.type, enabled=False):
            ((row, restored),) = evaluate(self.restorer, [pair])
        mean = mean_scores([row.output])
        self.scores.append((mean.psnr, mean.ssim))
        if self.trainer.is_global_zero and batch_idx < PICTURES:
            lq, gt = pair.read()
            side_by_side = np.concatenate([z.pixels for z in (lq, restored, gt)], axis=1)
            folder = self.out / "pictures"
            folder.mkdir(exist_ok=True)
            write(from_array(side_by_side), folder / f"{row.name}-{self.global_step}.jpg")
            board = self.loggers[0].experiment  # type: ignore[attr-defined]
            board.add_image(row.name, side_by_side, self.global_step, dataformats="HWC")

    def on_validation_epoch_end(self) -> None:
        sums = torch.tensor([[*score, 1.0] for score in self.scores], device=self.device).sum(0)
        self.scores.clear()
        psnr_sum, ssim_sum, count = self.trainer.strategy.reduce(sums, reduce_op="sum").tolist()
        psnr, ssim = psnr_sum / count, ssim_sum / count
        self.log("val/psnr", psnr, prog_bar=True)
        self.log("val/ssim", ssim)
        keeper = self.trainer.checkpoint_callback
        assert isinstance(keeper, ModelCheckpoint)
        best = -math.inf if keeper.best_model_score is None else float(keeper.best_model_score)
        if psnr > best and self.trainer.is_global_zero:
            metrics = {**self.recipe.card.metrics, "val_psnr": round(psnr, 2), "val_ssim": round(ssim, 4)}
            card = self.recipe.card.model_copy(update={"metrics": metrics})
            dtype = getattr(torch, self.recipe.training.release)
            checkpoint.save(self.out / checkpoint.MODEL, self.restorer, self.recipe, card, dtype)
        if not psnr > best - self.recipe.training.collapse:
            self._roll_back(keeper.best_model_path, psnr, best)

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
        saved = torch.load(path, weights_only=True, map_location=self.device)
        self.load_state_dict(saved["state_dict"])
        self.trainer.optimizers[0].load_state_dict(saved["optimizer_states"][0])


def make_optimizer(training: Training, network: nn.Module) -> Optimizer:
    """The optimizer that a recipe names, with its values."""
    values: dict[str, Any] = {
        "lr": training.learning_rate,
        "betas": training.betas,
        "weight_decay": training.weight_decay,
    }
    if training.optimizer == "lion":
        from pytorch_optimizer import Lion

        return Lion(network.parameters(), **values)
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return kinds[training.optimizer](network.parameters(), **values)


def rate_factor(training: Training, step: int) -> float:
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

    def __init__(self, path: Path, training: Training) -> None:
        self.path, self.training = path, training

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step, training = trainer.global_step, self.training
        stepped = (batch_idx + 1) % training.accumulate == 0
        due = step % training.save_every == 0 or step % training.validate_every == 1
        if stepped and due and step % training.validate_every:
            trainer.save_checkpoint(self.path)


def train(
    recipe: Recipe, out: Path, start: str | Path | None = None, devices: int | None = None, nodes: int = 1
) -> Path:
    """Run a recipe to its end, going on where an earlier call in the same folder stopped.

    Args:
        out: the run's folder: last.ckpt, the best checkpoints, logs, pictures and model.safetensors.
        start: fine-tune this model, a bundled name or a file.
        devices: processes on each of `nodes` machines; None takes all accelerators, or one CPU.

    Returns:
        The released model's file, whose validation score was the best.

    Raises:
        RecipeError: `out` holds a run of another recipe, `start` is another kind of model, or the last
            steps would not be validated.
        DataError: the pairs are not in order.
        RefusionError: the run diverged before its first validation.
    """
    steps, every = recipe.training.steps, recipe.training.validate_every
    if steps > every and steps % every:
        raise RecipeError(f"training.steps {steps} is no multiple of validate_every {every}: the end is lost")
    begun = _beginning(recipe, start) if start else None
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, recipe)
    last = out / LAST
    first_step = 0
    if last.exists():
        first_step = int(torch.load(last, weights_only=True, mmap=True)["global_step"])
    module = Diffusion(recipe, out, begun, first_step)
    with _quiet():
        trainer = _trainer(recipe.training, out, first_step, devices, nodes)
        if trainer.is_global_zero:
            effective = recipe.training.batch * recipe.training.accumulate * trainer.world_size
            print(f"{out}: step {first_step} of {recipe.training.steps}, {effective} samples a step")
        trainer.fit(module, ckpt_path=last if last.exists() else None, weights_only=True)
        trainer.save_checkpoint(last)
    return out / checkpoint.MODEL


def _beginning(recipe: Recipe, start: str | Path) -> Restorer:
    """The model to fine-tune, which must be of the recipe's kind."""
    theirs = checkpoint.read_header(checkpoint.resolve(start)).recipe
    for part in ("network", "codec", "process", "prediction"):
        was, now = getattr(theirs, part), getattr(recipe, part)
        if was != now:
            raise RecipeError(f"{part} of {start} is {was}, of the recipe {now}: fine-tuning changes neither")
    return checkpoint.load(start, "cpu")


def _trainer(
    training: Training, out: Path, first_step: int, devices: int | None, nodes: int
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
        val_check_interval=min(training.validate_every, training.steps) * training.accumulate,
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


def _claim(out: Path, recipe: Recipe) -> None:
    """Note the recipe in the run's folder, or see that the one there is the same."""
    note = out / RECIPE
    if not note.exists():
        with atomic(note) as part:
            part.write_text(recipe.to_yaml(), encoding="utf-8")
        return
    earlier, now = (dict(_flat(r.model_dump())) for r in (load_yaml(note), recipe))
    changed = [f"{k} {earlier.get(k)} -> {now.get(k)}" for k in now if earlier.get(k) != now.get(k)]
    if changed:
        raise RecipeError(f"{out} holds a run with other values ({'; '.join(changed)}): give another folder")


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out Lightning's advice on workers, loggers, hardware, and on loaders that do not resume:
    `StepBatches` starts where the run does."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for advice in ("does not have many workers", "exists and is not empty", "treespec", "not resumable"):
            warnings.filterwarnings("ignore", f".*{advice}.*")
        yield
    logger.setLevel(level)
