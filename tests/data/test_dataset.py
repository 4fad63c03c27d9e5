"""What training makes of pairs: a function of the seed and the number, whatever is drawn."""

import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from pairs import Place, blocks, degrade, flat, make_pairs, texture, views
from refusion.data.dataset import Augment, StepBatches, TrainingSamples
from refusion.data.degradation import Downscale, Example, Haze
from refusion.data.fields import Picture
from refusion.data.pairs import Pair
from refusion.errors import DataError
from refusion.imaging.arrays import from_array
from refusion.imaging.formats import write
from refusion.imaging.resize import Enlarge, reduced

EVERYTHING = Augment(
    flip=0.5, turn=True, zoom=0.5, exposure=0.2, tint=0.1, gamma=0.2, strength=0.3, borrow=0.3, clean=0.2
)
HAZY = replace(EVERYTHING, veil=True, strength=0.2, borrow=0.2, synthetic=0.4)


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    """Five pairs of five sizes."""
    folder = tmp_path_factory.mktemp("five")

    def put(name: str, array: np.ndarray) -> Path:
        (folder / name).parent.mkdir(exist_ok=True)
        write(from_array(array), folder / name)
        return folder / name

    return make_pairs(put, [(24, 30), (20, 16), (16, 16), (9, 40), (33, 21)])


Sample = tuple[Tensor, Tensor, Tensor, int]


def same(a: Sample, b: Sample) -> bool:
    return all(torch.equal(*pair) for pair in zip(a[:3], b[:3], strict=True)) and a[3] == b[3]


# ---- laws of the samples


@pytest.mark.slow
def test_a_sample_does_not_depend_on_what_is_kept_in_memory(five: list[Pair]) -> None:
    def made(cache_bytes: int) -> TrainingSamples:
        scenes = [*five[0].gt, *five[1].gt]
        return TrainingSamples(five, (12, 16), HAZY, 0, scenes, Haze(), cache_bytes=cache_bytes)

    read, kept = made(0), made(10**6)
    for i in (*range(20), *range(20)):
        assert same(read[i], kept[i])
    assert read.cache.free == 0 < kept.cache.free < 10**6


@pytest.mark.slow
@pytest.mark.parametrize("how", [EVERYTHING, HAZY], ids=["everything", "hazy"])
def test_a_sample_is_a_function_of_the_seed_and_its_number(five: list[Pair], how: Augment) -> None:
    def made(seed: int) -> TrainingSamples:
        return TrainingSamples(five, (12, 16), how, seed, [*five[0].gt, *five[1].gt], Haze())

    samples = made(3)
    forward = [samples[i] for i in range(12)]
    torch.manual_seed(99)
    np.random.seed(99)
    elsewhere = pickle.loads(pickle.dumps(made(3)))
    for i in reversed(range(12)):
        assert same(elsewhere[i], forward[i])
    other = made(4)
    assert not any(same(other[i], forward[i]) for i in range(12))


def test_every_pair_comes_once_in_every_epoch(five: list[Pair]) -> None:
    plain = TrainingSamples(five, (4, 4), Augment(flip=0), seed=1)
    seen: list[Pair] = []
    order = []
    read = Pair.read

    def watched(pair: Pair, **options: Any) -> object:
        seen.append(pair)
        return read(pair, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pair, "read", watched)
        for epoch in range(4):
            seen.clear()
            for i in range(5):
                plain[5 * epoch + i]
            assert Counter(seen) == Counter(five)
            order.append(tuple(pair.name for pair in seen))
    assert len(set(order)) > 1


@pytest.mark.parametrize("patch", [(16, 16), (8, 12), (40, 40), (1, 1), (64, 8)])
@pytest.mark.parametrize("how", [Augment(), Augment(turn=True, zoom=0.4)], ids=["cropped", "zoomed"])
def test_both_pictures_are_cut_turned_and_resized_alike(
    five: list[Pair], patch: tuple[int, int], how: Augment
) -> None:
    samples = TrainingSamples(five, patch, how)
    for i in range(10):
        lq, gt, _, number, _ = samples[i]
        assert lq.shape == gt.shape == (1, 3, *patch)
        assert number == i
        np.testing.assert_allclose(lq, degrade(gt.numpy()), rtol=0, atol=1e-4)


