"""Training a recipe: first its codec, if that has weights, then its network; `loop` runs the stages."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from safetensors.torch import load_file
from torch import Tensor, nn

from refusion import checkpoint
from refusion.codec import Codec
from refusion.data import Pair
from refusion.errors import DataError, RecipeError, RefusionError
from refusion.evaluate import Gate, evaluate, mean_scores, replace_latent
from refusion.files import atomic
from refusion.image import Image, from_array
from refusion.loop import Stage, fit
from refusion.objective import diffusion_loss, replacing_loss
from refusion.recipe import Recipe, load_yaml
from refusion.resize import Enlarge
from refusion.restorer import Restorer
from refusion.samples import TrainingSamples
from refusion.tiling import Network, conditions, views

RECIPE, CODEC = "recipe.yaml", "codec.safetensors"
STATISTICS = 256
"""Samples whose latents are measured at the end of the first stage."""


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
        return TrainingSamples(
            pairs, settings.patch, augment, settings.seed, scenes, data.degradation, self.recipe.enlarge
        )

    def loss(self, lq: Tensor, gt: Tensor, condition: Tensor, generator: torch.Generator) -> Tensor:
        settings = self.recipe.codec_training
        chances = torch.rand(len(lq) + 1, generator=generator, device=self.device)
        if chances[0] < settings.swap:
            lq, gt = gt, lq
        drop = chances[1:] < settings.skip_dropout
        codec = self.learner
        return replacing_loss(codec.encode, codec.decode, lq, gt, drop, settings.replacing, settings.regular)

    def measure(self, pair: Pair) -> tuple[dict[str, float], list[Image]]:
        gates, shown = zip(*_replaced(self.ema, pair, self.recipe.enlarge), strict=True)
        mean = mean_scores(gates)
        return {"psnr": mean.replaced, **_prefixed(mean)}, list(shown[0])


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
        seed, enlarge = self.recipe.training.seed, self.recipe.enlarge
        made = TrainingSamples(pairs, data.patch, data.augment, seed, scenes, data.degradation, enlarge)
        self._check_fit(*made[0][1:3])
        return made

    def _check_fit(self, gt: Tensor, condition: Tensor) -> None:
        network = self.restorer.network
        for name, given, expected in (
            ("views", len(gt), views(network)),
            ("conditions", len(condition), conditions(network)),
        ):
            if given != expected:
                raise DataError(f"the pairs have {given} {name}, and the network takes {expected}")

    def loss(self, lq: Tensor, gt: Tensor, condition: Tensor, generator: torch.Generator) -> Tensor:
        training, sde = self.recipe.training, self.restorer.sde
        network, codec = cast(Network, self.learner.network), self.learner.codec
        mu, features, size = codec.encode(lq)
        x0 = codec.encode(gt).mu
        draw: dict[str, Any] = {"generator": generator, "device": self.device}
        scenes = len(condition)
        t = torch.randint(1, sde.steps + 1, (scenes,), **draw)
        t = torch.where(torch.rand(scenes, **draw) < training.terminal, sde.steps, t)
        # The views of a scene share time and noise, as they do in restoring.
        noise = torch.randn((scenes, *mu.shape[1:]), **draw)
        t, noise, *wanted = (
            z.repeat_interleave(len(mu) // scenes, 0)
            for z in (t, noise, *[condition] * bool(condition.numel()))
        )
        return diffusion_loss(
            lambda x_t, mu, t: network(x_t, mu, t, network.embed(t, *wanted)),
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
        )

    def measure(self, pair: Pair) -> tuple[dict[str, float], list[Image]]:
        rows, restored = zip(*evaluate(self.restorer, [pair]), strict=True)
        mean = mean_scores([row.output for row in rows])
        views = pair.read()
        shown = [self.restorer.prepared(views.lq[0]), restored[0], views.gt[0]]
        return {"psnr": mean.psnr, "ssim": mean.ssim}, shown

    def release(self, scores: dict[str, float]) -> None:
        measured = {"val_psnr": round(scores["psnr"], 2), "val_ssim": round(scores["ssim"], 4), **self.gate}
        metrics = {**self.recipe.card.metrics, **measured}
        card = self.recipe.card.model_copy(update={"metrics": metrics})
        dtype = getattr(torch, self.recipe.training.release)
        checkpoint.save(self.out / checkpoint.MODEL, self.restorer, self.recipe, card, dtype)


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
        # The attention between two views, which a model of single views lacks, starts at zero.
        alike = views(begun.network) == views(restorer.network)
        restorer.network.load_state_dict(begun.network.state_dict(), strict=alike)
    gate = {}
    if any(True for _ in restorer.codec.parameters()):
        if begun is not None:
            checkpoint.write_weights(out / "codec" / CODEC, begun.codec)
        train_codec(recipe, restorer.codec, out / "codec", devices, nodes)
        passed = _passed_gate(recipe, restorer.codec, out)
        gate = _prefixed(passed) if recipe.training.tune == "network" else {}  # of the codec that is released
    fit(Diffusion(restorer, recipe, out, gate), devices, nodes)
    return out / checkpoint.MODEL


def train_codec(recipe: Recipe, codec: Codec, out: Path, devices: int | None = None, nodes: int = 1) -> None:
    """The first stage: fill a codec with its best weights, trained in `out` unless they are there."""
    file = out / CODEC
    if not file.exists():
        stage = CodecStage(codec, recipe, out)
        trainer = fit(stage, devices, nodes)
        keeper = trainer.checkpoint_callback
        assert isinstance(keeper, ModelCheckpoint)
        path = out / Path(keeper.best_model_path).name  # the folder may have moved
        best = torch.load(path, weights_only=True, map_location="cpu")
        stage.load_state_dict(best["state_dict"])
        samples = stage.samples(stage.find("train"), [])
        stage.ema.cpu().calibrate(z for i in range(STATISTICS) for z in samples[i][:2])
        if trainer.is_global_zero:
            checkpoint.write_weights(file, stage.ema)
        trainer.strategy.barrier()
    codec.load_state_dict(load_file(file))


def measured_gate(codec: Codec, pairs: Sequence[Pair], enlarge: Enlarge = Enlarge()) -> Gate:
    """The gate's numbers, the mean over pairs."""
    return mean_scores([gate for pair in pairs for gate, _ in _replaced(codec, pair, enlarge)])


