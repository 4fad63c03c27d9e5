"""Every degradation is a function of the picture and the randomness, to the bit; each has its own law."""

import dataclasses
import math
import pickle
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from refusion.data.camera import GaussianNoise, MotionBlur, SensorNoise
from refusion.data.degradation import Degradation, Downscale, Example, Haze, Holes, Rain
from refusion.data.fields import Picture
from refusion.errors import RecipeError
from refusion.imaging.resize import reduced
from refusion.training.recipe import DEGRADATIONS, parse
from tiny import SMALLEST

SIZES = [(1, 1), (3, 3), (1, 20), (17, 23), (64, 48)]
HAZES = [
    Haze(),
    Haze(thin=0, thick=0.1),
    Haze(uneven=0),
    Haze(uneven=3, dim=0.1, tint=0.9),
    Haze(thin=50, thick=50),
]
GREY = Haze(tint=0)
SAME_SIZE = [
    *HAZES,
    Rain(),
    Rain(shortest=1, longest=1, slant=90, sparse=1, dense=1, faint=1, strong=1),
    MotionBlur(),
    MotionBlur(shortest=0, longest=80, noise=1),
    MotionBlur(longest=25, jpeg=30),
    SensorNoise(),
    SensorNoise(most=1, read=1, smooth=8, shared=1, jpeg=1),
    SensorNoise(jpeg=0),
    GaussianNoise(),
    GaussianNoise(weakest=1, strongest=1),
    Holes(),
    Holes(fewest=20, most=20, thinnest=0.3, thickest=1),
]


def picture(size: tuple[int, int], seed: int = 0) -> Tensor:
    """Noise in which all values from black to white occur."""
    return torch.from_numpy(np.random.default_rng(seed).uniform(-0.2, 1.2, (3, *size))).float().clamp(0, 1)


