"""A run is a function of its recipe: killed or not, its weights come out the same to the bit."""

import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import refusion
from refusion.data.dataset import TrainingSamples
from refusion.data.degradation import Example
from refusion.data.pairs import Pair, find_pairs
from refusion.diffusion.sampling import SAMPLERS
from refusion.diffusion.schedule import SCHEDULES
from refusion.errors import CheckpointError, DataError, RecipeError, RefusionError
from refusion.evaluation.evaluate import evaluate, mean_scores, perceived
from refusion.evaluation.perceptual import without_weights
from refusion.models.checkpoint import read_header
from refusion.models.spec import CODECS, NETWORKS
from refusion.nn.network import Network
from refusion.nn.pooling import Pool, whole_mean
from refusion.restoring.codec import Codec, Encoded
from refusion.training.optimizer import make_optimizer, rate_factor
from refusion.training.recipe import DEGRADATIONS, Recipe, Training, degradation_of, from_provenance, parse
from refusion.training.run import train
from refusion.training.stage import MAX_CACHE, Stage, cache_bytes
from refusion.training.stages import CodecStage, DiffusionStage, measured_gate, stages
from tiny import SMALLEST

TINY: dict[str, Any] = {
    **SMALLEST,
    "model": {**SMALLEST["model"], "sampling": {"steps": 1}},
    "data": {"patch": [16, 16], "augment": {"borrow": 0.3, "strength": 0.2, "zoom": 0.5, "exposure": 0.2}},
    "training": {
        "steps": 12,
        "batch": 2,
        "learning_rate": 1e-2,
        "warmup": 2,
        "validate_every": 6,
        "save_every": 3,
        "workers": 0,
        "precision": "32",  # in processes that a test starts, too
    },
}
CODEC = {"name": "LatentUNet", "latent_channels": 4, "width": 4, "multipliers": [1, 1], "unshuffle": 2}
LATENT = {
    **TINY,
    "model": {**TINY["model"], "codec": CODEC},
    "codec_training": {**TINY["training"], "patch": [16, 16], "skip_dropout": 0.2, "gate": -99},
}
"""Two stages; the first is too short for its codec to be of use."""


def recipe(pairs: Path, values: dict[str, Any] = TINY, **overrides: object) -> Recipe:
    given = {key.replace("__", "."): value for key, value in overrides.items()}
    return parse(values, "test", {"data.folder": str(pairs), **given})