def _replaced(codec: Codec, pair: Pair, enlarge: Enlarge) -> Iterator[tuple[Gate, list[Image]]]:
    """The gate of every view, with the degraded, the replaced and the clean picture."""
    views = pair.read()
    for lq, gt in zip(views.lq, views.gt, strict=True):
        entered = from_array(enlarge(lq.tensor()[None])[0])
        gate, replaced = replace_latent(codec, entered, gt)
        yield gate, [entered, replaced, gt]


def _passed_gate(recipe: Recipe, codec: Codec, out: Path) -> Gate:
    """The gate on the validation pairs, or an error if the second stage could restore nothing."""
    pairs = recipe.pairs(Path(recipe.data.folder) / "val")
    gate = measured_gate(codec.to(checkpoint.best_device()), pairs, recipe.enlarge)
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


def _beginning(recipe: Recipe, start: str | Path) -> Restorer:
    """The model to fine-tune, which must be of the recipe's kind; but a network of two views may begin as one
    that sees them one by one."""
    theirs = checkpoint.read_header(checkpoint.resolve(start)).recipe
    for part in ("network", "codec", "process", "prediction"):
        was, now = getattr(theirs, part), getattr(recipe, part)
        grows = (getattr(was, "stereo", None), getattr(now, "stereo", None)) == (False, True)
        if (was.model_copy(update={"stereo": True, "shrink": now.shrink}) if grows else was) != now:
            raise RecipeError(f"{part} of {start} is {was}, of the recipe {now}: fine-tuning changes neither")
    return checkpoint.load(start, "cpu")


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