def source(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def airlight(haze: Haze, clean: Tensor, seed: int = 0) -> Tensor:
    """What remains of a picture behind haze without end: the same draws, at any depth."""
    air = dataclasses.replace(haze, thin=1e9, thick=1e9)(clean, source(seed)).lq
    torch.testing.assert_close(air, air[:, :1, :1].expand_as(air), rtol=0, atol=0)
    return air


# ---- laws of all


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("degradation", [*SAME_SIZE, Downscale(factor=1)])
def test_an_example_is_a_function_of_the_picture_and_the_randomness(
    degradation: Degradation, size: tuple[int, int]
) -> None:
    clean = picture(size)
    before = clean.clone()
    first = degradation(clean, source(5))
    torch.manual_seed(99)
    np.random.seed(99)
    again = pickle.loads(pickle.dumps(degradation))
    assert torch.equal(again(clean, source(5)).lq, first.lq)
    assert torch.equal(clean, before)
    assert torch.equal(first.gt, clean)
    assert first.condition == ()


@pytest.mark.parametrize(
    "degradation", [*HAZES, Rain(), MotionBlur(), SensorNoise(), GaussianNoise(), Holes()]
)
def test_other_randomness_gives_another_example(degradation: Degradation) -> None:
    clean = 0.8 * picture((40, 40))
    assert not torch.equal(degradation(clean, source(6)).lq, degradation(clean, source(5)).lq)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("degradation", SAME_SIZE)
def test_examples_stay_in_range(degradation: Degradation, size: tuple[int, int]) -> None:
    for seed in range(8):
        lq = degradation(picture(size, seed), source(seed)).lq
        assert lq.shape == (3, *size)
        assert lq.dtype == torch.float32
        assert lq.min() >= 0
        assert lq.max() <= 1


@pytest.mark.parametrize("kind", [Haze, Rain, MotionBlur, SensorNoise, GaussianNoise, Holes, Downscale])
def test_a_degradation_is_called_what_it_is(kind: Callable[..., Any]) -> None:
    assert kind().name == kind.__name__
    assert isinstance(kind(), Degradation)
    assert kind() == kind()
    with pytest.raises(TypeError):
        kind(kind.__name__)


def test_a_recipe_finds_every_degradation_by_its_name() -> None:
    for name, kind in DEGRADATIONS.items():
        values = {"model.enlarge.factor": 4} if name == "Downscale" else {}
        recipe = parse(SMALLEST, "test", {"data.degradation": {"name": name}, **values})
        assert recipe.data.degradation == kind()
        assert recipe.data.degradation.name == name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dim:
    """A user's own."""

    name: str = "Dim"
    share: float = 0.5

    def __call__(self, clean: Picture, rng: np.random.Generator) -> Example:
        return Example(self.share * clean, clean)


def test_a_degradation_of_ones_own_is_named_in_recipes_like_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are looked up when a recipe is read."""
    values = {"data.degradation": {"name": "Dim", "share": 0.25}}
    with pytest.raises(RecipeError, match=r"data\.degradation\.name is 'Dim': .*'Haze'"):
        parse(SMALLEST, "test", values)
    monkeypatch.setitem(DEGRADATIONS, "Dim", Dim)
    recipe = parse(SMALLEST, "test", values)
    assert recipe.data.degradation == Dim(share=0.25)
    assert parse(recipe.model_dump(mode="json"), "again") == recipe
    with pytest.raises(RecipeError, match=r"unknown key data\.degradation\.shar, did you mean share"):
        parse(SMALLEST, "test", {"data.degradation": {"name": "Dim", "shar": 0.25}})
    with pytest.raises(RecipeError, match=r"data\.degradation\.name is 'dim'"):
        parse(SMALLEST, "test", {"data.degradation": {"name": "dim"}})


# ---- haze


@given(st.integers(0, 1000))
def test_one_transmission_and_one_airlight_explain_every_pixel(seed: int) -> None:
    """I = J t + A (1 - t): two pictures of the same depth, since of the same brightness, have one t and A."""
    haze, clean = Haze(thick=1.5, tint=0.2), 0.1 + 0.8 * picture((19, 14), seed)
    clean[0] *= 0.9  # no pixel is grey
    other = clean.roll(1, dims=0)  # the colours change places
    hazy, hazy_other = (haze(z, source(seed)).lq.double() for z in (clean, other))
    clean, other = clean.double(), other.double()
    t = (hazy - hazy_other).abs().sum(0) / (clean - other).abs().sum(0)
    assert t.min() > 0
    assert t.max() <= 1 + 1e-6
    torch.testing.assert_close(hazy - hazy_other, (clean - other) * t, rtol=0, atol=2e-6)
    air = airlight(haze, clean.float(), seed).double()
    sure = (clean - other).abs().sum(0)  # a t of nearly equal colours is rounded much
    torch.testing.assert_close(hazy * sure, (clean * t + air * (1 - t)) * sure, rtol=0, atol=1e-6)


@given(st.integers(0, 1000))
def test_thicker_haze_is_nearer_to_the_airlight_everywhere(seed: int) -> None:
    clean = picture((17, 23), seed)
    air = airlight(Haze(), clean, seed)
    distances = [
        (Haze(thin=depth, thick=depth)(clean, source(seed)).lq - air).abs() for depth in (0, 0.1, 1, 3, 30)
    ]
    for thinner, thicker in pairwise(distances):
        assert bool((thicker <= thinner + 1e-6).all())
        assert thicker.mean() < thinner.mean()


@given(st.integers(0, 1000))
def test_the_order_of_brightness_is_kept(seed: int) -> None:
    """In grey air, of the colours of each pixel."""
    clean = picture((9, 8), seed)
    order = clean.argsort(dim=0)
    assert bool((GREY(clean, source(seed)).lq.gather(0, order).diff(dim=0) >= 0).all())


@given(st.integers(0, 1000))
def test_no_air_leaves_every_picture_unchanged(seed: int) -> None:
    clean = picture((17, 23), seed)
    assert torch.equal(Haze(thin=0, thick=0)(clean, source(seed)).lq, clean)


@given(st.integers(0, 1000))
def test_white_in_white_air_stays_white(seed: int) -> None:
    white = torch.ones(3, 17, 23)
    assert torch.equal(Haze(dim=1, tint=0)(white, source(seed)).lq, white)


def test_haze_is_uneven_and_lies_within_its_depths() -> None:
    """Behind black, what is seen is A (1 - t)."""
    black = torch.zeros(3, 40, 60)
    white_air = Haze(dim=1, tint=0, uneven=0)
    depths, denser = (
        torch.stack([-torch.log(1 - haze(black, source(seed)).lq[0]) for seed in range(60)])
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


def test_cold_air_is_bluer_than_grey_and_never_warmer() -> None:
    airs, grey = (
        torch.stack([airlight(haze, picture((2, 2)), seed)[:, 0, 0] for seed in range(60)])
        for haze in (Haze(dim=0.5, tint=0, cold=0.2), Haze(dim=0.5, tint=0))
    )
    red, green, blue = (airs / grey).unbind(1)
    torch.testing.assert_close(green, torch.ones_like(green))
    assert 0.8 - 1e-6 <= red.min() < 0.85 < 0.95 < red.max() <= 1
    assert 1 <= blue.min() < 1.05
    assert blue.max() <= 1.2 + 1e-6


def test_banks_add_to_the_haze_in_some_places_only() -> None:
    black, white_air = torch.zeros(3, 24, 32), Haze(dim=1, tint=0, thick=1)
    banks = Haze(dim=1, tint=0, thick=1, banks=3)
    more = torch.stack(
        [
            torch.log((1 - white_air(black, source(i)).lq[0]) / (1 - banks(black, source(i)).lq[0]))
            for i in range(40)
        ]
    )
    assert more.min() > -1e-4  # of one in float32
    assert 2 < more.max() <= 3.01
    assert more.amin((1, 2)).max() < 0.01


# ---- rain


def rain(rain: Rain, seed: int, size: tuple[int, int] = (64, 64)) -> Tensor:
    """The light that it adds."""
    lq = rain(torch.zeros(3, *size), source(seed)).lq
    assert torch.equal(lq[0], lq[1])
    assert torch.equal(lq[0], lq[2])
    return lq[0]


@given(st.integers(0, 1000))
def test_rain_adds_the_same_light_to_all_colours_of_every_picture(seed: int) -> None:
    weak = Rain(strong=0.3)  # twice that and 0.4 is no more than 1
    clean = 0.4 * picture((24, 31), seed)
    light = rain(weak, seed, (24, 31))
    assert light.min() >= -1e-6
    torch.testing.assert_close(
        weak(clean, source(seed)).lq - clean, light.expand_as(clean), rtol=0, atol=1e-6
    )
    white = torch.ones(3, 24, 31)
    torch.testing.assert_close(Rain()(white, source(seed)).lq, white)


@pytest.mark.parametrize("dry", [Rain(sparse=0, dense=0), Rain(faint=0, strong=0)])
def test_no_rain_leaves_every_picture_unchanged(dry: Rain) -> None:
    torch.testing.assert_close(dry(picture((30, 20)), source()).lq, picture((30, 20)))


def test_rain_is_as_strong_as_said() -> None:
    """Twice that where streaks of two directions cross."""
    brightest = torch.tensor(
        [float(rain(Rain(faint=0.2, strong=0.2, dense=0.5), i).max()) for i in range(30)]
    )
    assert 0.1 < brightest.min() <= 0.2 + 1e-6
    assert 0.3 < brightest.max() <= 0.4 + 1e-6


def test_thicker_streaks_are_more_light() -> None:
    thin, thick = (sum(float(rain(Rain(thick=w), i).mean()) for i in range(8)) for w in (0.7, 3))
    assert thick > 1.5 * thin


def test_more_drops_are_more_light() -> None:
    thin, thick = (
        sum(float(rain(Rain(sparse=n, dense=n), i).mean()) for i in range(10)) for n in (0.002, 0.02)
    )
    assert 3 * thin < thick


def slant_of(light: Tensor) -> float:
    """Angle of the streaks to the vertical in degrees, by the structure tensor of the smoothed light."""
    for _ in range(2):
        light = F.avg_pool2d(light[None], 5, 1)[0]
    down, right = torch.gradient(light)
    turn = torch.atan2(2 * (right * down).sum(), (right**2).sum() - (down**2).sum())
    return math.degrees(float(turn) / 2)


@pytest.mark.parametrize("largest", [0.0, 30.0])
def test_streaks_are_as_slanted_as_said(largest: float) -> None:
    """Each direction is off by three degrees on average."""
    angles = [slant_of(rain(Rain(shortest=40, slant=largest), seed)) for seed in range(30)]
    assert max(map(abs, angles)) < largest + 10
    if largest:
        assert min(angles) < -15
        assert max(angles) > 15


@pytest.mark.parametrize("length", [8, 24])
def test_a_streak_is_as_long_as_said(length: int) -> None:
    """Of the rows with light, where there is little rain, the shortest run is of one streak."""
    runs = []
    for seed in range(40):
        drop = 1e-3 / length
        light = rain(Rain(shortest=length, longest=length, slant=0, sparse=drop, dense=drop), seed, (120, 20))
        lit = light.amax(1) > 0.01
        aside = light[:, [0, -1]].amax() > 0.01  # it may be cut
        if lit.any() and not lit[0] and not lit[-1] and not aside:
            rows = lit.nonzero()
            runs.append(int(rows.max() - rows.min()) + 1)
    assert length - 1 <= min(runs) <= length + 4


def test_it_rains_as_much_at_the_border_as_inside() -> None:
    rains = torch.stack([rain(Rain(), seed) for seed in range(60)]).mean(0)
    border = torch.cat([rains[:6], rains[-6:]]).mean()
    assert 0.8 < border / rains.mean() < 1.25


# ---- motion blur


@pytest.mark.parametrize("size", SIZES)
def test_motion_blur_keeps_even_pictures(size: tuple[int, int]) -> None:
    even = torch.tensor([0.0, 0.3, 1.0])[:, None, None].expand(3, *size)
    for seed in range(5):
        blurred = MotionBlur(noise=0)(even, source(seed)).lq
        torch.testing.assert_close(blurred, even, rtol=0, atol=2e-3)


@given(st.integers(0, 1000))
def test_motion_blur_keeps_the_light(seed: int) -> None:
    """In a picture whose border is black as far as the blur reaches; light is values to the power 2.2."""
    clean = F.pad(picture((9, 12), seed), (12,) * 4)
    blurred = MotionBlur(longest=20, noise=0)(clean, source(seed)).lq
    for before, after in zip(clean, blurred, strict=True):
        assert float((after**2.2).sum()) == pytest.approx(float((before**2.2).sum()), rel=1e-4)
    assert blurred.max() < clean.max()


def path_of(blur: MotionBlur, seed: int, side: int = 61) -> Tensor:
    """What becomes of a white point."""
    point = torch.zeros(3, side, side)
    point[:, side // 2, side // 2] = 1
    path = blur(point, source(seed)).lq
    torch.testing.assert_close(path[0], path[2])
    return path[0] ** 2.2


@pytest.mark.parametrize("length", [4, 16])
def test_a_point_moves_along_a_path_of_the_length_said(length: int) -> None:
    """Which turns: its ends are nearer than that, and it covers a band of one to two pixels."""
    widths = []
    for seed in range(20):
        path = path_of(MotionBlur(shortest=length, longest=length, noise=0), seed)
        assert float(path.sum()) == pytest.approx(1, abs=1e-4)
        places = (path > 1e-4).nonzero()
        widths.append(float((places.amax(0) - places.amin(0) + 1.0).norm()))
        assert length / 2 < len(places) < 4 * length + 8
    assert max(widths) < length + 4.5
    assert max(widths) > 0.8 * length


def test_no_path_leaves_every_picture_unchanged() -> None:
    still = MotionBlur(shortest=0, longest=0, noise=0)
    torch.testing.assert_close(still(picture((20, 30)), source()).lq, picture((20, 30)), rtol=0, atol=2e-3)


def test_the_noise_after_motion_blur_is_at_most_as_said() -> None:
    grey = torch.full((3, 40, 40), 0.5)
    stds = [float(MotionBlur(noise=0.1)(grey, source(seed)).lq.std()) for seed in range(30)]
    assert min(stds) < 0.02
    assert 0.08 < max(stds) < 0.103


# ---- Gaussian noise


def noise(std: float, seed: int = 0, side: int = 64) -> Tensor:
    """On grey, where nothing is clipped."""
    grey = torch.full((3, side, side), 0.5)
    return GaussianNoise(weakest=std, strongest=std)(grey, source(seed)).lq - grey


@pytest.mark.parametrize("std", [0.0, 5 / 255, 0.1])
def test_noise_has_the_deviation_said(std: float) -> None:
    made = noise(std)
    assert float(made.std()) == pytest.approx(std, rel=0.03)
    assert abs(float(made.mean())) <= 4 * std / math.sqrt(made.numel())


def test_noise_is_white_and_normal() -> None:
    made = noise(0.1) / 0.1
    others = [made.roll(1, dims=d) for d in range(3)]  # the next colour, row and column
    for other in [*others, made.roll((1, 1), dims=(1, 2))]:
        assert abs(float((made * other).mean())) < 4 / math.sqrt(made.numel())
    assert float((made**4).mean()) == pytest.approx(3, rel=0.1)


def test_the_deviation_is_drawn_evenly_from_its_range() -> None:
    grey = torch.full((3, 32, 32), 0.5)
    stds = [float(GaussianNoise(weakest=0.02, strongest=0.1)(grey, source(i)).lq.std()) for i in range(60)]
    assert 0.019 < min(stds) < 0.03
    assert 0.09 < max(stds) < 0.105
    assert 0.05 < float(np.mean(stds)) < 0.07


# ---- holes


@given(st.integers(0, 1000))
def test_a_pixel_is_white_or_untouched(seed: int) -> None:
    clean = 0.9 * picture((48, 40), seed)
    lq = Holes()(clean, source(seed)).lq
    holes = (lq == 1).all(0)
    assert holes.any()
    assert not holes.all()
    assert torch.equal(lq[:, ~holes], clean[:, ~holes])
    elsewhere = Holes()(1 - clean.clamp(min=0.1), source(seed)).lq
    assert torch.equal((elsewhere == 1).all(0), holes)


def share(holes: Holes, seeds: int = 20) -> float:
    """Mean part of the picture that is missing."""
    black = torch.zeros(3, 40, 60)
    return sum(float(holes(black, source(seed)).lq.mean()) for seed in range(seeds)) / seeds


def test_more_and_thicker_pieces_hide_more() -> None:
    few, many = Holes(fewest=1, most=1), Holes(fewest=8, most=8)
    assert 0 < 2 * share(few) < share(many) < 0.9
    assert share(few) < share(Holes(fewest=1, most=8)) < share(many)
    thin, thick = Holes(thinnest=0.01, thickest=0.01), Holes(thinnest=0.2, thickest=0.2)
    assert 0 < 4 * share(thin) < share(thick) < 1


# ---- fewer pixels


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(4, 4), (12, 24), (17, 23)])
def test_downscaling_cuts_a_rest_and_divides_both_sides(factor: int, size: tuple[int, int]) -> None:
    clean = picture(size)
    lq, gt, *_ = Downscale(factor=factor)(clean, source())
    height, width = (side // factor * factor for side in size)
    assert torch.equal(gt, clean[:, :height, :width])
    assert lq.shape == (3, height // factor, width // factor)
    torch.testing.assert_close(lq, reduced(gt[None], factor)[0], rtol=0, atol=0)
    assert lq.min() >= 0
    assert lq.max() <= 1


def test_downscaling_does_not_depend_on_the_randomness() -> None:
    first, second = (Downscale()(picture((16, 16)), source(seed)).lq for seed in (1, 2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("size", [(3, 40), (40, 3)])
def test_a_picture_that_has_too_few_pixels_is_an_error(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"a picture of \({size[0]}, {size[1]}\) cannot be reduced 4 times"):
        Downscale(factor=4)(picture(size), source())


# ---- errors


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        (Haze, {"thin": -0.1}, "thin -0.1"),
        (Haze, {"thin": 3.0}, "thin 3.0 and thick 2.5"),
        (Haze, {"thick": math.inf}, "thick inf"),
        (Haze, {"thick": math.nan}, "thick nan"),
        (Haze, {"dim": 0.0}, "dim 0.0"),
        (Haze, {"dim": 1.1}, "dim 1.1"),
        (Haze, {"uneven": -1.0}, "uneven -1.0"),
        (Haze, {"uneven": math.inf}, "uneven inf"),
        (Haze, {"tint": 1.0}, "tint 1.0"),
        (Haze, {"tint": -0.1}, "tint -0.1"),
        (Rain, {"shortest": 0}, "shortest 0 and longest 60: give 1 <= shortest <= longest"),
        (Rain, {"longest": 14}, "shortest 15 and longest 14"),
        (Rain, {"dense": 1.5}, "dense 1.5: give 0 <= sparse <= dense <= 1"),
        (Rain, {"strong": 0.1}, "faint 0.15 and strong 0.1"),
        (Rain, {"slant": -1.0}, "slant -1"),
        (Rain, {"slant": 91.0}, "slant 91"),
        (MotionBlur, {"shortest": -1.0}, "shortest -1"),
        (MotionBlur, {"longest": math.inf}, "longest inf"),
        (MotionBlur, {"longest": math.nan}, "longest nan"),
        (MotionBlur, {"noise": -0.1}, "noise -0.1"),
        (GaussianNoise, {"weakest": 0.5}, "weakest 0.5 and strongest 0.196"),
        (GaussianNoise, {"strongest": 25.0}, "strongest 25: give 0 <= weakest <= strongest <= 1"),
        (Holes, {"fewest": 0}, "fewest 0"),
        (Holes, {"most": 1}, "fewest 2 and most 1"),
        (Holes, {"thickest": 2.0}, "thickest 2"),
        (Downscale, {"factor": 0}, "factor 0"),
        (Downscale, {"factor": 17}, "factor 17"),
    ],
)
def test_values_out_of_range_are_named(
    kind: Callable[..., object], values: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        kind(**values)
    assert "\n" not in str(caught.value)


def test_a_small_picture_gets_a_window_of_the_holes_of_a_large_one() -> None:
    clean = picture((40, 56))
    examples = [Holes(least_side=512)(clean, source(seed)) for seed in range(40)]
    masks = torch.stack([example.guides[0] for example in examples if example.guides is not None])
    assert masks.shape == (40, 40, 56)
    assert masks.any((1, 2)).double().mean() > 0.9
    assert masks.all((1, 2)).any()  # holes may be larger than the window
    large = picture((512, 600))
    assert torch.equal(Holes(least_side=512)(large, source(3)).lq, Holes()(large, source(3)).lq)
