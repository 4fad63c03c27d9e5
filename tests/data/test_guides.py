"""Guides of training samples: cut and turned with their picture, dropped at random, and masks of holes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pairs import Place, make_pairs
from refusion.data.dataset import Augment, Sample, TrainingSamples
from refusion.data.degradation import Holes
from refusion.data.pairs import Pair, find_pairs
from refusion.errors import DataError
from refusion.imaging.fill import harmonic_fill


@pytest.fixture
def told(place: Place) -> list[Pair]:
    """The guide is the red of the degraded picture, so it can be told where it is from."""
    pairs = make_pairs(place, [(20, 26), (24, 20)])
    for i, pair in enumerate(pairs):
        red = pair.read().lq[0].pixels[..., :1].repeat(3, -1)
        pairs[i] = replace(pair, guide=(place(f"guide/{i}.tif", red),))
    return pairs


def samples(pairs: list[Pair], augment: Augment, **options: object) -> list[Sample]:
    made = TrainingSamples(pairs, (12, 16), augment, **options)  # type: ignore[arg-type]
    return [made[i] for i in range(8)]


@pytest.mark.parametrize("augment", [Augment(), Augment(turn=True), Augment(turn=True, zoom=0.5)])
def test_a_guide_is_cut_flipped_turned_and_resized_with_its_picture(
    told: list[Pair], augment: Augment
) -> None:
    for sample in samples(told, augment, guides=1):
        assert sample.guides.shape == (1, 1, 12, 16)
        torch.testing.assert_close(sample.guides[0], sample.lq[0, :1], atol=1e-4, rtol=0)


def test_guides_change_nothing_else(told: list[Pair]) -> None:
    augment = Augment(turn=True, zoom=0.5, exposure=0.3)
    for one, other in zip(samples(told, augment, guides=1), samples(told, augment), strict=True):
        assert torch.equal(one.lq, other.lq)
        assert torch.equal(one.gt, other.gt)
        assert other.guides.shape == (1, 0, 12, 16)


@pytest.mark.slow
def test_guides_are_dropped_as_often_as_told_and_0_where_there_are_none(told: list[Pair]) -> None:
    made = TrainingSamples(told, (12, 16), Augment(drop_guide=0.25), guides=1)
    dropped = [not bool(made[i].guides.any()) for i in range(200)]
    assert 0.15 < np.mean(dropped) < 0.35
    without = [replace(pair, guide=()) for pair in told]
    assert not any(bool(sample.guides.any()) for sample in samples(without, Augment(), guides=1))


def test_holes_are_filled_and_their_mask_is_the_guide(told: list[Pair]) -> None:
    clean = [replace(pair, lq=(), degradation=Holes(), guide=()) for pair in told]
    for sample in samples(clean, Augment(), degradation=Holes(), guides=1, fill="harmonic"):
        (mask,) = sample.guides
        assert set(mask.unique().tolist()) <= {0.0, 1.0}
        assert torch.equal(sample.lq[0], harmonic_fill(sample.gt[0], mask))


def test_a_pair_without_files_tells_the_mask_of_its_holes(told: list[Pair]) -> None:
    scene = replace(told[0], lq=(), degradation=Holes(), guide=()).read()
    assert scene.guides is not None
    white = torch.from_numpy(scene.lq[0].pixels)[scene.guides[0, 0] > 0]
    assert bool((white == 1).all())


def test_guides_are_found_by_stem(told: list[Pair], tmp_path: Path) -> None:
    found = find_pairs(tmp_path)
    assert [pair.guide for pair in found] == [pair.guide for pair in told]
    scene = found[0].read()
    assert scene.guides is not None
    np.testing.assert_allclose(scene.guides[0, 0].numpy(), scene.lq[0].pixels[..., 0], atol=1e-4)
    told[1].guide[0].unlink()
    assert [pair.guide for pair in find_pairs(tmp_path)] == [told[0].guide, ()]


def test_a_guide_of_nothing_and_one_of_another_size_are_errors(
    told: list[Pair], place: Place, tmp_path: Path
) -> None:
    place("guide/0.tif", np.zeros((19, 26, 3)))
    with pytest.raises(DataError, match=r"guide.0\.tif.* 26x19 and 26x20"):
        find_pairs(tmp_path)[0].read()
    place("guide/7.tif", np.zeros((19, 26, 3)))
    with pytest.raises(DataError, match="guide/7"):
        find_pairs(tmp_path)