def test_a_crop_is_a_piece_of_the_picture(five: list[Pair]) -> None:
    """Without a zoom, samples are cut at the picture's own scale."""
    samples = TrainingSamples(five[:1], (10, 12), Augment(flip=0))
    whole = five[0].read().gt[0].pixels
    places = set()
    for i in range(6):
        piece = samples[i][1][0].permute(1, 2, 0).numpy()
        windows = np.lib.stride_tricks.sliding_window_view(whole, piece.shape)[:, :, 0]
        hits = np.argwhere(np.abs(windows - piece).max((2, 3, 4)) < 1e-6)
        assert len(hits) == 1
        places.add(tuple(hits[0]))
    assert len(places) > 1


@pytest.mark.parametrize("size", [(3, 3), (1, 1), (1, 50), (50, 2), (15, 16)])
@pytest.mark.parametrize("how", [Augment(), EVERYTHING], ids=["plain", "everything"])
def test_pictures_smaller_than_the_patch(place: Place, size: tuple[int, int], how: Augment) -> None:
    samples = TrainingSamples(make_pairs(place, [size]), (16, 16), how)
    for i in range(4):
        lq, gt, *_ = samples[i]
        assert lq.shape == gt.shape == (1, 3, 16, 16)
        assert bool(lq.isfinite().all())


def test_a_batch_collates(five: list[Pair]) -> None:
    loader = torch.utils.data.DataLoader(
        TrainingSamples(five, (8, 8), EVERYTHING), batch_sampler=StepBatches(1, 3, 4)
    )
    batches = list(loader)
    assert [batch[3].tolist() for batch in batches] == [[4, 5, 6, 7], [8, 9, 10, 11]]
    assert batches[0][0].shape == (4, 1, 3, 8, 8)
    assert batches[0][2].shape == (4, 0)


# ---- augmentation


@pytest.mark.slow
@pytest.mark.parametrize("how", [EVERYTHING, HAZY], ids=["everything", "hazy"])
@given(st.integers(0, 30))
@example(0)
def test_samples_stay_in_range(five: list[Pair], how: Augment, i: int) -> None:
    lq, gt, *_ = TrainingSamples(five, (12, 12), how, degradation=Haze())[i]
    for z in (lq, gt):
        assert z.min() >= 0
        assert z.max() <= 1


def drawn(pairs: list[Pair], how: Augment, count: int = 40, scenes: tuple[Path, ...] = ()) -> np.ndarray:
    """The mean colours of many samples: (count, lq or gt, rgb)."""
    samples = TrainingSamples(pairs, (6, 6), how, scenes=scenes)
    return np.array([[z[0].mean((1, 2)).numpy() for z in samples[i][:2]] for i in range(count)])


@pytest.mark.slow
def test_exposure_and_tint_are_alike_for_both_pictures(place: Place) -> None:
    pairs = [flat(place, "a", 0.25, 0.5)]
    exposed = drawn(pairs, Augment(exposure=0.2))
    gains = exposed[:, 1] / 0.5
    np.testing.assert_allclose(exposed[:, 0] / 0.25, gains, atol=1e-3)
    assert 0.79 < gains.min() < 0.9
    assert 1.1 < gains.max() < 1.21
    np.testing.assert_allclose(gains.std(1), 0, atol=1e-5)
    tinted = drawn(pairs, Augment(tint=0.1))[:, 1] / 0.5
    assert tinted.min() > 0.899
    assert tinted.max() < 1.101
    assert (tinted.std(1) > 1e-3).all()


@pytest.mark.slow
def test_gamma_is_alike_for_both_pictures(place: Place) -> None:
    changed = drawn([flat(place, "a", 0.25, 0.5)], Augment(gamma=0.2))[..., 0]
    exponents = np.log(changed) / np.log([0.25, 0.5])
    np.testing.assert_allclose(exponents[:, 0], exponents[:, 1], atol=1e-3)
    assert 0.79 < exponents.min() < 0.9
    assert 1.1 < exponents.max() < 1.21


