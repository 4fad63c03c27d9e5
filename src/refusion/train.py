"""Training: Lightning runs the loop, and everything random is a function of (seed, sample number).

So a run that was killed goes on from its last checkpoint to the same bits as one that was not.
"""

import contextlib
import copy
import logging
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from refusion import checkpoint
from refusion.codec import Codec
from refusion.data import Pair, StepBatches, TrainingSamples, find_pairs, stems
from refusion.errors import DataError, RecipeError, RefusionError
from refusion.evaluate import Gate, evaluate, mean_scores, replace_latent
from refusion.files import atomic
from refusion.image import Image, from_array, write
from refusion.objective import diffusion_loss, replacing_loss
from refusion.recipe import Loop, Recipe, load_yaml
from refusion.restorer import Restorer

LAST, RECIPE, CODEC = "last.ckpt", "recipe.yaml", "codec.safetensors"
STATISTICS = 256
"""Samples whose latents are measured at the end of the first stage."""
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
        self.first_step = _first_step(out)
        self.pairs: list[Pair] = []
        self.scores: list[dict[str, float]] = []

    @abstractmethod
    def samples(self, pairs: Sequence[Pair], scenes: Sequence[Path]) -> TrainingSamples: ...

    @abstractmethod
    def loss(self, lq: Tensor, gt: Tensor, generator: torch.Generator) -> Tensor: ...

    @abstractmethod
    def measure(self, pair: Pair) -> tuple[dict[str, float], Image]:
        """Scores of the average on a validation pair, "psnr" among them, and what it made."""

    def release(self, scores: dict[str, float]) -> None:
        """Write what users get, after the best validation so far."""

    def train_dataloader(self) -> DataLoader[Any]:
        data, loop = self.recipe.data, self.loop
        scenes = [path for folder in data.scenes for path in stems(Path(folder)).values()]
        samples = self.samples(find_pairs(Path(data.folder) / "train"), scenes)
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
        folder = Path(self.recipe.data.folder) / "val"
        self.pairs = find_pairs(folder)
        if len(self.pairs) < self.trainer.world_size:
            raise DataError(f"{folder}: {len(self.pairs)} pairs for {self.trainer.world_size} processes")
        return DataLoader(range(self.trainer.global_rank, len(self.pairs), self.trainer.world_size))  # type: ignore[arg-type]

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        lq, gt, numbers = batch
        generator = torch.Generator(self.device).manual_seed(_seed(self.loop.seed, int(numbers[0])))
        loss = self.loss(lq, gt, generator)
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
            scores, made = self.measure(pair)
        self.scores.append(scores)
        if self.trainer.is_global_zero and batch_idx < PICTURES:
            lq, gt = pair.read()
            side_by_side = np.concatenate([z.pixels for z in (lq, made, gt)], axis=1)
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


class CodecStage(Stage):
    """The first stage, of a codec with weights: reconstruction and latent replacing."""

    learner: Codec
    ema: Codec

    def __init__(self, codec: Codec, recipe: Recipe, out: Path) -> None:
        super().__init__(codec, recipe.codec_training, recipe, out)

    def samples(self, pairs: Sequence[Pair], scenes: Sequence[Path]) -> TrainingSamples:
        """Crops without a change of scale, whatever the second stage sees."""
        data, settings = self.recipe.data, self.recipe.codec_training
        augment = replace(data.augment, zoom=1.0)
        return TrainingSamples(pairs, settings.patch, augment, settings.seed, scenes, data.degradation)

    def loss(self, lq: Tensor, gt: Tensor, generator: torch.Generator) -> Tensor:
        settings = self.recipe.codec_training
        chances = torch.rand(len(lq) + 1, generator=generator, device=self.device)
        if chances[0] < settings.swap:
            lq, gt = gt, lq
        drop = chances[1:] < settings.skip_dropout
        codec = self.learner
        return replacing_loss(codec.encode, codec.decode, lq, gt, drop, settings.replacing, settings.regular)

    def measure(self, pair: Pair) -> tuple[dict[str, float], Image]:
        gate, replaced = replace_latent(self.ema, pair)
        mean = mean_scores([gate])
        return {"psnr": mean.replaced, **_prefixed(mean)}, replaced