def weights(run: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(run / "last.ckpt", weights_only=True)["state_dict"]
    return state


@pytest.mark.slow
def test_training_learns_validates_and_releases(pairs: Path, tmp_path: Path) -> None:
    model = train(recipe(pairs, training__steps=150, training__validate_every=50), tmp_path)
    restore = refusion.load(model)
    lq, gt = (refusion.read(pairs / "val" / side / "0.png") for side in ("lq", "gt"))
    before, after = (np.abs(z.pixels - gt.pixels).mean() for z in (lq, restore(lq)))
    assert after < before / 2
    header = read_header(model)
    assert header.card.metrics["val_psnr"] > 15
    assert header.recipe["data"]["folder"] == ""
    assert len(list(tmp_path.glob("best-*.ckpt"))) == 2
    assert list((tmp_path / "pictures").glob("*.jpg"))
    assert list((tmp_path / "log").rglob("metrics.csv"))


@pytest.mark.slow
def test_the_released_weights_are_the_average(pairs: Path, tmp_path: Path) -> None:
    model = train(recipe(pairs), tmp_path)
    state = weights(tmp_path)
    released = refusion.load(model).network.state_dict()
    for name, value in released.items():
        assert torch.equal(value, state[f"ema.network.{name}"])
    learnt = part_of(state, "learner.network.")
    assert any(not torch.equal(state[f"ema.network.{name}"], learnt[name]) for name in released)


@pytest.mark.slow
def test_resumed_equals_uninterrupted(pairs: Path, tmp_path: Path) -> None:
    """Stopped between two saved checkpoints, by an exception that stands for any end."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(recipe(pairs, training__accumulate=2), whole)

    with pytest.MonkeyPatch.context() as patch:
        killed_at(patch, "train_step", 8)
        with pytest.raises(RuntimeError, match="killed"):
            train(recipe(pairs, training__accumulate=2), cut)
    assert torch.load(cut / "last.ckpt", weights_only=True)["global_step"] == 6
    train(recipe(pairs, training__accumulate=2), cut)
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(cut)[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_kill_9_at_any_moment(pairs: Path, tmp_path: Path, processes: int) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(recipe(pairs, training__steps=120, training__workers=1).to_yaml())

    def start(out: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "refusion", "train", str(file), "-o", str(tmp_path / out)]
        return subprocess.Popen(
            [*command, "--devices", str(processes)],
            start_new_session=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    assert start("whole").wait(240) == 0
    run = start("cut")
    while not (tmp_path / "cut" / "last.ckpt").exists():
        assert run.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    reached = torch.load(tmp_path / "cut" / "last.ckpt", weights_only=True)["global_step"]
    assert 0 < reached < 120
    assert start("cut").wait(240) == 0
    for name, value in weights(tmp_path / "whole").items():
        assert torch.equal(value, weights(tmp_path / "cut")[name]), name


def broken_at(patch: pytest.MonkeyPatch, *steps: int, stage: str = "DiffusionStage") -> None:
    """Fill all weights with NaN before the validation at these steps, as a divergence would."""
    from refusion.training import trainer as module

    validate = module.validate

    def poisoned(self: Stage, pairs: list[Pair], step: int, *rest: Any) -> dict[str, float]:
        if type(self).__name__ == stage and step in steps:
            for parameter in (*self.learner.parameters(), *self.ema.parameters()):
                parameter.data.fill_(float("nan"))
        return validate(self, pairs, step, *rest)

    patch.setattr(module, "validate", poisoned)


def killed_at(patch: pytest.MonkeyPatch, name: str, at: int, stage: str = "DiffusionStage") -> None:
    """End a run in `train_step` or `validate` at a step."""
    from refusion.training import trainer as module

    whole = getattr(module, name)

    def dies(self: Stage, *args: Any) -> Any:
        step = inspect.signature(whole).bind(self, *args).arguments["step"]
        if type(self).__name__ == stage and step == at:
            raise RuntimeError("killed")
        return whole(self, *args)

    patch.setattr(module, name, dies)


@pytest.mark.slow
def test_a_collapse_rolls_back_to_the_best(pairs: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        broken_at(patch, 12)
        with pytest.warns(UserWarning, match="to nan dB at step 12: going on from best-step=6"):
            train(recipe(pairs, training__steps=18), tmp_path)
    assert all(bool(value.isfinite().all()) for value in weights(tmp_path).values())


def test_divergence_before_the_first_validation_is_an_error(pairs: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        broken_at(patch, 6)
        with pytest.raises(RefusionError, match="diverged before step 6, its first validation"):
            train(recipe(pairs), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("hook", "step"), [("validate", 12), ("train_step", 12), ("train_step", 14)])
def test_killed_around_a_rollback_goes_on_the_same(pairs: Path, tmp_path: Path, hook: str, step: int) -> None:
    """In a validation that rolls back, right after it, and some steps later."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    given = recipe(pairs, training__steps=18)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        broken_at(patch, 12)
        train(given, whole)
        with pytest.MonkeyPatch.context() as inner:
            killed_at(inner, hook, step)
            with pytest.raises(RuntimeError, match="killed"):
                train(given, cut)
        train(given, cut)
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(cut)[name]), name
    assert (whole / "model.safetensors").read_bytes() == (cut / "model.safetensors").read_bytes()
    assert sorted(p.name for p in whole.glob("best*")) == sorted(p.name for p in cut.glob("best*"))


def test_validation_measures_as_evaluate_does(pairs: Path, tmp_path: Path) -> None:
    """In float32 also when training in bfloat16; with the metrics that need no files."""
    model = train(recipe(pairs, training__precision="bf16", training__steps=6), tmp_path)
    measured = evaluate(refusion.load(model, "cpu"), find_pairs(pairs / "val"), 0, without_weights())
    rows = [row for row, _ in measured]
    metrics = read_header(model).card.metrics
    assert metrics["val_psnr"] == round(mean_scores([row.output for row in rows]).psnr, 2)
    for name, (_, outputs) in perceived(rows).items():
        assert metrics[f"val_{name}"] == pytest.approx(np.mean(outputs), abs=0.006)


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"processes": 2, "samples": 4}, {"processes": 2}])
def test_a_run_keeps_its_number_of_samples_a_step(
    pairs: Path, tmp_path: Path, change: dict[str, int]
) -> None:
    """Also one of an earlier version, whose checkpoints tell the number of processes only."""
    train(recipe(pairs, training__steps=1), tmp_path)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    del state["samples"]
    torch.save({**state, **change}, tmp_path / "last.ckpt")
    with pytest.raises(RecipeError, match="begun with 4 samples a step, not 2"):
        train(recipe(pairs, training__steps=1), tmp_path)