@pytest.mark.slow
def test_strength_makes_the_degradation_weaker_or_stronger(place: Place) -> None:
    changed = drawn([flat(place, "a", 0.25, 0.5)], Augment(strength=1.0))[..., 0]
    np.testing.assert_allclose(changed[:, 1], 0.5, atol=1e-4)
    powers = np.log((changed[:, 0] + 0.02) / 0.52) / np.log(0.27 / 0.52)
    assert 0.49 < powers.min() < 0.7
    assert 1.1 < powers.max() < 1.31


@pytest.mark.slow
def test_clean_samples_have_nothing_to_restore(place: Place) -> None:
    colours = drawn([flat(place, "a", 0.25, 0.5)], Augment(clean=1.0))
    np.testing.assert_allclose(colours, 0.5, atol=1e-4)
    some = drawn([flat(place, "a", 0.25, 0.5)], Augment(clean=0.3))[:, 0, 0]
    assert 3 < (some > 0.4).sum() < 25


@pytest.mark.slow
def test_borrowing_puts_the_degradation_of_one_pair_on_another(place: Place) -> None:
    """The first pair darkens, the second does not: borrowed, either may fall on either scene."""
    pairs = [flat(place, "a", 0.1, 0.4), flat(place, "b", 0.8, 0.8)]
    own = {tuple(row.round(2).tolist()) for row in drawn(pairs, Augment())[..., 0]}
    assert {(round(lq, 2), round(gt, 2)) for lq, gt in own} == {(0.1, 0.4), (0.8, 0.8)}
    borrowed = drawn(pairs, Augment(borrow=1.0))[..., 0]
    for scene in (0.4, 0.8):
        ratios = np.array([lq / gt for lq, gt in borrowed if abs(gt - scene) < 1e-3])
        assert (ratios > 0.999).any()
        assert (ratios < 0.6).any()


def test_borrowed_degradations_fall_on_scenes(place: Place) -> None:
    pairs = [flat(place, "a", 0.1, 0.4)]
    scene = place("scenes/s.tif", np.full((9, 7, 3), 0.9))
    colours = drawn(pairs, Augment(borrow=1.0, scene=0.5), scenes=(scene,))[..., 0]
    on_scene = np.abs(colours[:, 1] - 0.9) < 1e-3
    assert 8 < on_scene.sum() < 32
    np.testing.assert_allclose(colours[~on_scene, 1], 0.4, atol=1e-3)
    assert (colours[on_scene, 0] < 0.6).all()


def under_veil(place: Place, name: str, gt: np.ndarray, transmission: float) -> Pair:
    """A pair under an even veil, but for what keeps the ratio of black to black at one: it is 1.02 - lq
    that is a constant part of 1.02 - gt."""
    lq = place(f"lq/{name}.tif", 1.02 - transmission * (1.02 - gt))
    return Pair((lq,), (place(f"gt/{name}.tif", gt),))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["strength", "borrow"])
def test_a_veil_is_moved_as_a_ratio_of_darkness(place: Place, kind: str) -> None:
    """A power of its transmission, the same at every pixel of whatever scene it falls on."""
    grey = np.random.default_rng(0).uniform(0, 0.9, (6, 6, 3))
    pairs = [under_veil(place, "a", grey, 0.5), under_veil(place, "b", grey[::-1] * 0.5, 0.5)]
    samples = TrainingSamples(pairs, (6, 6), Augment(veil=True, **{kind: 1.0}))
    powers = []
    for i in range(40):
        lq, gt, *_ = samples[i]
        ratio = (1.02 - lq) / (1.02 - gt)
        torch.testing.assert_close(ratio, ratio[:, :1, :1, :1].expand_as(ratio), rtol=0, atol=1e-3)
        powers.append(float(ratio.log().mean()) / np.log(0.5))
    low, high = {"strength": (0.5, 1.3), "borrow": (0.6, 1.2)}[kind]
    assert low - 1e-2 < min(powers) < low + 0.1
    assert high - 0.1 < max(powers) < high + 1e-2


