"""Two views of a scene: both are restored, with what each shows of the other."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch

from refusion.diffusion.sampling import SAMPLERS
from refusion.diffusion.sde import MeanRevertingSDE
from refusion.errors import RefusionWarning
from refusion.imaging.arrays import from_array
from refusion.imaging.resize import Enlarge
from refusion.restoring.codec import Codec
from refusion.restoring.request import Sampling
from refusion.restoring.restorer import Restorer
from refusion.restoring.tiling import TilingPolicy
from restorers import ask, said, small_restorer

Make = Callable[..., Restorer]


@pytest.fixture(scope="module")
def make(sde: MeanRevertingSDE) -> Make:
    """A small network in which every weight counts; `attentive=False` leaves what views tell each other
    as it starts."""

    def build(
        stereo: bool = True, attentive: bool = True, enlarge: Enlarge = Enlarge(), codec: Codec | None = None
    ) -> Restorer:
        fixed = " " if attentive else ".fusion."
        return small_restorer(
            sde, codec, fixed=fixed, enlarge=enlarge, sampling=Sampling(steps=2), stereo=stereo
        )

    return build


def scene(height: int = 32, width: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Two views of a textured picture; what the left one shows is three columns further left in the right."""
    whole = skimage.data.astronaut()[100 : 100 + height, 100 : 103 + width] / np.float32(255)
    return whole[:, :-3], whole[:, 3:]


# ---- restoring


def test_both_views_are_restored_and_keep_their_places(make: Make) -> None:
    left, right = scene()
    results = make().restore_views([left, right])
    assert [result.size for result in results] == [(40, 32)] * 2
    assert np.abs(results[0].pixels - results[1].pixels).max() > 0.01
    again = make().restore_views((from_array(left), from_array(right)))
    for result, same in zip(results, again, strict=True):
        np.testing.assert_array_equal(result.pixels, same.pixels)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_each_view_looks_at_the_other(make: Make, sampler: str) -> None:
    left, right = scene()
    before, one, other = (
        ask(make(), *views, sampler=sampler).images
        for views in ((left, right), (left, 1 - right), (1 - left, right))
    )
    changed = one[0], other[1]
    assert np.abs(changed[0].pixels - before[0].pixels).max() > 1e-3
    assert np.abs(changed[1].pixels - before[1].pixels).max() > 1e-3


def test_before_they_have_learnt_to_look_each_is_restored_alone(make: Make) -> None:
    left, right = scene()
    together = make(attentive=False).restore_views([left, right])
    changed = ask(make(attentive=False), left, 1 - right).images
    np.testing.assert_allclose(changed[0].pixels, together[0].pixels, rtol=0, atol=1e-6)
    assert np.abs(changed[1].pixels - together[1].pixels).max() > 0.01


def test_both_are_given_the_same_noise(make: Make) -> None:
    """So that what is alike stays alike."""
    left, _ = scene()
    one, other = make(attentive=False).restore_views([left, left], seed=3)
    np.testing.assert_allclose(one.pixels, other.pixels, rtol=0, atol=1e-6)


def test_a_batch_holds_left_and_right_one_after_the_other(make: Make) -> None:
    left, right = scene()
    lq = torch.from_numpy(np.stack([right, left, left, right])).permute(0, 3, 1, 2)
    together = make().restore_batch(lq)
    for i, views in ((0, [right, left]), (2, [left, right])):
        for k, result in enumerate(make().restore_views(views)):
            torch.testing.assert_close(together[i + k], result.tensor(), rtol=0, atol=1e-5)


def test_large_views_are_restored_in_bands(make: Make) -> None:
    policy = TilingPolicy(max_whole=1600, patch=32, max_patches=1, min_state_tile=20)
    left, right = scene(120, 100)
    wide, banded = (ask(make(), left, right, tile=tile, policy=policy) for tile in (2000, 128))
    for result, side in ((wide, "1000"), (banded, "64")):
        ((key, level, numbers),) = said(result.notices)
        assert (key, level, numbers[:3]) == ("network-tiled", "info", ["50", "60", side])
    for a, b in zip(wide.images, banded.images, strict=True):
        np.testing.assert_allclose(a.pixels, b.pixels, rtol=0, atol=1e-4)


@pytest.mark.parametrize("sampler", ["posterior", "ode-2"])
def test_samples_of_two_views_have_the_mean_and_deviation_of_each(make: Make, sampler: str) -> None:
    views, restore = scene(), make()
    drawn = ask(restore, *views, samples=3, seed=4, sampler=sampler)
    alone = [restore.restore_views(views, seed=4 + i, sampler=sampler) for i in range(3)]
    assert len(drawn.images) == len(drawn.stds) == 2
    assert (drawn.image, drawn.std is drawn.stds[0]) == (drawn.images[0], True)
    for k, (image, std) in enumerate(zip(drawn.images, drawn.stds, strict=True)):
        pixels = np.stack([views[k].pixels for views in alone])
        np.testing.assert_allclose(image.pixels, pixels.mean(0), atol=1e-6)
        np.testing.assert_allclose(std, np.sqrt(pixels.var(0, ddof=1).mean(-1)), atol=1e-6)
        assert std.shape == (32, 40)
        assert std.mean() > 0.01
    assert np.abs(drawn.stds[0] - drawn.stds[1]).max() > 1e-3


