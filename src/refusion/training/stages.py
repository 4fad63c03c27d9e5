"""The stages of training: for each its weights, its samples, its loss, its validation and its release."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from lightning.fabric import Fabric
from safetensors.torch import load_file
from torch import Tensor, nn

from refusion.data.dataset import TrainingSamples
from refusion.data.pairs import Pair, Scene
from refusion.diffusion.objective import diffusion_loss, mean_error, replacing_loss
from refusion.errors import DataError, RefusionError, printable
from refusion.evaluation.evaluate import LatentSwapScores, evaluate, mean_scores, perceived, replace_latent
from refusion.evaluation.perceptual import Perceptual, without_weights
from refusion.imaging.arrays import from_array
from refusion.imaging.fill import fill_each
from refusion.imaging.image import Image
from refusion.imaging.resize import Enlarge
from refusion.models import checkpoint
from refusion.nn.network import Network
from refusion.restoring.codec import Codec, Maps, Pictures
from refusion.restoring.mean import estimated_mean
from refusion.restoring.restorer import Restorer
from refusion.training.randomness import StepRandom
from refusion.training.recipe import Loop, Recipe, Training
from refusion.training.stage import Stage
from refusion.training.stopping import Stop

Condition = Float[Tensor, "scenes conditions"]

CODEC, MEAN = Path("codec", "codec.safetensors"), Path("mean", "mean.safetensors")
"""What stages leave when they are done, each in its folder, in that of the run."""
DRAWS = 8
"""Random times and noises with which a flow from a mean is validated on each pair."""
DIGITS = {"ssim": 4}
"""Digits of scores in the card, where they are not two."""
CALIBRATION_SAMPLES = 256
"""Number of samples over which the statistics of the latents are measured."""


class CodecStage(Stage):
    """The training of a codec with weights: reconstruction and latent replacing.

    At its end the codec gets the weights of the best validation, the statistics of its latents are measured,
    and the gate decides whether a diffusion of the latents can restore anything.
    """

    learner: Codec
    ema: Codec
    file: Path

    def __init__(self, restorer: Restorer, recipe: Recipe, out: Path, measured: dict[str, float]) -> None:
        self.file = out / CODEC
        super().__init__(restorer.codec, recipe.codec_training, recipe, self.file.parent)
        self.codec = restorer.codec

    def samples(self, pairs: Sequence[Pair], scenes: Sequence[Path]) -> TrainingSamples:
        """Return samples that are cropped without a change of scale."""
        augment = replace(self.recipe.data.augment, zoom=1.0)
        return self.drawn_samples(pairs, scenes, self.recipe.codec_training.patch, augment)

    def loss(
        self, lq: Pictures, gt: Pictures, guides: Maps, condition: Condition, random: StepRandom
    ) -> Float[Tensor, ""]:
        settings = self.recipe.codec_training
        chance, chances = random.chances(len(lq) // len(condition))
        if chance < settings.swap:
            lq, gt = gt, lq
        drop = chances < settings.skip_dropout
        codec = self.learner
        return replacing_loss(codec.encode, codec.decode, lq, gt, drop, settings.replacing, settings.regular)

    def measure(self, pair: Pair) -> tuple[dict[str, float], list[Image]]:
        views = list(_replaced(self.ema, pair, self.recipe.model.enlarge))
        mean = mean_scores([gate for gate, _ in views])
        _, shown = views[0]
        return {"psnr": mean.gt_latent, **_prefixed(mean)}, shown

    def finish(self, fabric: Fabric, stop: Stop) -> dict[str, float]:
        """Load the best weights into the codec, and measure the gate.

        Raises:
            RefusionError: the gain is below the recipe's gate.
            KeyboardInterrupt or SystemExit: a signal asked to stop.
        """
        recipe, codec = self.recipe, self.codec
        if not self.done:
            self.load_best()
            samples = self.samples(self.find("train"), [])
            numbers = stop.heeded(range(CALIBRATION_SAMPLES), fabric)
            self.ema.cpu().calibrate(z for i in numbers for z in samples[i][:2])
            if fabric.is_global_zero:
                checkpoint.write_weights(self.file, self.ema)
            fabric.barrier()
        codec.load_state_dict(load_file(self.file))
        pairs = stop.heeded(self.find("val"), fabric)
        gate = measured_gate(codec.to(checkpoint.best_device()), pairs, recipe.model.enlarge)
        if fabric.is_global_zero:
            print(printable(f"{self.out.parent}: {gate}"), flush=True)
        if gate.gain < recipe.codec_training.gate:
            raise RefusionError(
                f"{self.out.parent}: {gate}. That gains {gate.gain:.2f} dB, and codec_training.gate asks for "
                f"{recipe.codec_training.gate:g}: the decoder ignores the latent, and diffusing it would "
                "restore nothing. In another folder train the codec longer, with skip_dropout, more "
                "replacing or fewer codec.skips; or lower the gate"
            )
        return (
            _prefixed(gate) if recipe.training.trainable == "network" else {}
        )  # of the codec that is released


class MeanStage(Stage):
    """The training of the mean, a regression network.

    At its end the mean gets the weights of the best validation.
    """

    learner: Network
    ema: Network
    file: Path

    def __init__(self, restorer: Restorer, recipe: Recipe, out: Path, measured: dict[str, float]) -> None:
        assert restorer.mean is not None
        self.file = out / MEAN
        super().__init__(restorer.mean.requires_grad_(True), recipe.mean_training, recipe, self.file.parent)
        self.mean, self.codec = restorer.mean, restorer.codec.requires_grad_(False)
        sampling = replace(restorer.sampling, texture=0.0)
        self.restorer = replace(restorer, mean=self.ema, sampling=sampling)

    def samples(self, pairs: Sequence[Pair], scenes: Sequence[Path]) -> TrainingSamples:
        return _checked_samples(self, self.mean, pairs, scenes)

    def loss(
        self, lq: Pictures, gt: Pictures, guides: Maps, condition: Condition, random: StepRandom
    ) -> Float[Tensor, ""]:
        codec = self.codec.to(lq.device)
        mu, x0 = codec.encode(lq).mu, codec.encode(gt).mu
        condition = condition.repeat_interleave(len(mu) // len(condition), 0)
        estimate = estimated_mean(self.learner, self.restorer.sde, codec, mu, guides, condition)
        return mean_error(estimate, x0, self.recipe.mean_training.loss, _weight(self.recipe, codec, guides))

    def measure(self, pair: Pair) -> tuple[dict[str, float], list[Image]]:
        return _measured(self.restorer.to(next(self.ema.parameters()).device), pair, pair.read(), self.loop)

    def finish(self, fabric: Fabric, stop: Stop) -> dict[str, float]:
        """Load the best weights into the mean."""
        if not self.done:
            self.load_best()
            if fabric.is_global_zero:
                checkpoint.write_weights(self.file, self.ema)
        fabric.barrier()  # of all processes, also of one that came when the file was there
        self.mean.load_state_dict(load_file(self.file))
        return {}


class Parts(nn.Module):
    """Network, codec and mean of a restorer as one module."""

    def __init__(self, network: Network, codec: Codec, mean: Network | None) -> None:
        super().__init__()
        self.network: Network = network
        self.codec: Codec = codec
        self.mean: Network | None = mean

    def trained(self, trainable: str) -> Iterator[nn.Parameter]:
        """Yield the weights that `training.trainable` names."""
        yield from self.codec.decoding() if trainable == "decoder" else self.network.parameters()


class DiffusionStage(Stage):
    """The training of the network on states of a codec, or of the codec's decoder (`training.trainable`).

    After each validation that is the best so far it releases the model, with a card. What is best is told by
    the PSNR of restored pictures; but with a mean, from which samples are to differ as clean pictures do, by
    that of estimates of x_0.
    """

    learner: Parts
    ema: Parts

    def __init__(self, restorer: Restorer, recipe: Recipe, out: Path, measured: dict[str, float]) -> None:
        parts = Parts(restorer.network, restorer.codec, restorer.mean).requires_grad_(False)
        for weight in parts.trained(recipe.training.trainable):
            weight.requires_grad_(True)
        super().__init__(parts, recipe.training, recipe, out)
        self.restorer = replace(restorer, network=self.ema.network, codec=self.ema.codec, mean=self.ema.mean)
        self.measured = measured
        self.criterion = "psnr" if restorer.mean is None else "denoising_psnr"

    def samples(self, pairs: Sequence[Pair], scenes: Sequence[Path]) -> TrainingSamples:
        return _checked_samples(self, self.restorer.network, pairs, scenes)

    def loss(
        self, lq: Pictures, gt: Pictures, guides: Maps, condition: Condition, random: StepRandom
    ) -> Float[Tensor, ""]:
        return self._loss(self.learner, self.recipe.training, lq, gt, guides, condition, random)

    def _loss(
        self,
        parts: Parts,
        training: Training,
        lq: Pictures,
        gt: Pictures,
        guides: Maps,
        condition: Condition,
        random: StepRandom,
    ) -> Float[Tensor, ""]:
        """Return the loss of weights that are trained or averaged, by settings of a training."""
        sde, network, codec = self.restorer.sde, parts.network, parts.codec
        mu, features, size = codec.encode(lq)
        x0 = codec.encode(gt).mu
        # The views of a scene share time and noise, as in restoration.
        views = len(mu) // len(condition)
        condition = condition.repeat_interleave(views, 0)
        lq_state = mu
        if parts.mean is not None:
            with torch.no_grad():
                mu = estimated_mean(parts.mean, sde, codec, lq_state, guides, condition)
        seen = codec.seen(network, mu, guides, lq_state)
        t = random.integers(1, sde.steps + 1)
        t = torch.where(random.uniform() < training.p_terminal, sde.steps, t)
        noise = random.normal(mu.shape[1:])
        t = t.repeat_interleave(views, 0)
        noise = noise.repeat_interleave(views, 0)
        return diffusion_loss(
            lambda x_t, _, t: network(x_t, seen, t, network.embed(t, condition)),
            sde,
            self.restorer.prediction,
            x0,
            mu,
            t,
            noise,
            training.compare,
            lambda state: codec.decode(state, features, size),
            gt,
            training.loss,
            _weight(self.recipe, codec, guides, training.compare == "picture"),
        )

    def measure(self, pair: Pair) -> tuple[dict[str, float], list[Image]]:
        scene = pair.read()
        scores, shown = _measured(self.restorer, pair, scene, self.loop)
        if self.ema.mean is not None:
            scores["denoising_psnr"] = self._denoising_psnr(scene)
        return scores, shown

    @torch.inference_mode()
    def _denoising_psnr(self, scene: Scene) -> float:
        """Return the PSNR of estimates of x_0 from x_t at `DRAWS` random times, in the middle of a pair."""
        device, enlarge = self.restorer.device, self.recipe.model.enlarge
        lq, gt = (torch.stack([z.tensor() for z in images]) for images in (scene.lq, scene.gt))
        guides = torch.zeros(len(gt), self.recipe.model.guides, *gt.shape[-2:])
        if scene.guides is not None and self.recipe.model.guides:
            guides = enlarge(scene.guides)
        if self.recipe.model.fill:
            guides = (guides > 0).float()
            lq = fill_each(self.recipe.model.fill, lq, guides)
        lq, gt, guides = (
            _middle(z, self.recipe.data.patch).to(device).repeat(DRAWS, 1, 1, 1)
            for z in (enlarge(lq), gt, guides)
        )
        condition = torch.tensor(scene.condition, device=device).expand(DRAWS, -1)
        random = StepRandom(torch.Generator(device).manual_seed(0), device, DRAWS, 0, DRAWS)
        training = self.recipe.training.model_copy(update={"compare": "picture", "loss": "psnr"})
        return -10 * float(self._loss(self.ema, training, lq, gt, guides, condition, random))

    def release(self, scores: dict[str, float]) -> None:
        validation = {f"val_{name}": round(score, DIGITS.get(name, 2)) for name, score in scores.items()}
        metrics = {**self.recipe.card.metrics, **validation, **self.measured}
        card = self.recipe.card.model_copy(update={"task": self.recipe.task, "metrics": metrics})
        dtype = getattr(torch, self.recipe.training.weights_dtype)
        file, spec = self.out / checkpoint.MODEL, self.recipe.model
        checkpoint.save(file, self.restorer, spec, card, self.recipe.provenance(), dtype)


StageType = type[CodecStage] | type[MeanStage] | type[DiffusionStage]


def stages(recipe: Recipe) -> list[StageType]:
    """Return the stages of a recipe in order."""
    has_weights = any(True for _ in recipe.model.outline.codec.parameters())
    first: list[StageType] = [CodecStage] if has_weights else []
    between: list[StageType] = [] if recipe.model.mean is None else [MeanStage]
    return [*first, *between, DiffusionStage]


def _checked_samples(
    stage: Stage, network: Network, pairs: Sequence[Pair], scenes: Sequence[Path]
) -> TrainingSamples:
    """Return the samples of a stage that trains a network.

    Raises:
        DataError: the network does not take them.
    """
    data = stage.recipe.data
    samples = stage.drawn_samples(pairs, scenes, data.patch, data.augment)
    first = samples[0]
    try:
        network.check(len(first.gt), len(first.condition), first.guides.shape[1])
    except ValueError as error:
        raise DataError(f"the training pairs: {error}") from error
    return samples


def _middle(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the middle of pictures, at most as large as a size."""
    for dim, side in zip((-2, -1), size, strict=True):
        kept = min(side, pictures.shape[dim])
        pictures = pictures.narrow(dim, (pictures.shape[dim] - kept) // 2, kept)
    return pictures


def _weight(recipe: Recipe, codec: Codec, guides: Maps, of_pictures: bool = False) -> Tensor | None:
    """Return the weight of a loss, of states or pictures.

    It is the mask for models that fill holes: nothing else counts.
    """
    if recipe.model.fill is None:
        return None
    if of_pictures:
        return guides
    return codec.encode_guides(guides).repeat(1, codec.channels // codec.map_channels, 1, 1)


def _measured(
    restorer: Restorer, pair: Pair, scene: Scene, loop: Loop
) -> tuple[dict[str, float], list[Image]]:
    """Return the scores of a restored pair, and its degraded, restored and clean picture.

    They are PSNR, SSIM and, if the loop's settings say so, the metrics that need no files.

    Args:
        restorer: of the pair.
        pair: what is restored.
        scene: the same, read.
        loop: settings of the loop.
    """
    perceptual = without_weights() if loop.perceptual else Perceptual()
    results = list(evaluate(restorer, [pair], perceptual=perceptual, precision="32"))
    rows = [row for row, _ in results]
    mean = mean_scores([row.output for row in rows])
    further = {name: float(np.mean(outputs)) for name, (_, outputs) in perceived(rows).items()}
    _, restored = results[0]
    shown = [restorer.upscale_input(scene.lq[0]), restored, scene.gt[0]]
    return {"psnr": mean.psnr, "ssim": mean.ssim, **further}, shown


def measured_gate(codec: Codec, pairs: Iterable[Pair], enlarge: Enlarge = Enlarge()) -> LatentSwapScores:
    """Return the mean gate over pairs."""
    return mean_scores([gate for pair in pairs for gate, _ in _replaced(codec, pair, enlarge)])


def _replaced(codec: Codec, pair: Pair, enlarge: Enlarge) -> Iterator[tuple[LatentSwapScores, list[Image]]]:
    """Yield the gate of every view, and its degraded, replaced and clean pictures."""
    views = pair.read()
    for lq, gt in zip(views.lq, views.gt, strict=True):
        entered = from_array(enlarge(lq.tensor()[None])[0])
        gate, replaced = replace_latent(codec, entered, gt)
        yield gate, [entered, replaced, gt]


def _prefixed(gate: LatentSwapScores) -> dict[str, float]:
    return {f"codec_{name}": round(value, 2) for name, value in asdict(gate).items()}