@pytest.mark.slow
def test_a_veil_leaves_white_white_and_a_shade_black_black(place: Place) -> None:
    pairs = [flat(place, "a", 0.7, 0.5)]
    ends = (place("scenes/0.tif", np.zeros((6, 6, 3))), place("scenes/1.tif", np.ones((6, 6, 3))))
    for veil in (True, False):
        how = Augment(borrow=1.0, scene=1.0, veil=veil)
        colours = drawn(pairs, how, scenes=ends)[..., 0]
        black = colours[:, 1] < 0.5
        kept, moved = (black, ~black)[veil], (black, ~black)[not veil]
        np.testing.assert_allclose(colours[kept, 0], colours[kept, 1], atol=1e-2)
        assert (colours[moved, 0] > 0.2).all()
        assert kept.any()
        assert moved.any()


def darker(clean: Picture, rng: np.random.Generator) -> Example:
    """A degradation that shows its draw: the picture times 0.2 ... 0.4."""
    return Example(clean * rng.uniform(0.2, 0.4), clean)


def test_synthetic_samples_are_clean_pictures_degraded(five: list[Pair]) -> None:
    """As the sample was cut and turned, and before its colours are changed alike."""
    how = Augment(turn=True, zoom=0.6, synthetic=1.0)
    samples = TrainingSamples(five, (12, 16), how, degradation=darker)
    factors = []
    for i in range(10):
        lq, gt, *_ = samples[i]
        factors.append(float(lq.sum() / gt.sum()))
        torch.testing.assert_close(lq, gt * factors[-1], rtol=0, atol=1e-5)
    assert len(set(factors)) == 10
    assert 0.2 <= min(factors) < 0.26
    assert 0.34 < max(factors) <= 0.4
    clean = TrainingSamples(five, (12, 16), replace(how, synthetic=0, clean=1.0))
    for i in range(10):  # the pictures are those of the pairs, in their order
        torch.testing.assert_close(samples[i][1], clean[i][1], rtol=0, atol=0)


def test_haze_is_made_on_pairs_and_on_scenes(place: Place) -> None:
    pairs = [flat(place, "a", 0.1, 0.4)]
    scene = place("scenes/s.tif", np.full((9, 7, 3), 0.2))
    how = Augment(synthetic=1.0, scene=0.5)
    samples = TrainingSamples(pairs, (6, 6), how, 0, [scene], Haze(dim=1, tint=0))
    colours = np.array([[z[0].mean((1, 2)).numpy() for z in samples[i][:2]] for i in range(40)])[..., 0]
    on_scene = np.abs(colours[:, 1] - 0.2) < 1e-3
    assert 8 < on_scene.sum() < 32
    np.testing.assert_allclose(colours[~on_scene, 1], 0.4, atol=1e-3)
    assert (colours[:, 0] > colours[:, 1] + 0.01).all()  # the pair's own lq is darker


@pytest.mark.slow
def test_each_way_of_drawing_comes_as_often_as_said(place: Place) -> None:
    """Told apart by what becomes of a grey of 0.5 whose partner is 0.4."""
    pairs = [flat(place, "a", 0.4, 0.5)]
    how = Augment(strength=0.2, clean=0.3, synthetic=0.4)

    def away(clean: Picture, rng: np.random.Generator) -> Example:
        return Example(torch.zeros_like(clean), clean)

    samples = TrainingSamples(pairs, (6, 6), how, degradation=away)
    lq = [float(samples[i][0].mean()) for i in range(400)]
    counts = {value: sum(abs(z - value) < 1e-3 for z in lq) for value in (0.0, 0.4, 0.5)}
    for value, share in ((0.0, 0.4), (0.4, 0.1), (0.5, 0.3)):
        assert abs(counts[value] / 400 - share) < 0.06


def test_synthetic_samples_need_a_degradation(five: list[Pair]) -> None:
    with pytest.raises(DataError, match=r"augment\.synthetic is 0\.1: name a data\.degradation"):
        TrainingSamples(five, (12, 12), Augment(synthetic=0.1))
    TrainingSamples(five, (12, 12), Augment(), degradation=Haze())


def test_ways_of_drawing_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="borrow, strength, clean and synthetic exclude each other"):
        Augment(borrow=0.3, strength=0.3, clean=0.3, synthetic=0.2)
    with pytest.raises(ValueError, match=r"synthetic is 1\.5"):
        Augment(synthetic=1.5)