def test_an_infinite_gradient_is_dropped(pairs: Path, tmp_path: Path) -> None:
    from refusion.training import stages as module

    loss = module.diffusion_loss

    def explodes(*args: object) -> Tensor:
        return loss(*args) * float("inf")  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "diffusion_loss", explodes)
        train(recipe(pairs, training__steps=2), tmp_path)
    assert all(bool(value.isfinite().all()) for value in weights(tmp_path).values())


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["l1", "l2", "psnr"])
def test_the_loss_is_the_recipes(
    pairs: Path, tmp_path: Path, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from refusion.training import stages as module

    given, measure = set(), module.diffusion_loss

    def spied(*args: Any) -> Tensor:
        given.add(inspect.signature(measure).bind(*args).arguments["loss"])
        return measure(*args)

    monkeypatch.setattr(module, "diffusion_loss", spied)
    train(recipe(pairs, training__steps=2, training__loss=loss), tmp_path)
    assert given == {loss}


@pytest.mark.slow
def test_fine_tuning_starts_from_the_given_weights(pairs: Path, tmp_path: Path) -> None:
    model = train(recipe(pairs), tmp_path / "first")
    still = recipe(pairs, training__steps=1, training__learning_rate=1e-12, training__final_learning_rate=0)
    train(still, tmp_path / "second", model)
    for name, value in refusion.load(model, "cpu").network.state_dict().items():
        learnt = weights(tmp_path / "second")[f"learner.network.{name}"]
        torch.testing.assert_close(value, learnt, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_two_views_go_on_from_what_was_learnt_of_one(pairs: Path, tmp_path: Path) -> None:
    model = train(recipe(pairs), tmp_path / "one")
    for part in ("train", "val"):
        for side in ("lq", "gt"):
            for view in ("left", "right"):
                shutil.copytree(pairs / part / side, tmp_path / "views" / part / side / view)
    rates = {"training__learning_rate": 1e-12, "training__final_learning_rate": 0}
    stereo = {"model__network__stereo": True, "training__steps": 1}
    both = recipe(tmp_path / "views", model__network__downscale=1, **stereo, **rates)
    two, one = refusion.load(train(both, tmp_path / "two", model)), refusion.load(model)
    lq = refusion.read(pairs / "val" / "lq" / "0.png")
    for restored in two.run(two.request(lq, lq)).images:
        np.testing.assert_allclose(restored.pixels, one(lq).pixels, atol=1e-6)
    with pytest.raises(RecipeError, match=r"network of .*stereo=True.*stereo=False"):
        train(recipe(pairs, training__steps=1), tmp_path / "three", tmp_path / "two" / "model.safetensors")
    other = recipe(tmp_path / "views", model__network__long_skip=True, **stereo)
    with pytest.raises(RecipeError, match=r"network of .*long_skip=False.*stereo=False.*long_skip=True"):
        train(other, tmp_path / "four", model)


@pytest.mark.slow
def test_a_network_with_guides_goes_on_from_what_was_learnt_without(pairs: Path, tmp_path: Path) -> None:
    model = train(recipe(pairs), tmp_path / "without")
    rates = {"training__learning_rate": 1e-12, "training__final_learning_rate": 0, "training__steps": 1}
    guided = recipe(pairs, model__network__guides=1, **rates)
    told, untold = refusion.load(train(guided, tmp_path / "with", model)), refusion.load(model)
    lq = refusion.read(pairs / "val" / "lq" / "0.png")
    for guides in (None, np.ones((1, *lq.pixels.shape[:2]), np.float32)):
        np.testing.assert_allclose(told(lq, guides=guides).pixels, untold(lq).pixels, atol=1e-6)
    with pytest.raises(RecipeError, match=r"network of .*guides=1.*guides=0"):
        train(recipe(pairs, training__steps=1), tmp_path / "back", tmp_path / "with" / "model.safetensors")


@pytest.mark.slow
def test_a_deeper_network_goes_on_from_what_a_shallower_one_has_learnt(pairs: Path, tmp_path: Path) -> None:
    model = train(recipe(pairs), tmp_path / "shallow")
    rates = {"training__learning_rate": 1e-12, "training__final_learning_rate": 0, "training__steps": 1}
    depths = {"model__network__encoder": (3,), "model__network__middle": 2, "model__network__decoder": (2,)}
    grown = refusion.load(train(recipe(pairs, **depths, **rates), tmp_path / "deep", model))
    lq = refusion.read(pairs / "val" / "lq" / "0.png")
    np.testing.assert_allclose(grown(lq).pixels, refusion.load(model)(lq).pixels, atol=1e-6)
    with pytest.raises(RecipeError, match=r"network of .*middle=2.*middle=1"):
        train(recipe(pairs, training__steps=1), tmp_path / "back", tmp_path / "deep" / "model.safetensors")
    levels = recipe(pairs, training__steps=1, model__network__encoder=(1, 1), model__network__decoder=(1, 1))
    with pytest.raises(RecipeError, match=r"encoder=\(1,\).*encoder=\(1, 1\)"):
        train(levels, tmp_path / "levels", model)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("network", {"model.network.long_skip": True}),
        ("prediction", {"model.prediction": "noise"}),
        ("codec", {"model.codec.factor": 1}),
        ("process", {"model.process.steps": 50}),
    ],
)
def test_fine_tuning_another_kind_of_model_is_an_error(
    pairs: Path, tmp_path: Path, part: str, change: dict[str, object]
) -> None:
    model = train(recipe(pairs, training__steps=1), tmp_path / "first")
    other = parse(TINY, "test", {"data.folder": str(pairs), **change})
    with pytest.raises(RecipeError, match=rf"^{part} of .*first.model\.safetensors is "):
        train(other, tmp_path / "second", model)