class Parts(nn.Module):
    """The modules of a restorer, as one."""

    def __init__(self, network: nn.Module, codec: Codec) -> None:
        super().__init__()
        self.network: nn.Module = network
        self.codec: Codec = codec

    def trained(self, tune: str) -> Iterator[nn.Parameter]:
        """The weights that `training.tune` names."""
        yield from self.codec.decoding() if tune == "decoder" else self.network.parameters()


class Diffusion(Stage):
    """The second, or only, stage: the network, on what a codec makes of pictures.

    Args:
        restorer: the model; its network is what is trained, or if the recipe says so its decoder.
        gate: what is known of its codec and goes into the card.
    """

    learner: Parts
    ema: Parts

    def __init__(self, restorer: Restorer, recipe: Recipe, out: Path, gate: dict[str, float]) -> None:
        parts = Parts(restorer.network, restorer.codec).requires_grad_(False)
        for weight in parts.trained(recipe.training.tune):
            weight.requires_grad_(True)
        super().__init__(parts, recipe.training, recipe, out)
        self.restorer = replace(restorer, network=self.ema.network, codec=self.ema.codec)
        self.gate = gate

    def samples(self, pairs: Sequence[Pair], scenes: Sequence[Path]) -> TrainingSamples:
        data = self.recipe.data
        return TrainingSamples(
            pairs, data.patch, data.augment, self.recipe.training.seed, scenes, data.degradation
        )

    def loss(self, lq: Tensor, gt: Tensor, generator: torch.Generator) -> Tensor:
        training, sde = self.recipe.training, self.restorer.sde
        network, codec = self.learner.network, self.learner.codec
        mu, features, size = codec.encode(lq)
        x0 = codec.encode(gt).mu
        draw: dict[str, Any] = {"generator": generator, "device": self.device}
        t = torch.randint(1, sde.steps + 1, (len(mu),), **draw)
        t = torch.where(torch.rand(len(mu), **draw) < training.terminal, sde.steps, t)
        return diffusion_loss(
            network,
            sde,
            self.restorer.prediction,
            x0,
            mu,
            t,
            torch.randn(mu.shape, **draw),
            training.compare,
            lambda state: codec.decode(state, features, size),
            gt,
        )

    def measure(self, pair: Pair) -> tuple[dict[str, float], Image]:
        ((row, restored),) = evaluate(self.restorer, [pair])
        mean = mean_scores([row.output])
        return {"psnr": mean.psnr, "ssim": mean.ssim}, restored

    def release(self, scores: dict[str, float]) -> None:
        measured = {"val_psnr": round(scores["psnr"], 2), "val_ssim": round(scores["ssim"], 4), **self.gate}
        metrics = {**self.recipe.card.metrics, **measured}
        card = self.recipe.card.model_copy(update={"metrics": metrics})
        dtype = getattr(torch, self.recipe.training.release)
        checkpoint.save(self.out / checkpoint.MODEL, self.restorer, self.recipe, card, dtype)


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
    for name, loop in (("codec_training", recipe.codec_training), ("training", recipe.training)):
        if loop.steps % loop.validated_every:
            multiple = f"no multiple of validate_every {loop.validate_every}"
            raise RecipeError(f"{name}.steps {loop.steps} is {multiple}: the end is lost")
    begun = _beginning(recipe, start) if start else None
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, recipe)
    torch.manual_seed(recipe.training.seed)
    restorer = recipe.build()
    if begun is not None:
        restorer.network.load_state_dict(begun.network.state_dict())
    gate = {}
    if any(True for _ in restorer.codec.parameters()):
        if begun is not None:
            _keep_codec(begun.codec, out / "codec")
        train_codec(recipe, restorer.codec, out / "codec", devices, nodes)
        passed = _passed_gate(recipe, restorer.codec, out)
        gate = _prefixed(passed) if recipe.training.tune == "network" else {}  # of the codec that is released
    _fit(Diffusion(restorer, recipe, out, gate), devices, nodes)
    return out / checkpoint.MODEL


