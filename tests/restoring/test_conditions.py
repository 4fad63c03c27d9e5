"""Numbers that tell a network what is wanted: they change the picture, however it is restored."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from refusion.diffusion.sampling import SAMPLERS
from refusion.diffusion.sde import MeanRevertingSDE
from refusion.restoring.request import Sampling
from refusion.restoring.restorer import Restorer
from restorers import TILED, ask, photo, said, small_restorer

ONE, OTHER = (-14.0, 160.0, 42.0), (28.0, 160.0, 42.0)
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS)
Make = Callable[..., Restorer]


@pytest.fixture(scope="module")
def make(sde: MeanRevertingSDE) -> Make:
    """A small network in which every weight counts, those of the conditions, too."""
    return lambda conditions=3, **options: small_restorer(
        sde, sampling=Sampling(**{"steps": 2, **options}), conditions=conditions
    )


def batch(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)[None]


# ---- laws


@every_sampler
def test_a_condition_is_a_picture(make: Make, sampler: str) -> None:
    restore, lq = make(sampler=sampler), photo()
    results = [restore(lq, condition=condition).pixels for condition in (ONE, OTHER, ONE)]
    np.testing.assert_array_equal(results[0], results[2])
    assert np.abs(results[0] - results[1]).max() > 1e-3


@pytest.mark.slow
@every_sampler
def test_in_tiles_too(make: Make, sampler: str) -> None:
    restore, lq = make(sampler=sampler), photo(90, 120)
    results = [ask(restore, lq, condition=c, tile=128, policy=TILED) for c in (ONE, OTHER, ONE)]
    for result in results:
        ((key, _, numbers),) = said(result.notices)
        assert (key, numbers[:3]) == ("network-tiled", ["60", "45", "64"])
    one, other, again = (result.image.pixels for result in results)
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-3


def test_every_tile_is_told_the_same(make: Make) -> None:
    """So the picture does not depend on them."""
    restore, lq = make(), photo(90, 120)
    wide, small = (restore(lq, condition=ONE, tile=tile, policy=TILED).pixels for tile in (1000, 128))
    np.testing.assert_allclose(small, wide, rtol=0, atol=1e-4)


@pytest.mark.parametrize("i", range(3))
def test_every_number_counts(make: Make, i: int) -> None:
    restore, lq, changed = make(), photo(), list(ONE)
    changed[i] += 20
    difference = restore(lq, condition=tuple(changed)).pixels - restore(lq, condition=ONE).pixels
    assert np.abs(difference).max() > 1e-3


def test_every_step_is_told(make: Make) -> None:
    restore = make(steps=3)
    one, other = (ask(restore, photo(), condition=c, trajectory=True).trajectory for c in (ONE, OTHER))
    assert len(one) == 3
    for a, b in zip(one, other, strict=True):
        assert np.abs(a.pixels - b.pixels).max() > 1e-3


# ---- all ways to restore


def test_a_trajectory_ends_with_the_restoration(make: Make) -> None:
    restore, lq = make(), photo()
    *_, last = ask(restore, lq, condition=OTHER, trajectory=True).trajectory
    np.testing.assert_array_equal(last.pixels, restore(lq, condition=OTHER).pixels)


def test_samples_have_the_mean_of_single_calls(make: Make) -> None:
    restore, lq = make(), photo()
    mean = np.mean([restore(lq, condition=OTHER, seed=seed).pixels for seed in range(2)], axis=0)
    np.testing.assert_allclose(ask(restore, lq, samples=2, condition=OTHER).image.pixels, mean, atol=1e-6)
    assert np.abs(ask(restore, lq, samples=2, condition=ONE).image.pixels - mean).max() > 1e-3


def test_a_batch_is_told_together(make: Make) -> None:
    restore, lq = make(), photo()
    alone = batch(restore(lq, condition=OTHER).pixels)
    together = restore.restore_batch(batch(lq).expand(3, -1, -1, -1), condition=OTHER)
    torch.testing.assert_close(together, alone.expand(3, -1, -1, -1), rtol=0, atol=1e-5)


def test_views_and_holes_are_told(make: Make) -> None:
    restore, lq = make(), photo()
    holes = np.zeros(lq.shape[:2], np.float32)
    (alone,) = restore.restore_views([lq], condition=OTHER)
    np.testing.assert_array_equal(alone.pixels, restore(lq, condition=OTHER).pixels)
    holes[:5] = 1
    filled = [restore(lq, mask=holes, condition=condition).pixels for condition in (ONE, OTHER)]
    assert np.abs(filled[0] - filled[1]).max() > 1e-3


# ---- errors


@pytest.mark.parametrize("condition", [(), (1.0,), (1.0, 2.0), (1.0, 2.0, 3.0, 4.0)])
def test_another_number_of_them_is_one_line(make: Make, condition: tuple[float, ...]) -> None:
    restore, lq = make(), photo()
    calls: list[Callable[..., object]] = [
        restore,
        lambda lq, **given: ask(restore, lq, samples=2, **given),
        lambda lq, **given: ask(restore, lq, trajectory=True, **given),
        lambda lq, **given: restore.restore_batch(batch(lq), **given),
    ]
    for call in calls:
        with pytest.raises(
            ValueError, match=f"condition has {len(condition)} numbers.* (takes|give) 3$"
        ) as caught:
            call(lq, condition=condition)
        assert "\n" not in str(caught.value)


def test_a_model_that_takes_none_says_so(make: Make) -> None:
    with pytest.raises(ValueError, match=r"condition has 3 numbers: this model takes 0$"):
        make(conditions=0)(photo(), condition=ONE)