def test_another_recipe_in_the_same_folder_is_an_error(pairs: Path, tmp_path: Path) -> None:
    train(recipe(pairs, training__steps=1), tmp_path)
    with pytest.raises(RecipeError, match=r"training\.seed 0 -> 3"):
        train(recipe(pairs, training__steps=1, training__seed=3), tmp_path)


def test_steps_that_would_not_be_validated_are_an_error(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="steps 14 is no multiple of validate_every 6"):
        train(recipe(pairs, training__steps=14), tmp_path)


def test_a_part_that_is_gone_is_another_recipe(pairs: Path, tmp_path: Path) -> None:
    with_haze = recipe(pairs, training__steps=1, data__degradation={"name": "Haze"})
    train(with_haze, tmp_path)
    with pytest.raises(RecipeError, match=r"data\.degradation\.name Haze -> None"):
        train(recipe(pairs, training__steps=1), tmp_path)


def test_missing_pairs_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        train(recipe(tmp_path), tmp_path / "run")


@pytest.mark.parametrize("name", ["adam", "adamw", "lion"])
def test_optimizers_take_the_recipes_values(name: str) -> None:
    training = Training(optimizer=name, learning_rate=1e-3, betas=(0.8, 0.7), weight_decay=0.1)
    (group,) = make_optimizer(training, nn.Linear(1, 1)).param_groups
    assert (group["lr"], tuple(group["betas"]), group["weight_decay"]) == (1e-3, (0.8, 0.7), 0.1)


def test_learning_rates() -> None:
    cosine = Training(steps=110, warmup=10, learning_rate=1.0, final_learning_rate=0.1)
    assert [rate_factor(cosine, step) for step in (0, 9, 10)] == [0.1, 1.0, 1.0]
    assert rate_factor(cosine, 60) == pytest.approx(0.55)
    assert rate_factor(cosine, 110) == pytest.approx(0.1)
    steps = Training(steps=100, lr_schedule="multistep", milestones=(0.5, 0.8), lr_gamma=0.5)
    assert [rate_factor(steps, step) for step in (0, 49, 50, 80)] == [1, 1, 0.5, 0.25]
    assert rate_factor(Training(lr_schedule="constant"), 99) == 1


