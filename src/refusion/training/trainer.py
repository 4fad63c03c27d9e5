"""One loop trains every stage, and everything random in it is a function of (seed, sample number).

So a run that was killed goes on from its last checkpoint to the same bits as one that was not.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from refusion.data.dataset import StepBatches
from refusion.data.pairs import Pair, stems
from refusion.errors import DataError, ImageError, RefusionError
from refusion.imaging.image import Image
from refusion.nn.precision import multiplying
from refusion.training import checkpoints
from refusion.training.checkpoints import LAST
from refusion.training.log import Log, progress_bar
from refusion.training.optimizer import make_optimizer, rate_factor
from refusion.training.randomness import StepRandom, seed_of
from refusion.training.stage import Progress, Stage, resume, samples_per_step, save
from refusion.training.stopping import Stop, without_signals

PICTURES = 4
"""Validation pictures kept for looking at, of each validation."""
LOG_EVERY = 10
"""Optimizer steps between two rows of the log."""


class _Objective(nn.Module):
    """The loss as a module, which is what data parallelism wraps."""

    def __init__(self, stage: Stage, device: torch.device) -> None:
        super().__init__()
        self.learner = stage.learner
        self._loss, self._precision = stage.loss, stage.loop.precision_on(device)

    def forward(
        self, lq: Tensor, gt: Tensor, guides: Tensor, condition: Tensor, random: StepRandom
    ) -> Tensor:
        with multiplying(self._precision, lq.device):
            return self._loss(lq, gt, guides, condition, random)


def fit(stage: Stage, fabric: Fabric, stop: Stop) -> None:
    """Run a stage to its end, from its last checkpoint if there is one.

    Raises:
        RecipeError: the run was begun by another number of processes.
        DataError: see `Stage.find`, or there are fewer validation pairs than processes.
        RefusionError: the weights diverged before the first validation.
        KeyboardInterrupt or SystemExit: a signal asked to stop; the run resumes where it stopped.
    """
    loop = stage.loop
    stage.ema.to(fabric.device)
    objective, optimizer = fabric.setup(_Objective(stage, fabric.device), make_optimizer(loop, stage.learner))
    at = resume(stage, optimizer, fabric)
    batches, val = _batches(stage, at.step, fabric), _validation_pairs(stage, fabric)
    log = Log(stage, at.step, fabric)
    stop.raise_agreed(fabric)
    with progress_bar(stage, at.step, fabric) as bar:
        while True:
            if at.step % loop.validated_every == 0 and at.validated < at.step:
                try:
                    scores = validate(stage, val, at.step, log, fabric, stop)
                except (KeyboardInterrupt, SystemExit):
                    save(stage, optimizer, at, stage.out / LAST, fabric)
                    raise
                at.validated = at.step
                _select(stage, optimizer, at, scores, fabric)
            if at.step == loop.steps:
                break
            try:
                loss, norm = train_step(stage, objective, optimizer, batches, at.step, fabric)
            except RuntimeError:
                stop.check()  # a process that reads pictures, or another that trains, was ended
                raise
            at.step += 1
            bar.update()
            if at.step % LOG_EVERY == 0 or at.step == loop.steps:
                log.write(
                    {"train/loss": loss, "train/gradient_norm": norm, "lr": optimizer.param_groups[0]["lr"]},
                    at.step,
                )
                bar.set_postfix(loss=f"{float(loss):.4f}")
            stopping = stop.agreed(fabric)
            if at.step % loop.save_every == 0 or stopping:
                save(stage, optimizer, at, stage.out / LAST, fabric)
            if stopping:
                stop.check()
    save(stage, optimizer, at, stage.out / LAST, fabric)
    log.close()
    stop.raise_agreed(fabric)


def train_step(
    stage: Stage,
    objective: Callable[..., Tensor],
    optimizer: Optimizer,
    batches: Iterator[list[Tensor]],
    step: int,
    fabric: Fabric,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Take one optimizer step and move the average; return the last batch's loss and the gradient's norm."""
    loop, samples = stage.loop, samples_per_step(stage.loop, fabric.world_size)
    for group in optimizer.param_groups:
        group["lr"] = loop.learning_rate * rate_factor(loop, step)
    for i in range(loop.accumulate):
        lq, gt, condition, numbers, guides = fabric.to_device(next(batches))
        generator = torch.Generator(fabric.device).manual_seed(seed_of(loop.seed, step * samples))
        first = int(numbers[0]) - step * samples
        random = StepRandom(generator, fabric.device, samples, first, len(numbers))
        with fabric.no_backward_sync(objective, enabled=i + 1 < loop.accumulate):  # type: ignore[arg-type]
            pictures = (z.flatten(0, 1) for z in (lq, gt, guides))
            loss = objective(*pictures, condition, random)
            fabric.backward(loss / loop.accumulate)
    norm = clip_gradient(stage.learner, loop.clip)
    optimizer.step()
    optimizer.zero_grad()
    update_average(stage.ema, stage.learner, loop.ema, step)
    return loss.detach(), norm


def clip_gradient(module: nn.Module, largest: float) -> Float[Tensor, ""]:
    """Clip the gradient's norm, and drop a gradient that is not finite; return the norm."""
    norm = nn.utils.clip_grad_norm_(module.parameters(), largest, foreach=True)
    if not bool(norm.isfinite()):
        for parameter in module.parameters():
            parameter.grad = None
    return norm