def train_codec(recipe: Recipe, codec: Codec, out: Path, devices: int | None = None, nodes: int = 1) -> None:
    """The first stage: fill a codec with its best weights, trained in `out` unless they are there."""
    file = out / CODEC
    if not file.exists():
        stage = CodecStage(codec, recipe, out)
        trainer = _fit(stage, devices, nodes)
        keeper = trainer.checkpoint_callback
        assert isinstance(keeper, ModelCheckpoint)
        path = out / Path(keeper.best_model_path).name  # the folder may have moved
        best = torch.load(path, weights_only=True, map_location="cpu")
        stage.load_state_dict(best["state_dict"])
        samples = stage.samples(find_pairs(Path(recipe.data.folder) / "train"), [])
        stage.ema.cpu().calibrate(z[None] for i in range(STATISTICS) for z in samples[i][:2])
        if trainer.is_global_zero:
            _keep_codec(stage.ema, out)
        trainer.strategy.barrier()
    codec.load_state_dict(load_file(file))


def _keep_codec(codec: Codec, out: Path) -> None:
    """Write what ends the first stage."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.contiguous() for name, value in codec.state_dict().items()}
    with atomic(out / CODEC) as part:
        part.write_bytes(serialize(tensors))


def measured_gate(codec: Codec, folder: Path) -> Gate:
    """The gate's numbers, the mean over the pairs of a folder."""
    return mean_scores([replace_latent(codec, pair)[0] for pair in find_pairs(folder)])


def _passed_gate(recipe: Recipe, codec: Codec, out: Path) -> Gate:
    """The gate on the validation pairs, or an error if the second stage could restore nothing."""
    gate = measured_gate(codec.to(checkpoint.best_device()), Path(recipe.data.folder) / "val")
    rank_zero_only(print)(f"{out}: {gate}")
    if gate.gain < recipe.codec_training.gate:
        raise RefusionError(
            f"{out}: {gate}. That gains {gate.gain:.2f} dB, and codec_training.gate asks for "
            f"{recipe.codec_training.gate:g}: the decoder ignores the latent, and diffusing it would "
            "restore nothing. In another folder train the codec longer, with skip_dropout, more replacing or "
            "fewer codec.skips; or lower the gate"
        )
    return gate


def _prefixed(gate: Gate) -> dict[str, float]:
    return {f"codec_{name}": round(value, 2) for name, value in asdict(gate).items()}


def _first_step(out: Path) -> int:
    """The step at which a run in this folder goes on."""
    last = out / LAST
    return int(torch.load(last, weights_only=True, mmap=True)["global_step"]) if last.exists() else 0


def _fit(stage: Stage, devices: int | None, nodes: int) -> lightning.Trainer:
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


def _beginning(recipe: Recipe, start: str | Path) -> Restorer:
    """The model to fine-tune, which must be of the recipe's kind."""
    theirs = checkpoint.read_header(checkpoint.resolve(start)).recipe
    for part in ("network", "codec", "process", "prediction"):
        was, now = getattr(theirs, part), getattr(recipe, part)
        if was != now:
            raise RecipeError(f"{part} of {start} is {was}, of the recipe {now}: fine-tuning changes neither")
    return checkpoint.load(start, "cpu")


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


def _claim(out: Path, recipe: Recipe) -> None:
    """Note the recipe in the run's folder, or see that the one there is the same."""
    note = out / RECIPE
    if not note.exists():
        with atomic(note) as part:
            part.write_text(recipe.to_yaml(), encoding="utf-8")
        return
    earlier, now = (dict(_flat(r.model_dump())) for r in (load_yaml(note), recipe))
    keys = dict.fromkeys([*now, *earlier])  # a part may have other keys, or be gone
    keys.pop("codec_training.gate")  # changes no weights
    changed = [f"{k} {earlier.get(k)} -> {now.get(k)}" for k in keys if earlier.get(k) != now.get(k)]
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
