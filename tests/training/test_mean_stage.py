"""A recipe with a mean trains it first, and then a flow from it that leaves it as it is."""

import inspect
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from safetensors.torch import load_file
from test_stages import TINY, recipe, weights
from torch import Tensor

import refusion
from refusion.errors import RecipeError
from refusion.restoring.mean import estimated_mean
from refusion.training import stages as module
from refusion.training.run import train
from refusion.training.run_dir import sweep
from refusion.training.stopping import Stop

MEAN: dict[str, Any] = {
    **TINY,
    "model": {**TINY["model"], "mean": TINY["model"]["network"]},
    "mean_training": TINY["training"],
}


@pytest.mark.slow
def test_the_mean_is_trained_first_and_kept(pairs: Path, tmp_path: Path) -> None:
    model = train(recipe(pairs, MEAN), tmp_path)
    trained = load_file(tmp_path / module.MEAN)
    state = weights(tmp_path)
    restore = refusion.load(model, "cpu")
    assert restore.mean is not None
    for name, value in restore.mean.state_dict().items():
        assert torch.equal(value, trained[name])
        assert torch.equal(value, state[f"learner.mean.{name}"])
    lq = refusion.read(pairs / "val" / "lq" / "0.png")
    gt = refusion.read(pairs / "val" / "gt" / "0.png").pixels
    before, after = (np.abs(z.pixels - gt).mean() for z in (lq, restore(lq, texture=0)))
    assert after < before
    assert restore.header.card.metrics["val_psnr"] > 5


