"""Haze is light scattered in the air: a function of the picture and the randomness, to the bit."""

import dataclasses
import math
import pickle
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from refusion.degradation import Degradation, Haze, smooth_field

SIZES = [(1, 1), (3, 3), (1, 20), (17, 23), (64, 48)]
HAZES = [
    Haze(),
    Haze(thin=0, thick=0.1),
    Haze(uneven=0),
    Haze(uneven=3, dim=0.1, tint=0.9),
    Haze(thin=50, thick=50),
]
GREY = Haze(tint=0)


def picture(size: tuple[int, int], seed: int = 0) -> Tensor:
    """Noise in which all values from black to white occur."""
    return torch.from_numpy(np.random.default_rng(seed).uniform(-0.2, 1.2, (3, *size))).float().clamp(0, 1)


def source(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def airlight(haze: Haze, clean: Tensor, seed: int = 0) -> Tensor:
    """What remains of a picture behind haze without end: the same draws, at any depth."""
    air = dataclasses.replace(haze, thin=1e9, thick=1e9)(clean, source(seed))
    torch.testing.assert_close(air, air[:, :1, :1].expand_as(air), rtol=0, atol=0)
    return air


# ---- laws


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("haze", HAZES)
def test_haze_is_a_function_of_the_picture_and_the_randomness(haze: Haze, size: tuple[int, int]) -> None:
    clean = picture(size)
    before = clean.clone()
    first = haze(clean, source(5))
    torch.manual_seed(99)
    np.random.seed(99)
    again = pickle.loads(pickle.dumps(haze))
    assert torch.equal(again(clean, source(5)), first)
    assert torch.equal(clean, before)
    assert not torch.equal(haze(clean, source(6)), first)
    assert isinstance(haze, Degradation)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("haze", HAZES)
def test_haze_stays_in_range(haze: Haze, size: tuple[int, int]) -> None:
    for seed in range(20):
        hazy = haze(picture(size, seed), source(seed))
        assert hazy.shape == (3, *size)
        assert hazy.dtype == torch.float32
        assert hazy.min() >= 0
        assert hazy.max() <= 1


@given(st.integers(0, 1000))
def test_one_transmission_and_one_airlight_explain_every_pixel(seed: int) -> None:
    """I = J t + A (1 - t): two pictures of the same depth, since of the same brightness, have one t and A."""
    haze, clean = Haze(thick=1.5, tint=0.2), 0.1 + 0.8 * picture((19, 14), seed)
    clean[0] *= 0.9  # no pixel is grey
    other = clean.roll(1, dims=0)  # the colours change places
    hazy, hazy_other = (haze(z, source(seed)).double() for z in (clean, other))
    clean, other = clean.double(), other.double()
    t = (hazy - hazy_other).abs().sum(0) / (clean - other).abs().sum(0)
    assert t.min() > 0
    assert t.max() <= 1 + 1e-6
    torch.testing.assert_close(hazy - hazy_other, (clean - other) * t, rtol=0, atol=2e-6)
    air = airlight(haze, clean.float(), seed).double()
    torch.testing.assert_close(hazy, clean * t + air * (1 - t), rtol=0, atol=1e-5)


@given(st.integers(0, 1000))
def test_thicker_haze_is_nearer_to_the_airlight_everywhere(seed: int) -> None:
    clean = picture((17, 23), seed)
    air = airlight(Haze(), clean, seed)
    distances = [
        (Haze(thin=depth, thick=depth)(clean, source(seed)) - air).abs() for depth in (0, 0.1, 1, 3, 30)
    ]
    for thinner, thicker in pairwise(distances):
        assert bool((thicker <= thinner + 1e-6).all())
        assert thicker.mean() < thinner.mean()


@given(st.integers(0, 1000))
def test_the_order_of_brightness_is_kept(seed: int) -> None:
    """In grey air, of the colours of each pixel."""
    clean = picture((9, 8), seed)
    order = clean.argsort(dim=0)
    assert bool((GREY(clean, source(seed)).gather(0, order).diff(dim=0) >= 0).all())


@given(st.integers(0, 1000))
def test_no_air_leaves_every_picture_unchanged(seed: int) -> None:
    clean = picture((17, 23), seed)
    assert torch.equal(Haze(thin=0, thick=0)(clean, source(seed)), clean)


@given(st.integers(0, 1000))
def test_white_in_white_air_stays_white(seed: int) -> None:
    white = torch.ones(3, 17, 23)
    assert torch.equal(Haze(dim=1, tint=0)(white, source(seed)), white)


def test_haze_is_uneven_and_lies_within_its_depths() -> None:
    """Behind black, what is seen is A (1 - t)."""
    black = torch.zeros(3, 40, 60)
    white_air = Haze(dim=1, tint=0, uneven=0)
    depths, denser = (
        torch.stack([-torch.log(1 - haze(black, source(seed))[0]) for seed in range(60)])
        for haze in (white_air, Haze(dim=1, tint=0, uneven=2))
    )
    farthest, nearest = depths.amax((1, 2)), depths.amin((1, 2))
    assert 0.14 < farthest.min() < farthest.max() < 2.51  # black has no brightness, whose share is up to half
    assert farthest.max() > 1.8
    assert (farthest / nearest).min() > 1.1
    assert denser.max() > 4
    change = (denser / depths).log().abs()  # the same draws, and so the same depths
    assert 1.5 < change.max() <= 2.001


def test_the_airlight_is_as_dim_and_tinted_as_said() -> None:
    airs = torch.stack([airlight(Haze(dim=0.5, tint=0.1), picture((2, 2)), seed) for seed in range(80)])
    grey = torch.stack([airlight(Haze(dim=0.5, tint=0), picture((2, 2)), seed) for seed in range(80)])
    assert 0.5 <= grey.min() < 0.55
    assert 0.95 < grey.max() <= 1
    ratios = airs / grey
    assert 0.9 - 1e-6 <= ratios.min() < 0.92
    assert 1.05 < ratios.max() <= 1.1 + 1e-6
    assert airs.max() <= 1


# ---- the smooth field


@pytest.mark.parametrize("size", [(2, 2), (3, 3), (1, 20), (17, 23), (200, 100)])
def test_a_smooth_field_spans_0_to_1(size: tuple[int, int]) -> None:
    for seed in range(20):
        field = smooth_field(size, source(seed))
        assert field.shape == (1, *size)
        assert (float(field.min()), float(field.max())) == (0, 1)


def test_a_field_of_one_pixel_is_0() -> None:
    assert float(smooth_field((1, 1), source())) == 0


def test_a_smooth_field_is_smooth() -> None:
    """However large, it is made of at most 5 * 8 bumps: neighbouring pixels hardly differ."""
    for seed in range(20):
        field = smooth_field((800, 600), source(seed))
        assert max(float(field.diff(dim=d).abs().max()) for d in (1, 2)) < 0.05


# ---- errors


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"thin": -0.1}, "thin -0.1"),
        ({"thin": 3.0}, "thin 3.0 and thick 2.5"),
        ({"thick": math.inf}, "thick inf"),
        ({"thick": math.nan}, "thick nan"),
        ({"dim": 0.0}, "dim 0.0"),
        ({"dim": 1.1}, "dim 1.1"),
        ({"uneven": -1.0}, "uneven -1.0"),
        ({"uneven": math.inf}, "uneven inf"),
        ({"tint": 1.0}, "tint 1.0"),
        ({"tint": -0.1}, "tint -0.1"),
    ],
)
def test_values_out_of_range_are_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said.replace(".", r"\.")):
        Haze(**values)