def test_a_failed_save_leaves_the_old_checkpoint(pairs: Path, tmp_path: Path) -> None:
    train(recipe(pairs, training__steps=1), tmp_path)
    before = (tmp_path / "last.ckpt").read_bytes()

    def breaks(content: object, file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "save", breaks)
        with pytest.raises(RefusionError, match=r"last\.ckpt: No space left on device;"):
            train(recipe(pairs, training__steps=1), tmp_path)
    assert (tmp_path / "last.ckpt").read_bytes() == before
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_run_after_the_step_in_flight(
    pairs: Path, tmp_path: Path, number: int, status: int
) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(recipe(pairs, training__steps=12000, training__validate_every=12000).to_yaml())
    command = [sys.executable, "-m", "refusion", "train", str(file), "-o", str(tmp_path / "run")]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    last = tmp_path / "run" / "last.ckpt"
    while not last.exists():
        assert run.poll() is None
        time.sleep(0.01)
    saved = torch.load(last, weights_only=True)["global_step"]
    time.sleep(0.2)
    run.send_signal(number)
    _, complaint = run.communicate(timeout=60)
    assert run.returncode == status
    assert b"Traceback" not in complaint
    assert torch.load(last, weights_only=True)["global_step"] > saved


# ---- what a user adds


class OneLayer(Network):
    """One convolution."""

    def __init__(self, channels: int = 3, gain: float = 1.0) -> None:
        super().__init__()
        self.conv, self.gain = nn.Conv2d(2 * channels, channels, 1), gain

    def embed(self, t: Tensor, condition: Tensor | None = None) -> Tensor:
        return t[:, None]

    def forward(
        self, x_t: Tensor, mu: Tensor, t: Tensor, embedding: Tensor | None = None, pool: Pool = whole_mean
    ) -> Tensor:
        output: Tensor = self.gain * self.conv(torch.cat([x_t, mu], dim=1))
        return output


class Negative(Codec):
    """The picture with light and dark exchanged."""

    channels, bounds = 3, (0.0, 1.0)

    def __init__(self, level: float = 1.0) -> None:
        super().__init__()
        self.level = level

    def encode(self, image: Tensor) -> Encoded:
        return Encoded(self.level - image, (), (image.shape[-2], image.shape[-1]))

    def decode(self, state: Tensor, features: tuple[Tensor, ...], size: tuple[int, int]) -> Tensor:
        return self.level - state


class Scaled(Negative):
    """One with a weight."""

    def __init__(self, level: float = 1.0) -> None:
        super().__init__(level)
        self.scale = nn.Parameter(torch.ones(()))


@dataclass(frozen=True, kw_only=True)
class Dimmed:
    """Less light."""

    name: Literal["Dimmed"] = "Dimmed"
    by: float = 0.5

    def __call__(self, clean: Tensor, rng: np.random.Generator) -> Example:
        return Example(clean * rng.uniform(self.by, 1), clean)


def test_a_recipe_of_ones_own_parts_trains_and_its_model_restores(pairs: Path, tmp_path: Path) -> None:
    own: dict[str, object] = {
        "model__network": {"name": "OneLayer", "gain": 0.5},
        "model__codec": {"name": "Negative", "level": 0.9},
        "model__process": {"noise_level": 0.1, "schedule": "quick"},
        "model__sampling": {"sampler": "mean", "steps": 2},
        "data__degradation": {"name": "Dimmed", "by": 0.25},
        "data__augment": {"synthetic": 0.5},
        "training__steps": 2,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, "OneLayer", OneLayer)
        patch.setitem(CODECS, "Negative", Negative)
        patch.setitem(SCHEDULES, "quick", lambda t: 1 + t**2)
        patch.setitem(SAMPLERS, "mean", lambda eta: lambda s: s.sde.posterior_mean(s.x, s.x0, s.mu, s.t, s.r))
        patch.setitem(DEGRADATIONS, "Dimmed", Dimmed)
        described = recipe(pairs, **own)
        model = train(described, tmp_path)
        restore = refusion.load(model, "cpu")
        assert isinstance(restore.network, OneLayer)
        assert isinstance(restore.codec, Negative)
        assert (restore.network.gain, restore.codec.level) == (0.5, 0.9)
        torch.manual_seed(described.training.seed)
        fresh = described.model.build().network.state_dict()
        assert all((value != fresh[name]).any() for name, value in restore.network.state_dict().items())
        lq = refusion.read(pairs / "val" / "lq" / "0.png")
        assert np.isfinite(restore.run(restore.request(lq)).image.pixels).all()
        assert train(described, tmp_path) == model  # done; the recipe in the folder is read again
        header = read_header(model)
        assert from_provenance(header).model == described.model
        assert degradation_of(header) == Dimmed(by=0.25)
    for name in ("OneLayer", "Negative", "quick", "mean"):
        with pytest.raises(CheckpointError, match=rf"model\.safetensors: .*'{name}'"):
            refusion.load(model, "cpu")
    with pytest.raises(RecipeError, match="'Dimmed'"):
        recipe(pairs, **own)