@pytest.mark.slow
def test_the_flow_starts_at_the_mean(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure, means = module.diffusion_loss, []

    def spied(*args: Any) -> Tensor:
        means.append(inspect.signature(measure).bind(*args).arguments["mu"])
        return measure(*args)

    seen = []

    def estimated(*args: Any) -> Tensor:
        seen.append(estimated_mean(*args))
        return seen[-1]

    monkeypatch.setattr(module, "diffusion_loss", spied)
    monkeypatch.setattr(module, "estimated_mean", estimated)
    train(recipe(pairs, MEAN, training__steps=2), tmp_path)
    assert len(means) > 2
    for mu in means:
        assert any(mu is mean for mean in seen)


@pytest.mark.slow
def test_a_model_of_one_step_can_be_the_mean(pairs: Path, tmp_path: Path) -> None:
    model = train(recipe(pairs), tmp_path / "one")
    flow = refusion.load(train(recipe(pairs, MEAN), tmp_path / "flow", model), "cpu")
    assert flow.mean is not None
    for name, value in refusion.load(model, "cpu").network.state_dict().items():
        assert torch.equal(flow.mean.state_dict()[name], value)
    assert not (tmp_path / "flow" / "mean" / "last.ckpt").exists()
    again = refusion.load(
        train(recipe(pairs, MEAN, training__steps=2), tmp_path / "again", tmp_path / "flow")
    )
    assert again.mean is not None
    assert torch.equal(again.mean.intro.weight, flow.mean.intro.weight)
    other = recipe(pairs, MEAN, model__mean__width=6)
    with pytest.raises(RecipeError, match=r"network of .*width=4.*mean of the recipe.*width=6"):
        train(other, tmp_path / "other", model)
    with pytest.raises(RecipeError, match="mean"):
        train(recipe(pairs), tmp_path / "without", tmp_path / "flow")


@pytest.mark.slow
def test_a_mean_with_guides_goes_on_from_what_was_learnt_without(pairs: Path, tmp_path: Path) -> None:
    model = train(recipe(pairs, training__steps=2), tmp_path / "one")
    guided = recipe(pairs, MEAN, model__network__guides=1, model__mean__guides=1, training__steps=2)
    flow = refusion.load(train(guided, tmp_path / "flow", model), "cpu")
    assert flow.mean is not None
    learnt, told = (z.intro.weight for z in (refusion.load(model, "cpu").network, flow.mean))
    assert torch.equal(told[:, : learnt.shape[1]], learnt)
    assert not told[:, learnt.shape[1] :].any()


def test_what_a_kill_left_half_written_is_swept(tmp_path: Path) -> None:
    parts = [tmp_path / "mean" / name / f".{'0' * 32}.part" for name in (".", "pictures")]
    for part in parts:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
    sweep(tmp_path)
    assert not any(part.exists() for part in parts)


@pytest.mark.slow
def test_processes_wait_for_each_other_also_when_the_mean_is_there(pairs: Path, tmp_path: Path) -> None:
    """One that is late sees the file of the first, which waits for it."""
    train(recipe(pairs, MEAN, training__steps=2, mean_training__steps=2), tmp_path)
    described = recipe(pairs, MEAN)
    late = module.MeanStage(described.model.build(), described, tmp_path, {})
    assert late.done
    fabric = Fabric(accelerator="cpu", devices=1)
    with patch.object(fabric, "barrier") as barrier:
        late.finish(fabric, Stop())
    assert barrier.call_count == 1


@pytest.mark.slow
def test_a_flow_that_sees_the_degraded_picture_goes_on_from_one_that_does_not(
    pairs: Path, tmp_path: Path
) -> None:
    blind = refusion.load(train(recipe(pairs, MEAN, training__steps=2), tmp_path / "blind"), "cpu")
    both = recipe(pairs, MEAN, model__network__sees_lq=True, training__steps=2)
    seeing = refusion.load(train(both, tmp_path / "seeing", tmp_path / "blind"), "cpu")
    learnt, told = (z.network.intro.weight for z in (blind, seeing))
    channels = seeing.codec.channels
    assert told.shape[1] == learnt.shape[1] + channels
    assert bool(told[:, -channels:].any())  # trained from 0
    lq = refusion.read(pairs / "val" / "lq" / "0.png")
    np.testing.assert_array_equal(seeing(lq, texture=0).pixels, blind(lq, texture=0).pixels)
    with pytest.raises(RecipeError, match="network"):
        train(recipe(pairs, MEAN), tmp_path / "back", tmp_path / "seeing")


def test_only_a_network_beside_a_mean_sees_the_degraded_picture_as_well(pairs: Path) -> None:
    with pytest.raises(RecipeError, match="sees_lq"):
        recipe(pairs, model__network__sees_lq=True)
    with pytest.raises(RecipeError, match="sees_lq"):
        recipe(pairs, MEAN, model__mean__sees_lq=True)


def test_the_mean_takes_what_the_network_takes(pairs: Path) -> None:
    for change in ({"model__mean__guides": 1}, {"model__mean__conditional": False}):
        with pytest.raises(RecipeError, match="mean"):
            recipe(pairs, MEAN, **change)


@pytest.mark.slow
def test_holes_are_filled_in_validation_as_in_training(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("train", "val"):
        shutil.copytree(pairs / part / "gt", tmp_path / "clean" / part)
    guided = {"model__network__guides": 1, "model__mean__guides": 1, "model__fill": "harmonic"}
    holes = {"name": "Holes"}
    values = recipe(tmp_path / "clean", MEAN, data__degradation=holes, data__augment={}, **guided)
    seen: list[tuple[Tensor, Tensor]] = []
    measure = module.DiffusionStage._loss

    def spied(
        self: Any, parts: Any, training: Any, lq: Tensor, gt: Tensor, guides: Tensor, *rest: Any
    ) -> Tensor:
        if not torch.is_grad_enabled():
            seen.append((lq, guides))
        return measure(self, parts, training, lq, gt, guides, *rest)

    monkeypatch.setattr(module.DiffusionStage, "_loss", spied)
    train(values, tmp_path / "run")
    assert seen
    for lq, guides in seen:
        assert bool((lq < 0.99).all())  # no white is left, and no clean pixel is as bright
        assert set(guides.unique().tolist()) <= {0.0, 1.0}
    assert any(bool(guides.any()) for _, guides in seen)
