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
from refusion.data.pairs import Pair
from refusion.diffusion.objective import diffusion_loss, replacing_loss
from refusion.errors import DataError, RefusionError, printable
from refusion.evaluation.evaluate import LatentSwapScores, evaluate, mean_scores, perceived, replace_latent
from refusion.evaluation.perceptual import without_weights
from refusion.imaging.arrays import from_array
from refusion.imaging.image import Image
from refusion.imaging.resize import Enlarge
from refusion.models import checkpoint
from refusion.nn.network import Network
from refusion.restoring.codec import Codec, Maps, Pictures
from refusion.restoring.restorer import Restorer
from refusion.training.randomness import StepRandom
from refusion.training.recipe import Recipe
from refusion.training.stage import Stage
from refusion.training.stopping import Stop

Condition = Float[Tensor, "scenes conditions"]

CODEC = "codec.safetensors"
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

    def __init__(self, restorer: Restorer, recipe: Recipe, out: Path, measured: dict[str, float]) -> None:
        super().__init__(restorer.codec, recipe.codec_training, recipe, out / "codec")
        self.codec = restorer.codec
        self.file = self.out / CODEC

    @property
    def done(self) -> bool:
        return self.file.exists()

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


class Parts(nn.Module):
    """Network and codec of a restorer as one module."""

    def __init__(self, network: Network, codec: Codec) -> None:
        super().__init__()
        self.network: Network = network
        self.codec: Codec = codec

    def trained(self, trainable: str) -> Iterator[nn.Parameter]:
        """Yield the weights that `training.trainable` names."""
        yield from self.codec.decoding() if trainable == "decoder" else self.network.parameters()


class DiffusionStage(Stage):
    """The training of the network on states of a codec, or of the codec's decoder (`training.trainable`).

    After each validation that is the best so far it releases the model, with a card.
    """

    learner: Parts
    ema: Parts

    def __init__(self, restorer: Restorer, recipe: Recipe, out: Path, measured: dict[str, float]) -> None:
        parts = Parts(restorer.network, restorer.codec).requires_grad_(False)
        for weight in parts.trained(recipe.training.trainable):
            weight.requires_grad_(True)
        super().__init__(parts, recipe.training, recipe, out)
        self.restorer = replace(restorer, network=self.ema.network, codec=self.ema.codec)
        self.measured = measured

    def samples(self, pairs: Sequence[Pair], scenes: Sequence[Path]) -> TrainingSamples:
        samples = self.drawn_samples(pairs, scenes, self.recipe.data.patch, self.recipe.data.augment)
        first = samples[0]
        try:
            self.restorer.network.check(len(first.gt), len(first.condition), first.guides.shape[1])
        except ValueError as error:
            raise DataError(f"the training pairs: {error}") from error
        return samples

    def loss(
        self, lq: Pictures, gt: Pictures, guides: Maps, condition: Condition, random: StepRandom
    ) -> Float[Tensor, ""]:
        training, sde = self.recipe.training, self.restorer.sde
        network, codec = self.learner.network, self.learner.codec
        mu, features, size = codec.encode(lq)
        x0 = codec.encode(gt).mu
        seen = codec.with_guides(mu, guides)
        t = random.integers(1, sde.steps + 1)
        t = torch.where(random.uniform() < training.p_terminal, sde.steps, t)
        noise = random.normal(mu.shape[1:])
        # The views of a scene share time and noise, as in restoration.
        views = len(mu) // len(condition)
        t = t.repeat_interleave(views, 0)
        noise = noise.repeat_interleave(views, 0)
        condition = condition.repeat_interleave(views, 0)
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
            self._weight(guides),
        )

    def _weight(self, guides: Maps) -> Tensor | None:
        """Return the weight of the loss, the mask for models that fill holes: nothing else counts."""
        if self.recipe.model.fill is None:
            return None
        if self.recipe.training.compare == "picture":
            return guides
        codec = self.learner.codec
        holes = codec.encode_guides(guides)
        return holes.repeat(1, codec.channels // codec.map_channels, 1, 1)

    def measure(self, pair: Pair) -> tuple[dict[str, float], list[Image]]:
        results = list(evaluate(self.restorer, [pair], perceptual=without_weights(), precision="32"))
        rows = [row for row, _ in results]
        mean = mean_scores([row.output for row in rows])
        further = {name: float(np.mean(outputs)) for name, (_, outputs) in perceived(rows).items()}
        _, restored = results[0]
        views = pair.read()
        shown = [self.restorer.upscale_input(views.lq[0]), restored, views.gt[0]]
        return {"psnr": mean.psnr, "ssim": mean.ssim, **further}, shown

    def release(self, scores: dict[str, float]) -> None:
        validation = {f"val_{name}": round(score, DIGITS.get(name, 2)) for name, score in scores.items()}
        metrics = {**self.recipe.card.metrics, **validation, **self.measured}
        card = self.recipe.card.model_copy(update={"task": self.recipe.task, "metrics": metrics})
        dtype = getattr(torch, self.recipe.training.weights_dtype)
        file, spec = self.out / checkpoint.MODEL, self.recipe.model
        checkpoint.save(file, self.restorer, spec, card, self.recipe.provenance(), dtype)


def stages(recipe: Recipe) -> list[type[CodecStage] | type[DiffusionStage]]:
    """Return the stages of a recipe in order."""
    has_weights = any(True for _ in recipe.model.outline.codec.parameters())
    return [CodecStage, DiffusionStage] if has_weights else [DiffusionStage]


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