@pytest.mark.parametrize(
    ("codec", "expected"),
    [
        ({"name": "Pixels"}, [DiffusionStage]),
        ({"name": "Pyramid", "longest_side": 8}, [DiffusionStage]),
        ({"name": "Negative"}, [DiffusionStage]),
        (CODEC, [CodecStage, DiffusionStage]),
        ({"name": "Scaled"}, [CodecStage, DiffusionStage]),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else str(len(value)),
)
def test_a_codec_has_a_stage_if_it_has_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, codec: dict[str, object], expected: list[type]
) -> None:
    monkeypatch.setitem(CODECS, "Negative", Negative)
    monkeypatch.setitem(CODECS, "Scaled", Scaled)
    assert stages(recipe(tmp_path, model__codec=codec)) == expected


def test_what_is_released_tells_no_folder_and_its_card_once(pairs: Path, tmp_path: Path) -> None:
    """The card is that of the recipe, with its task and what was measured."""
    card = {"summary": "Mine.", "limits": "many", "metrics": {"psnr": 30.5}}
    described = recipe(pairs, training__steps=1, card=card, data__scenes=[str(pairs / "train" / "gt")])
    model = train(described, tmp_path)
    assert str(pairs).encode() not in model.read_bytes()
    header = read_header(model)
    assert header.recipe == json.loads(json.dumps(described.provenance()))
    assert "card" not in header.recipe
    said = {**described.card.model_dump(exclude={"metrics"}), "task": "test"}
    assert header.card.model_dump(exclude={"metrics"}) == said
    measured = {"val_psnr", "val_ssim", "val_ssimulacra2", "val_swd", "val_spectrum", "val_detail"}
    assert header.card.metrics.keys() == {"psnr", *measured}
    assert header.card.metrics["psnr"] == 30.5


def test_validation_measures_without_perceptual_metrics_if_told_so(pairs: Path, tmp_path: Path) -> None:
    described = recipe(pairs, training__steps=1, training__perceptual=False)
    assert read_header(train(described, tmp_path)).card.metrics.keys() == {"val_psnr", "val_ssim"}


# ---- a codec with weights


@pytest.fixture(scope="module")
def few() -> Iterator[int]:
    """How many samples the statistics are of: fewer than in earnest."""
    from refusion.training import stages as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CALIBRATION_SAMPLES", 32)
        yield module.CALIBRATION_SAMPLES