@torch.no_grad()
def update_average(ema: nn.Module, learner: nn.Module, decay: float, step: int) -> None:
    """Move the averaged weights towards the present ones; in the first steps faster."""
    decay = min(decay, (1 + step) / (10 + step))
    move = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    move(list(ema.parameters()), list(learner.parameters()), 0)
    for kept, value in zip(ema.buffers(), learner.buffers(), strict=True):
        kept.copy_(value)


def validate(
    stage: Stage, pairs: Sequence[Pair], step: int, log: Log, fabric: Fabric, stop: Stop
) -> dict[str, float]:
    """Return the mean scores of the average on the pairs; each process measures its share.

    In float32, as `refusion evaluate --precision 32` measures. Weights that are not finite, or so
    large that a restoration is not, score NaN.

    Raises:
        KeyboardInterrupt or SystemExit: a signal asked to stop; the weights are as they were.
    """
    sound = all(bool(weight.isfinite().all()) for weight in stage.ema.parameters())
    rows: list[dict[str, float]] = []
    for first in range(0, len(pairs), fabric.world_size):
        stop.raise_agreed(fabric)
        i = first + fabric.global_rank
        if not sound or i >= len(pairs):  # yet the others may ask
            continue
        measured = _measure(stage, pairs[i])
        if measured is None:
            sound = False
            continue
        scores, shown = measured
        rows.append(scores)
        if shown and fabric.is_global_zero and len(rows) <= PICTURES:
            log.show(np.concatenate([image.pixels for image in shown], axis=1), pairs[i].name, step)
    unsound: Any = fabric.all_reduce(torch.tensor(float(not sound), device=fabric.device), reduce_op="sum")
    if float(unsound):
        means = {stage.criterion: math.nan}
    else:
        names = list(rows[0])
        table = torch.tensor([[*(row[name] for name in names), 1.0] for row in rows], device=fabric.device)
        total: Any = fabric.all_reduce(table.sum(0), reduce_op="sum")
        *sums, count = total.tolist()
        means = {name: value / count for name, value in zip(names, sums, strict=True)}
    log.write({f"val/{name}": value for name, value in means.items()}, step)
    return means


def _measure(stage: Stage, pair: Pair) -> tuple[dict[str, float], list[Image]] | None:
    """Return what `Stage.measure` does, or None if the restoration is not finite.

    Raises:
        DataError, ImageError: the pair is at fault.
    """
    try:
        return stage.measure(pair)
    except ImageError:
        pair.read()
        return None


def _select(
    stage: Stage, optimizer: Optimizer, at: Progress, scores: dict[str, float], fabric: Fabric
) -> None:
    """Release and keep what scores well; after a collapse go on from the best.

    The run's checkpoint is written before old ones are deleted, so that it never names one that is gone.
    """
    psnr, best = scores[stage.criterion], at.best[0][0] if at.best else -math.inf
    dropped: list[tuple[float, str]] = []
    if psnr > best and fabric.is_global_zero:
        with checkpoints.writing(stage.out):
            stage.release(scores)
    if not psnr > best - stage.loop.rollback_drop_db:
        _roll_back(stage, optimizer, at, f"from {best:.2f} to {psnr:.2f} dB at step {at.step}")
    elif len(at.best) < stage.loop.keep or psnr > at.best[-1][0]:
        name = f"best-step={at.step}.ckpt"
        ranked = sorted([*at.best, (psnr, name)], key=lambda entry: -entry[0])
        at.best, dropped = ranked[: stage.loop.keep], ranked[stage.loop.keep :]
        save(stage, optimizer, at, stage.out / name, fabric)
    save(stage, optimizer, at, stage.out / LAST, fabric)
    if fabric.is_global_zero:
        for _, name in dropped:
            (stage.out / name).unlink(missing_ok=True)


def _roll_back(stage: Stage, optimizer: Optimizer, at: Progress, fell: str) -> None:
    """Restore weights, average and optimizer of the best validation; the data goes on."""
    if not at.best:
        raise RefusionError(
            f"training diverged before step {at.step}, its first validation: lower learning_rate"
        )
    best = checkpoints.read_best(stage.out, at.best)
    if best is None:
        raise RefusionError(f"validation fell {fell}, and no best checkpoint is whole: give another folder")
    warnings.warn(f"validation fell {fell}: going on from {best.path.name}", stacklevel=2)
    stage.load_state_dict(best.content["state_dict"])
    optimizer.load_state_dict(best.content["optimizer"])


def _batches(stage: Stage, first: int, fabric: Fabric) -> Iterator[list[Tensor]]:
    """Yield the batches of this process from a step on."""
    data, loop = stage.recipe.data, stage.loop
    scenes = [path for folder in data.scenes for path in stems(Path(folder)).values()]
    sampler = StepBatches(
        first * loop.accumulate,
        loop.steps * loop.accumulate,
        loop.batch,
        fabric.global_rank,
        fabric.world_size,
    )
    # A forked worker would hang in libvips, which the parent has used already.
    context = "spawn" if loop.workers else None
    samples = stage.samples(stage.find("train"), scenes)
    loader = DataLoader(
        samples, batch_sampler=sampler, num_workers=loop.workers, multiprocessing_context=context
    )
    with without_signals():
        return iter(loader)


def _validation_pairs(stage: Stage, fabric: Fabric) -> list[Pair]:
    pairs = stage.find("val")
    if len(pairs) < fabric.world_size:
        raise DataError(f"val: {len(pairs)} pairs for {fabric.world_size} processes")
    return pairs
