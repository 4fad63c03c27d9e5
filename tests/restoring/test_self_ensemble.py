"""The mean over eight orientations equals that computed by hand, and keeps what a restoration keeps."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from refusion.diffusion.sde import MeanRevertingSDE
from refusion.errors import Notice
from refusion.imaging.resize import Enlarge
from refusion.restoring.request import Progress, Sampling
from refusion.restoring.restorer import Restorer
from refusion.restoring.self_ensemble import ORIENTATIONS
from restorers import ask, photo, small_restorer

LAID: list[tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]] = [
    (lambda z: z, lambda z: z),
    (np.flipud, np.flipud),
    (np.fliplr, np.fliplr),
    (lambda z: z[::-1, ::-1], lambda z: z[::-1, ::-1]),
    (lambda z: z.swapaxes(0, 1), lambda z: z.swapaxes(0, 1)),
    (lambda z: np.flipud(z.swapaxes(0, 1)), lambda z: np.flipud(z).swapaxes(0, 1)),
    (lambda z: np.fliplr(z.swapaxes(0, 1)), lambda z: np.fliplr(z).swapaxes(0, 1)),
    (lambda z: z.swapaxes(0, 1)[::-1, ::-1], lambda z: z[::-1, ::-1].swapaxes(0, 1)),
]
"""The symmetries of a rectangle and their inverses, in other words."""


def restorer(sde: MeanRevertingSDE, **options: Any) -> Restorer:
    return small_restorer(sde, sampling=Sampling(steps=2), **options)


@pytest.mark.parametrize("guides", [0, 1])
def test_it_is_the_mean_over_all_orientations(sde: MeanRevertingSDE, guides: int) -> None:
    restore, lq = restorer(sde, guides=guides, map_channels=4), photo(13, 22)
    given = np.random.default_rng(0).random((1, 13, 22), np.float32)

    def restored(lay: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        maps = {"guides": np.ascontiguousarray(lay(given[0]))[None]} if guides else {}
        return restore(np.ascontiguousarray(lay(lq)), **maps).pixels

    expected = np.mean([back(restored(lay)) for lay, back in LAID], axis=0)
    options = {"guides": given} if guides else {}
    result = restore(lq, self_ensemble=True, **options).pixels
    np.testing.assert_allclose(result, expected, atol=1e-6)
    assert np.abs(result - restore(lq, **options).pixels).max() > 1e-4


def test_orientations_are_eight_and_go_back() -> None:
    z = np.random.default_rng(0).random((3, 5, 3), np.float32)
    laid = [way.laid(z) for way in ORIENTATIONS]
    assert len({(a.shape, a.tobytes()) for a in laid}) == 8
    for way, a in zip(ORIENTATIONS, laid, strict=True):
        np.testing.assert_array_equal(way.back(a), z)


def test_what_is_outside_the_holes_is_kept_to_the_bit(sde: MeanRevertingSDE) -> None:
    restore, lq = restorer(sde), photo(16, 24)
    mask = np.zeros((16, 24), np.float32)
    mask[3:9, 5:20] = 1
    result = restore(lq, mask=mask, self_ensemble=True).pixels
    np.testing.assert_array_equal(result[mask == 0], lq[mask == 0])
    assert (result[mask == 1] != lq[mask == 1]).any()


def test_larger_pictures_come_back_as_they_lay(sde: MeanRevertingSDE) -> None:
    restore = restorer(sde, enlarge=Enlarge(2))
    assert restore(photo(8, 12), self_ensemble=True).size == (24, 16)


def test_progress_counts_all_steps_and_previews_lie_as_the_picture(sde: MeanRevertingSDE) -> None:
    restore, told, notices = restorer(sde), list[tuple[int, int]](), list[Notice]()

    def progress(at: Progress) -> None:
        told.append((at.done, at.total))
        assert at.preview()[0].size == (22, 13)

    request = restore.request(photo(13, 22), self_ensemble=True)
    result = restore.run(request, progress, report=notices.append)
    assert told == [(i, 16) for i in range(1, 17)]
    assert result.notices == tuple(notices)


@pytest.mark.parametrize("options", [{"samples": 2}, {"trajectory": True}])
def test_it_is_of_a_single_picture_and_sample(sde: MeanRevertingSDE, options: dict[str, Any]) -> None:
    restore, lq = restorer(sde), photo(8, 8)
    with pytest.raises(ValueError, match="self-ensemble"):
        ask(restore, lq, self_ensemble=True, **options)
    with pytest.raises(ValueError, match="self-ensemble"):
        restore.request(lq, lq, self_ensemble=True)
    with pytest.raises(ValueError, match="self-ensemble"):
        restore.restore_batch(torch.zeros(1, 3, 8, 8), self_ensemble=True)


def test_its_mean_needs_the_memory_of_samples(sde: MeanRevertingSDE) -> None:
    restore = restorer(sde)
    assert restore.demand((64, 64), self_ensemble=True) == restore.demand((64, 64), samples=2)