@pytest.fixture(scope="module")
def latent(pairs: Path, few: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of both stages that nothing has stopped."""
    out = tmp_path_factory.mktemp("latent") / "run"
    assert train(recipe(pairs, LATENT), out) == out / "model.safetensors"
    return out


def part_of(state: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {key.removeprefix(part): value for key, value in state.items() if key.startswith(part)}


def assert_same(given: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert given.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(given[name], value), name


def fails(*args: object) -> None:
    raise AssertionError("the first stage was begun again, or its latents measured")


def test_two_stages_release_one_model_that_tells_of_its_codec(pairs: Path, latent: Path) -> None:
    restore = refusion.load(latent, "cpu")
    lq = refusion.read(pairs / "val" / "lq" / "0.png")
    assert restore(lq).size == lq.size
    validation = find_pairs(pairs / "val")
    metrics = read_header(latent / "model.safetensors").card.metrics
    gate = measured_gate(restore.codec, validation)
    for name in ("reconstruction", "gt_latent", "lq_latent"):
        assert metrics[f"codec_{name}"] == round(getattr(gate, name), 2)
    scores = mean_scores([row.output for row, _ in evaluate(restore, validation)])
    assert metrics["val_psnr"] == round(scores.psnr, 2)
    assert list((latent / "codec" / "pictures").glob("*.jpg"))
    assert list((latent / "codec" / "log").rglob("metrics.csv"))
    assert not (latent / "codec" / "model.safetensors").exists()


def test_the_codec_is_the_best_average_of_its_stage(latent: Path) -> None:
    """Both of which were kept: the second is the better one by what replacing the latent gives."""
    made = load_file(latent / "codec" / "codec.safetensors")
    best, scores = {}, []
    for path in (latent / "codec").glob("best-*.ckpt"):
        saved = torch.load(path, weights_only=True)
        (score,) = (psnr for psnr, name in saved["best"] if name == path.name)
        scores.append(score)
        best[scores[-1]] = part_of(saved["state_dict"], "ema.")
    assert len(set(scores)) == 2
    learnt = best[max(scores)]
    assert any(not torch.equal(learnt[name], best[min(scores)][name]) for name in learnt)
    statistics = {name: made[name] for name in ("latent_mean", "latent_std")}
    assert_same(made, {**learnt, **statistics})


def test_released_latents_are_about_as_pictures_are(pairs: Path, latent: Path, few: int) -> None:
    """Mean 1/2 and deviation 1/4 of each channel, on crops of the first stage's size and scale."""
    given = recipe(pairs, LATENT)
    augment = replace(given.data.augment, zoom=1.0)
    samples = TrainingSamples(find_pairs(pairs / "train"), (16, 16), augment, given.codec_training.seed)
    codec = refusion.load(latent, "cpu").codec

    def moments(numbers: range) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            states = [codec.encode(z).mu[0].flatten(1) for i in numbers for z in samples[i][:2]]
        std, mean = torch.std_mean(torch.cat(states, dim=1), dim=1)
        return mean, std

    for numbers, tolerance in ((range(few), 1e-4), (range(few, 2 * few), 0.1)):
        mean, std = moments(numbers)
        torch.testing.assert_close(mean, torch.full((4,), 0.5), rtol=0, atol=tolerance)
        torch.testing.assert_close(std, torch.full((4,), 0.25), rtol=0, atol=tolerance)


def test_the_second_stage_leaves_the_codec_alone(latent: Path) -> None:
    made = load_file(latent / "codec" / "codec.safetensors")
    assert_same(part_of(weights(latent), "learner.codec."), made)
    assert_same(refusion.load(latent, "cpu").codec.state_dict(), made)
    saved = torch.load(latent / "last.ckpt", weights_only=True)
    assert len(saved["optimizer"]["state"]) == len(list(refusion.load(latent, "cpu").network.parameters()))


@pytest.mark.slow
def test_killed_in_each_stage_comes_out_the_same(pairs: Path, latent: Path, tmp_path: Path) -> None:
    """And what the first stage has made is not made again."""
    from refusion.training import stages as module

    given = recipe(pairs, LATENT)
    for stage in ("CodecStage", "DiffusionStage"):
        with pytest.MonkeyPatch.context() as patch:
            killed_at(patch, "train_step", 8, stage)
            with pytest.raises(RuntimeError, match="killed"):
                train(given, tmp_path)
        assert (tmp_path / "codec" / "codec.safetensors").exists() == (stage == "DiffusionStage")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.CodecStage, "samples", fails)
        train(given, tmp_path)
    for folder in ("codec", "."):
        assert_same(weights(tmp_path / folder), weights(latent / folder))
    for file in ("model.safetensors", "codec/codec.safetensors"):
        assert (tmp_path / file).read_bytes() == (latent / file).read_bytes()


@pytest.mark.slow
def test_killed_between_the_stages_comes_out_the_same(pairs: Path, latent: Path, tmp_path: Path) -> None:
    """While the latents are measured: all steps are done, but the codec is not written."""

    def dies(self: Codec, pictures: object) -> None:
        raise RuntimeError("killed")

    given = recipe(pairs, LATENT, training__steps=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(given.model.build().codec), "calibrate", dies)
        with pytest.raises(RuntimeError, match="killed"):
            train(given, tmp_path)
    train(given, tmp_path)
    file = "codec/codec.safetensors"
    assert (tmp_path / file).read_bytes() == (latent / file).read_bytes()


