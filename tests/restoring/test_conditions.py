"""Numbers that tell a network what is wanted: they change the picture, however it is restored."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from refusion import tiling
from refusion.codec import Pixels
from refusion.nn import ConditionalNAFNet
from refusion.prediction import Clean
from refusion.restorer import SAMPLERS, Restorer, Sampling
from refusion.sde import MeanRevertingSDE

ONE, OTHER = (-14.0, 160.0, 42.0), (28.0, 160.0, 42.0)
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS)
Make = Callable[..., Restorer]


@pytest.fixture(scope="module")
def make(sde: MeanRevertingSDE) -> Make:
    """A small network in which every weight counts, those of the conditions, too."""

    def build(conditions: int = 3, **options: Any) -> Restorer:
        torch.manual_seed(0)
        network = ConditionalNAFNet(12, 4, (1,), 1, (1,), conditions=conditions)
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.2)
        sampling = Sampling(**{"steps": 2, **options})
        return Restorer(network.requires_grad_(False).eval(), Pixels(2), sde, Clean(), sampling)

    return build


@pytest.fixture
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state of more than 40 x 40 positions is always tiled."""
    small = {"LARGEST_WHOLE": 1600, "PATCH": 16, "PATCHES": 6, "SMALLEST_OF_STATE": 20}
    for name, value in small.items():
        monkeypatch.setattr(tiling, name, value)


def photo(height: int = 13, width: int = 22) -> np.ndarray:
    return np.random.default_rng(0).uniform(0.2, 0.8, (height, width, 3)).astype(np.float32)


def batch(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)[None]


# ---- laws


@every_sampler
def test_a_condition_is_a_picture(make: Make, sampler: str) -> None:
    restore, lq = make(sampler=sampler), photo()
    results = [restore(lq, condition=condition).pixels for condition in (ONE, OTHER, ONE)]
    np.testing.assert_array_equal(results[0], results[2])
    assert np.abs(results[0] - results[1]).max() > 1e-3


@pytest.mark.usefixtures("small_is_large")
@every_sampler
def test_in_tiles_too(make: Make, sampler: str, caplog: pytest.LogCaptureFixture) -> None:
    restore, lq = make(sampler=sampler), photo(90, 120)
    with caplog.at_level(logging.INFO, "refusion"):
        results = [
            restore(lq, condition=condition, tile=tile).pixels
            for condition, tile in ((ONE, 128), (OTHER, 128), (ONE, 128))
        ]
    assert [message.split(",")[0] for message in caplog.messages] == ["state of 60x45: tiles of 64"] * 3
    np.testing.assert_array_equal(results[0], results[2])
    assert np.abs(results[0] - results[1]).max() > 1e-3


@pytest.mark.usefixtures("small_is_large")
def test_every_tile_is_told_the_same(make: Make) -> None:
    """So the picture does not depend on them."""
    restore, lq = make(), photo(90, 120)
    wide, small = (restore(lq, condition=ONE, tile=tile).pixels for tile in (1000, 128))
    np.testing.assert_allclose(small, wide, rtol=0, atol=1e-4)


@pytest.mark.parametrize("i", range(3))
def test_every_number_counts(make: Make, i: int) -> None:
    restore, lq, changed = make(), photo(), list(ONE)
    changed[i] += 20
    difference = restore(lq, condition=tuple(changed)).pixels - restore(lq, condition=ONE).pixels
    assert np.abs(difference).max() > 1e-3


def test_every_step_is_told(make: Make) -> None:
    one, other = (list(make(steps=3).trajectory(photo(), condition=c)) for c in (ONE, OTHER))
    for a, b in zip(one, other, strict=True):
        assert np.abs(a.pixels - b.pixels).max() > 1e-3


# ---- all ways to restore


def test_a_trajectory_ends_with_the_restoration(make: Make) -> None:
    restore, lq = make(), photo()
    *_, last = restore.trajectory(lq, condition=OTHER)
    np.testing.assert_array_equal(last.pixels, restore(lq, condition=OTHER).pixels)


def test_samples_have_the_mean_of_single_calls(make: Make) -> None:
    restore, lq = make(), photo()
    mean = np.mean([restore(lq, condition=OTHER, seed=seed).pixels for seed in range(2)], axis=0)
    np.testing.assert_allclose(restore.samples(lq, 2, condition=OTHER).mean.pixels, mean, atol=1e-6)
    assert np.abs(restore.samples(lq, 2, condition=ONE).mean.pixels - mean).max() > 1e-3


def test_a_batch_is_told_together(make: Make) -> None:
    restore, lq = make(), photo()
    alone = batch(restore(lq, condition=OTHER).pixels)
    together = restore.restore_batch(batch(lq).expand(3, -1, -1, -1), condition=OTHER)
    torch.testing.assert_close(together, alone.expand(3, -1, -1, -1), rtol=0, atol=1e-5)


def test_views_and_holes_are_told(make: Make) -> None:
    restore, lq = make(), photo()
    holes = np.zeros(lq.shape[:2], np.float32)
    (alone,) = restore.views([lq], condition=OTHER)
    np.testing.assert_array_equal(alone.pixels, restore(lq, condition=OTHER).pixels)
    holes[:5] = 1
    filled = [restore.fill(lq, holes, condition=condition).pixels for condition in (ONE, OTHER)]
    assert np.abs(filled[0] - filled[1]).max() > 1e-3


def test_a_default_is_replaced_by_what_is_given(make: Make) -> None:
    restore, lq = make(condition=ONE), photo()
    np.testing.assert_array_equal(restore(lq).pixels, make()(lq, condition=ONE).pixels)
    np.testing.assert_array_equal(restore(lq, condition=OTHER).pixels, make()(lq, condition=OTHER).pixels)


# ---- errors


@pytest.mark.parametrize("condition", [(), (1.0,), (1.0, 2.0), (1.0, 2.0, 3.0, 4.0)])
def test_another_number_of_them_is_one_line(make: Make, condition: tuple[float, ...]) -> None:
    restore, lq = make(), photo()
    calls: list[Callable[..., object]] = [
        restore,
        lambda lq, **given: restore.samples(lq, 2, **given),
        lambda lq, **given: list(restore.trajectory(lq, **given)),
        lambda lq, **given: restore.restore_batch(batch(lq), **given),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=f"condition has {len(condition)} numbers: .* takes 3") as caught:
            call(lq, condition=condition)
        assert "\n" not in str(caught.value)


def test_a_model_that_takes_none_says_so(make: Make) -> None:
    with pytest.raises(ValueError, match=r"condition has 3 numbers: this model takes 0$"):
        make(conditions=0)(photo(), condition=ONE)