# ---- what the samples ask for


def test_conditions_come_out_of_samples(five: list[Pair]) -> None:
    told = [replace(pair, condition=(float(k), -1.5)) for k, pair in enumerate(five)]
    samples = TrainingSamples(told, (4, 4), Augment(flip=0))
    seen = []
    for i in range(5):
        _, gt, condition, *_ = samples[i]
        assert condition.dtype == torch.float32
        assert condition[1] == -1.5
        whole = told[int(condition[0])].read().gt[0].tensor()
        assert bool(
            (whole.unfold(1, 4, 1).unfold(2, 4, 1) - gt[0, :, None, None]).abs().amax((0, 3, 4)).min() < 1e-6
        )
        seen.append(float(condition[0]))
    assert sorted(seen) == [0, 1, 2, 3, 4]


def negative(clean: Picture, rng: np.random.Generator) -> Example:
    """A degradation that asks for another picture than the clean one, and tells what it did."""
    dark = rng.uniform(0.1, 0.5)
    return Example(dark * clean, 1 - clean, (float(dark),))


def test_a_degradation_says_what_it_asks_for_and_what_it_did(five: list[Pair]) -> None:
    clean = [replace(pair, lq=(), degradation=negative) for pair in five]
    for pair in clean:
        (lq,), (gt,), (dark,), _ = pair.read()
        (truth,) = pair.clean()
        np.testing.assert_allclose(gt.pixels, 1 - truth.pixels, atol=1e-6)
        np.testing.assert_allclose(lq.pixels, dark * truth.pixels, atol=0.51 / 255)
    samples = TrainingSamples(clean, (8, 8), degradation=negative)
    for i in range(5):
        degraded, asked, told, *_ = samples[i]
        torch.testing.assert_close(degraded, told * (1 - asked))
    assert len({float(samples[i][2]) for i in range(5)}) == 5


def test_pairs_without_a_degraded_picture_are_always_synthetic(five: list[Pair]) -> None:
    clean = [replace(pair, lq=()) for pair in five]
    for how in (Augment(), Augment(borrow=0.5, strength=0.5)):
        for i in range(8):
            lq, gt, *_ = TrainingSamples(clean, (8, 8), how, degradation=darker)[i]
            ratio = float(lq.sum() / gt.sum())
            assert 0.2 <= ratio <= 0.4
            torch.testing.assert_close(lq, ratio * gt)
    lq, gt, *_ = TrainingSamples(clean, (8, 8), Augment(clean=1), degradation=darker)[0]
    assert torch.equal(lq, gt)
    with pytest.raises(DataError, match=r"without a degraded picture: name a data\.degradation"):
        TrainingSamples(clean, (8, 8))


def test_what_is_smaller_is_enlarged_first(place: Place) -> None:
    pair = blocks(place, 3)
    samples = TrainingSamples([pair], (12, 18), Augment(turn=True), enlarge=Enlarge(3, "nearest"))
    for i in range(8):
        lq, gt, *_ = samples[i]
        assert lq.shape == (1, 3, 12, 18)
        torch.testing.assert_close(lq, gt)


def test_made_small_pictures_are_enlarged_too(five: list[Pair]) -> None:
    clean = [replace(pair, lq=()) for pair in five]
    larger = Enlarge(2)
    samples = TrainingSamples(clean, (8, 12), degradation=Downscale(factor=2), enlarge=larger)
    for i in range(5):
        lq, gt, *_ = samples[i]
        torch.testing.assert_close(lq, larger(reduced(gt, 2)))


def test_a_patch_that_cannot_be_reduced_is_an_error(five: list[Pair]) -> None:
    with pytest.raises(DataError, match=r"patch is \(12, 18\): give multiples of enlarge\.factor, 4"):
        TrainingSamples(five, (12, 18), enlarge=Enlarge(4))


# ---- two views