@pytest.mark.slow
def test_a_codec_whose_latent_is_ignored_is_refused_again_and_again(
    pairs: Path, few: int, tmp_path: Path
) -> None:
    from refusion.training import stages as module

    refused = r"codec_training\.gate asks for 99: the decoder ignores the latent, and diffusing it would"
    given = recipe(pairs, LATENT, codec_training__steps=2, codec_training__gate=99)
    with pytest.raises(RefusionError, match=refused) as first:
        train(given, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.CodecStage, "samples", fails)
        with pytest.raises(RefusionError, match=refused) as second:
            train(given, tmp_path)
    assert str(first.value) == str(second.value)
    for part in ("dB with the degraded one's latent", "That gains", "skip_dropout", "\n"):
        assert (part in str(first.value)) == (part != "\n")
    assert not (tmp_path / "last.ckpt").exists()
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.slow
def test_fine_tuning_takes_the_codec_as_it_is(pairs: Path, latent: Path, tmp_path: Path) -> None:
    """If it passes the gate on these pairs; and the network starts from its weights."""
    from refusion.training import stages as module

    still = {"training__learning_rate": 1e-12, "training__final_learning_rate": 0, "training__steps": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.CodecStage, "samples", fails)
        with pytest.raises(RefusionError, match="asks for 99"):
            train(recipe(pairs, LATENT, codec_training__gate=99, **still), tmp_path / "refused", latent)
        train(recipe(pairs, LATENT, **still), tmp_path / "finer", latent)
    before = refusion.load(latent, "cpu")
    after = refusion.load(tmp_path / "finer", "cpu")
    assert_same(after.codec.state_dict(), before.codec.state_dict())
    for name, value in before.network.state_dict().items():
        torch.testing.assert_close(after.network.state_dict()[name], value, rtol=0, atol=1e-9)
    headers = [read_header(z / "model.safetensors") for z in (latent, tmp_path / "finer")]
    assert headers[0].card.metrics["codec_gt_latent"] == headers[1].card.metrics["codec_gt_latent"]
    assert_same(load_file(tmp_path / "finer" / "codec" / "codec.safetensors"), before.codec.state_dict())


def test_the_decoder_is_tuned_and_states_stay_what_they_are(
    pairs: Path, latent: Path, tmp_path: Path
) -> None:
    tuned = {"training__trainable": "decoder", "training__compare": "picture", "training__steps": 6}
    train(recipe(pairs, LATENT, **tuned), tmp_path, latent)
    first, second = (refusion.load(run, "cpu") for run in (latent, tmp_path))
    assert_same(second.network.state_dict(), first.network.state_dict())
    before, after = first.codec, second.codec
    decoding = {id(weight) for weight in after.decoding()}
    changed = {id(b) for a, b in zip(before.parameters(), after.parameters(), strict=True) if (a != b).any()}
    assert changed == decoding
    lq = refusion.read(pairs / "val" / "lq" / "0.png").tensor()[None]
    assert torch.equal(before.encode(lq).mu, after.encode(lq).mu)


def test_steps_of_the_first_stage_that_would_not_be_validated_are_an_error(
    pairs: Path, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=r"codec_training\.steps 14 is no multiple of validate_every 6"):
        train(recipe(pairs, LATENT, codec_training__steps=14), tmp_path)


def test_another_codec_training_in_the_same_folder_is_an_error(
    pairs: Path, latent: Path, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=r"codec_training\.swap 0\.5 -> 0\.25"):
        train(recipe(pairs, LATENT, codec_training__swap=0.25), latent)


def test_broken_weights_of_a_codec_score_nothing(pairs: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        broken_at(patch, 6, stage="CodecStage")
        with pytest.raises(RefusionError, match="diverged before step 6, its first validation"):
            train(recipe(pairs, LATENT), tmp_path)
    assert not (tmp_path / "codec" / "codec.safetensors").exists()


@pytest.mark.parametrize(
    ("workers", "processes", "readers"), [(0, None, 1), (3, None, 3), (0, 4, 4), (3, 4, 12)]
)
def test_all_who_read_share_the_memory_for_pictures(
    monkeypatch: pytest.MonkeyPatch, workers: int, processes: int | None, readers: int
) -> None:
    monkeypatch.setattr("refusion.training.stage.free_memory", lambda device: 2**40)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: processes is not None)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: processes)
    assert cache_bytes(Training(steps=6, workers=workers)) == MAX_CACHE // readers