def test_a_mask_is_of_both_views(make: Make) -> None:
    left, right = scene()
    mask = np.zeros(left.shape[:2], bool)
    mask[10:20, 5:30] = True
    restored = make().restore_views([left, right], mask=mask)
    for image, view in zip(restored, (left, right), strict=True):
        np.testing.assert_array_equal(image.pixels[~mask], view[~mask])
        assert (np.abs(image.pixels - view).max(-1)[mask] > 0).mean() > 0.9


# ---- more pixels


@pytest.mark.parametrize("mode", ["bicubic", "nearest"])
def test_enlarged_views_are_restored_at_their_new_size(make: Make, mode: Any) -> None:
    left, right = scene(16, 20)
    enlarge = Enlarge(3, mode)
    results = make(enlarge=enlarge).restore_views([left, right])
    assert [result.size for result in results] == [(60, 48)] * 2
    larger = [
        enlarge(torch.from_numpy(z).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy() for z in scene(16, 20)
    ]
    for result, expected in zip(results, make().restore_views(larger), strict=True):
        np.testing.assert_allclose(result.pixels, expected.pixels, rtol=0, atol=1e-6)


def test_one_picture_is_enlarged_with_its_alpha_whatever_is_asked_of_it(make: Make) -> None:
    rng = np.random.default_rng(0)
    source = from_array(rng.uniform(0.2, 0.8, (6, 8, 4)))
    restore = make(stereo=False, enlarge=Enlarge(2))
    steps, drawn = ask(restore, source, trajectory=True), ask(restore, source, samples=2)
    results = [restore(source), *steps.trajectory, drawn.image]
    assert len(results) == 4
    for result in results:
        assert result.size == (16, 12)
        assert result.alpha is not None
        assert result.alpha.shape == (12, 16)
    assert drawn.std is not None
    assert drawn.std.shape == (12, 16)
    assert restore.upscale_input(source).size == (16, 12)
    (enlarged,) = restore.restore_batch(source.tensor()[None])
    np.testing.assert_allclose(enlarged.permute(1, 2, 0), results[0].pixels, atol=1e-6)


def test_without_a_factor_a_picture_enters_as_it_is(make: Make) -> None:
    source = from_array(scene()[0])
    assert make().upscale_input(source) is source


# ---- errors


@pytest.mark.parametrize("count", [0, 1, 3])
def test_one_picture_is_an_error_for_a_model_of_two(make: Make, count: int) -> None:
    with pytest.raises(ValueError, match=f"^{count} pictures: .* a left and a right view$"):
        make().restore_views([scene()[0]] * count)


def test_a_model_of_two_is_never_given_one_by_another_way(make: Make) -> None:
    left, _ = scene()
    calls: list[Callable[[], object]] = [
        lambda: make()(left),
        lambda: ask(make(), left, samples=2),
        lambda: ask(make(), left, trajectory=True),
        lambda: make().restore_batch(torch.zeros(3, 3, 8, 8)),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"left and (a )?right view") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_two_pictures_are_an_error_for_a_model_of_one(make: Make) -> None:
    with pytest.raises(ValueError, match=r"^2 pictures: .* one picture at a time$"):
        make(stereo=False).restore_views(scene())


def test_views_of_two_sizes_are_an_error_that_names_them(make: Make) -> None:
    left, right = scene()
    with pytest.raises(ValueError, match=r"^left and right are 40x32 and 39x32: give views of one size$"):
        make().restore_views([left, right[:, 1:]])


@pytest.mark.parametrize("lower", [-3, 0, 1, 2, 5])
@pytest.mark.parametrize("factor", [1, 2])
def test_views_that_are_not_rectified_are_a_warning(make: Make, lower: int, factor: int) -> None:
    """Pixels are those of the given pictures, also where they are enlarged."""
    whole = skimage.data.astronaut()[100:196, 100:228] / np.float32(255)
    left, right = whole[8:-8], whole[8 - lower : 88 - lower]
    restore = make(enlarge=Enlarge(factor))
    result = ask(restore, left, right)
    expected = [("unrectified-views", "warning", [f"{lower:+.1f}"])]
    assert said(result.notices) == (expected if abs(lower) > 1 else [])
    assert result.warnings == result.notices
    if result.warnings:
        with pytest.warns(RefusionWarning, match=rf"^right is \{lower:+.1f} pixels lower"):
            restore.restore_views([left, right])