def test_views_are_cut_at_the_same_rows_and_keep_their_disparity(place: Place) -> None:
    """Whatever is flipped, a point at column x of the left view is at x - 3 of the right one."""
    samples = TrainingSamples([views(place)], (8, 12), Augment(turn=True))
    seen = set()
    for i in range(24):
        lq, gt, *_ = samples[i]
        assert lq.shape == gt.shape == (2, 3, 8, 12)
        torch.testing.assert_close(lq, gt / 2, rtol=0, atol=1e-4)
        torch.testing.assert_close(gt[0, :2, :, 3:], gt[1, :2, :, :-3], rtol=0, atol=1e-4)
        torch.testing.assert_close(
            gt[0, 0], gt[0, 0, :, :1].expand(8, 12), rtol=0, atol=1e-4
        )  # rows stay rows
        mirrored, upset = bool(gt[0, 1, 0, 0] > gt[0, 1, 0, 1]), bool(gt[0, 0, 0, 0] > gt[0, 0, 1, 0])
        assert gt[:, 2].mean((1, 2)).round().tolist() == [float(mirrored), float(not mirrored)]
        seen.add((mirrored, upset))
    assert len(seen) == 4


def test_a_flip_mirrors_and_exchanges_the_views(place: Place, five: list[Pair]) -> None:
    for pairs in ([views(place)], five):
        plain, flipped = (TrainingSamples(pairs, (8, 12), Augment(flip=flip)) for flip in (0, 1))
        for i in range(4):
            for z, other in zip(plain[i][:2], flipped[i][:2], strict=True):
                assert torch.equal(other, z.flip(0, -1))


def test_samples_of_views_without_turns_stand_upright(place: Place) -> None:
    samples = TrainingSamples([views(place)], (8, 12), Augment(zoom=0.5))
    assert all(bool((samples[i][1][:, 0].diff(dim=1) > 0).all()) for i in range(12))


def test_views_stay_in_range_whatever_is_drawn(place: Place) -> None:
    pairs = [views(place, "a"), views(place, "b", (20, 22))]
    scene = place("scenes/s.tif", texture(0, 16, 25) / 65535)
    samples = TrainingSamples(pairs, (12, 10), HAZY, 0, [scene], Haze())
    for i in range(24):
        for z in samples[i][:2]:
            assert z.shape == (2, 3, 12, 10)
            assert z.min() >= 0
            assert z.max() <= 1


def test_views_are_made_of_one_scene(place: Place) -> None:
    """Of a single bright row both views have that row, and different columns."""
    bright = np.zeros((16, 40, 3))
    bright[5] = np.random.default_rng(0).uniform(0.6, 1, (40, 3))
    scene = place("scenes/s.tif", bright)
    pair = replace(views(place, size=(16, 40)), lq=())
    how = Augment(flip=0, scene=1)
    samples = TrainingSamples([pair], (16, 40), how, scenes=[scene], degradation=darker)
    for i in range(6):
        lq, gt, *_ = samples[i]
        assert gt.shape == (2, 3, 16, 40)
        light = gt.mean((1, 3))
        assert bool((light[:, 5] > 0.3).all())
        assert float(light[:, [*range(5), *range(6, 16)]].max()) < 1e-3
        assert float((gt[0] - gt[1]).abs().max()) > 0.05
        ratio = lq.sum((1, 2, 3)) / gt.sum((1, 2, 3))  # both are degraded alike
        torch.testing.assert_close(ratio[0], ratio[1])
    alone = TrainingSamples([replace(pair, gt=pair.gt[:1])], (16, 40), how, 0, [scene], darker)
    assert alone[0][1].shape == (1, 3, 16, 40)


# ---- the steps of a run


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.integers(0, 6))
def test_the_processes_of_a_step_share_one_block(processes: int, batch: int, steps: int, start: int) -> None:
    each = [list(StepBatches(start, steps, batch, rank, processes)) for rank in range(processes)]
    for k, step in enumerate(range(start, steps)):
        together = [i for one in each for i in one[k]]
        block = batch * processes
        assert together == list(range(step * block, (step + 1) * block))
    assert all(len(one) == max(0, steps - start) for one in each)


@given(st.integers(0, 8), st.integers(0, 1))
def test_a_start_resumes_exactly(start: int, rank: int) -> None:
    whole = list(StepBatches(0, 8, 3, rank, 2))
    assert list(StepBatches(start, 8, 3, rank, 2)) == whole[start:]
