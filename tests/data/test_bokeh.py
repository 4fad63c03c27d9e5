"""A lens keeps light and spreads points as far as it should; what stands in front stays sharp."""

import dataclasses
import math
import pickle
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from refusion.data import bokeh as rendering
from refusion.data.bokeh import Bokeh, blur
from refusion.data.degradation import Degradation
from refusion.data.fields import smooth_field
from refusion.imaging.lens import LENSES, Lens

SIZES = [(8, 8), (8, 40), (33, 17), (64, 48)]
CANON, SONY = Lens("Canon", 50, 1.4), Lens("Sony", 50, 1.4)
NUMBERS = {lens.number: lens for lens in LENSES}
SHARP = Bokeh(strength=0)
"""The composition, in focus everywhere."""
lenses, seeds = st.sampled_from(LENSES), st.integers(0, 1000)


def picture(size: tuple[int, int], seed: int = 0) -> Tensor:
    """Noise in which all values from black to white occur."""
    return torch.from_numpy(np.random.default_rng(seed).uniform(-0.2, 1.2, (3, *size))).float().clamp(0, 1)


def photograph(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).permute(2, 0, 1).float() / 255


def source(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def even(radius: float, size: tuple[int, int]) -> Tensor:
    return torch.full((1, *size), float(radius))


def spot(lens: Lens, radius: float, place: tuple[int, int] = (48, 48), side: int = 97) -> Tensor:
    """Light of a dim point out of focus, (side, side)."""
    point = torch.zeros(3, side, side)
    point[:, place[0], place[1]] = 0.85
    light: Tensor = blur(point, lens, even(radius, (side, side)))[0] ** 2.2
    return light


def coordinates(light: Tensor, place: tuple[int, int] = (48, 48)) -> tuple[Tensor, Tensor]:
    """Of each pixel from a place, (y, x)."""
    y, x = torch.meshgrid(*(torch.arange(float(n)) for n in light.shape), indexing="ij")
    return y - place[0], x - place[1]


# ---- laws of the lens


@given(lenses, seeds)
def test_what_is_in_focus_stays(lens: Lens, seed: int) -> None:
    clean = picture((33, 40), seed)
    torch.testing.assert_close(blur(clean, lens, even(0, (33, 40))), clean, rtol=0, atol=1e-5)


@given(lenses, seeds, st.floats(0, 20))
def test_one_colour_stays(lens: Lens, seed: int, radius: float) -> None:
    """Light is kept, near white too."""
    rng = source(seed)
    colour = torch.from_numpy(rng.uniform(0, 1, (3, 1, 1))).float().expand(3, 41, 70)
    out = radius * smooth_field((41, 70), rng)
    torch.testing.assert_close(blur(colour, lens, out), colour, rtol=0, atol=1e-4)


@given(st.sampled_from(list(rendering.ROUNDNESS)), seeds, st.floats(0, 14))
def test_a_lens_whose_barrel_cuts_nothing_keeps_the_sum_of_light(
    maker: str, seed: int, radius: float
) -> None:
    clean = F.pad(0.8 * picture((20, 31), seed), (32, 33, 40, 32))
    blurred = blur(clean, Lens(maker, 50, 16), even(radius, (92, 96)))
    torch.testing.assert_close((blurred**2.2).sum((1, 2)), (clean**2.2).sum((1, 2)), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("radius", "soft"), [(2.5, 0.8), (4.0, 0.8), (7.3, 0.8), (8.0, 0.8), (12.0, 3), (20.0, 6)]
)
def test_a_point_becomes_a_disc_of_its_radius(radius: float, soft: float) -> None:
    """With a soft edge where the resolution is halved."""
    light = spot(Lens("Sony", 50, 16), radius)
    y, x = coordinates(light)
    distance = torch.hypot(y, x)
    inside = light[distance < radius - soft]
    assert light[distance > radius + soft].max() < 0.05 * inside.mean()
    torch.testing.assert_close(inside, inside.mean().expand_as(inside), rtol=0.05, atol=0)
    torch.testing.assert_close(float(light.sum() / inside.mean()), math.pi * radius**2, rtol=0.03, atol=0)


def test_blades_show_in_the_discs_of_one_maker() -> None:
    """The share of the eighth harmonic of the outline."""

    def corners(maker: str) -> float:
        light = spot(Lens(maker, 50, 16), 8.0)
        y, x = coordinates(light)
        weight = light * torch.hypot(y, x) ** 8
        turns = torch.exp(8j * torch.atan2(y, x))
        return abs(complex((weight * turns).sum() / weight.sum()))

    assert corners("Canon") > 0.1
    assert corners("Sony") < 0.02


@pytest.mark.parametrize("maker", ["Canon", "Sony"])
@pytest.mark.parametrize(("down", "right"), [(-1, -1), (-1, 1), (1, -1), (0, 1), (1, 0)])
def test_discs_turn_to_cats_eyes_towards_the_edges(maker: str, down: int, right: int) -> None:
    """Narrower along the way to the centre, cut on the outer side; not when stopped down."""
    place = (48 + 36 * down, 48 + 36 * right)

    def shape(f_number: float) -> tuple[float, float, float]:
        light = spot(Lens(maker, 50, f_number), 6.0, place)
        y, x = coordinates(light, place)
        length = math.hypot(down, right)
        outwards, aside = (y * down + x * right) / length, (x * down - y * right) / length
        centre, total = float((light * outwards).sum() / light.sum()), light.sum()
        along = float((light * (outwards - centre) ** 2).sum() / total)
        return centre, along, float((light * aside**2).sum() / total)

    centre, along, across = shape(1.4)
    assert centre < -0.3
    assert along < 0.9 * across
    centre, along, across = shape(16)
    assert abs(centre) < 0.05
    assert along == pytest.approx(across, rel=0.03)


def test_white_points_shine() -> None:
    """What was clipped is brighter than white: by the gain above the knee."""
    point = torch.zeros(3, 65, 65)
    point[:, 32, 32] = 1
    light = blur(point, Lens("Sony", 50, 16), even(7, (65, 65))) ** 2.2
    expected = rendering.KNEE + rendering.GAIN * (1 - rendering.KNEE)
    assert light.sum((1, 2)).tolist() == pytest.approx([expected] * 3, rel=1e-3)


def test_blur_grows_with_the_radius_without_a_step() -> None:
    """Coarse and fine meet."""
    clean = photograph(skimage.data.chelsea()[:160, :200])
    radii = [0, 0.3, 0.7, 1, 1.5, 2, 4, 7.99, 8.01, 12, 15.99, 16.01, 25]
    blurred = [blur(clean, SONY, even(radius, (160, 200))) for radius in radii]
    detail = [float(z.diff(dim=-1).abs().mean()) for z in blurred]
    assert detail[0] == detail[1]  # too little to show
    assert all(b < a for a, b in pairwise(detail[1:]))
    for i in (7, 10):
        assert float((blurred[i] - blurred[i + 1]).abs().mean()) < 0.004


@pytest.mark.parametrize("largest", [6, 12])
@pytest.mark.parametrize("turned", [False, True])
def test_the_radius_may_differ_over_the_picture(turned: bool, largest: float) -> None:
    """One end in focus, the other not."""
    clean = picture((64, 128))
    out = largest * (torch.arange(128) / 64 - 0.5).clamp(0, 1).expand(1, 64, 128)
    blurred = blur(clean.mT, CANON, out.mT).mT if turned else blur(clean, CANON, out)
    torch.testing.assert_close(blurred[..., :32], clean[..., :32], rtol=0, atol=1e-5)
    detail = blurred.diff(dim=-1).abs().mean((0, 1))
    assert detail[96:].mean() < 0.15 * detail[:32].mean()


def test_the_border_is_mirrored() -> None:
    """A picture beside its mirror images is blurred as they are."""
    clean = picture((64, 64))
    wide = torch.cat([clean.flip(-1), clean, clean.flip(-1)], dim=-1)
    wide = torch.cat([wide.flip(-2), wide, wide.flip(-2)], dim=-2)
    lens = Lens("Canon", 50, 16)
    blurred = blur(wide, lens, even(5, (192, 192)))[:, 64:128, 64:128]
    torch.testing.assert_close(blur(clean, lens, even(5, (64, 64))), blurred, rtol=0, atol=1e-5)


# ---- laws of the pairs


@pytest.mark.parametrize("size", SIZES)
def test_an_example_is_a_function_of_the_picture_and_the_randomness(size: tuple[int, int]) -> None:
    clean = picture(size)
    before = clean.clone()
    first = Bokeh()(clean, source(5))
    torch.manual_seed(99)
    np.random.seed(99)
    again = pickle.loads(pickle.dumps(Bokeh()))(clean, source(5))
    assert torch.equal(again.lq, first.lq)
    assert torch.equal(again.gt, first.gt)
    assert again.condition == first.condition
    assert torch.equal(clean, before)
    assert not torch.equal(Bokeh()(clean, source(6)).lq, first.lq)
    assert isinstance(Bokeh(), Degradation)


@pytest.mark.parametrize("size", SIZES)
def test_examples_stay_in_range(size: tuple[int, int]) -> None:
    for seed in range(10):
        for z in Bokeh()(picture(size, seed), source(seed))[:2]:
            assert z.shape == (3, *size)
            assert z.dtype == torch.float32
            assert z.min() >= 0
            assert z.max() <= 1


@pytest.mark.slow
def test_the_condition_is_what_was_drawn() -> None:
    """Both lenses come from the table, independently; equal ones give equal pictures."""
    clean, drawn = picture((24, 24)), set()
    for seed in range(300):
        lq, gt, (first, second, disparity), _ = Bokeh()(clean, source(seed))
        assert 10 <= disparity <= 90
        assert torch.equal(lq, gt) or first != second
        assert not torch.equal(lq, gt) or abs(first) == abs(second)
        drawn.add((first, second))
    assert {number for number, _ in drawn} == {number for _, number in drawn} == set(NUMBERS)
    assert len(drawn) > 50


def test_lenses_are_drawn_from_those_that_are_named() -> None:
    far, near = Lens("Canon", 85, 16.0), Lens("Sony", 24, 2.0)
    bokeh, clean = Bokeh(sources=(str(far), str(SONY)), targets=(str(near),)), picture((16, 16))
    drawn = {bokeh(clean, source(seed)).condition[:2] for seed in range(20)}
    assert drawn == {(far.number, near.number), (SONY.number, near.number)}


@given(seeds)
def test_the_background_is_the_picture_through_the_lenses_that_the_condition_tells(seed: int) -> None:
    """Without a front, and with one distance."""
    clean, bokeh = picture((40, 30), seed), Bokeh(uneven=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendering, "front_opacity", lambda size, rng: torch.zeros(1, *size))
        lq, gt, (*numbers, disparity), _ = bokeh(clean, source(seed))
    for z, number in zip((lq, gt), numbers, strict=True):
        lens = NUMBERS[number]
        radius = bokeh.radius(lens, even(disparity, (40, 30)))
        torch.testing.assert_close(z, blur(clean, lens, radius), rtol=0, atol=1e-6)


def test_the_radius_grows_with_the_disparity_and_the_aperture() -> None:
    bokeh, disparity = Bokeh(), 90 * smooth_field((9, 8), source())
    whole = bokeh.radius(CANON, disparity)
    torch.testing.assert_close(bokeh.radius(Lens("Sony", 50, 2.8), disparity), whole / 2)
    torch.testing.assert_close(bokeh.radius(Lens("Sony", 100, 1.4), disparity), whole * 2)
    torch.testing.assert_close(bokeh.radius(CANON, disparity / 3), whole / 3)
    assert float(whole.max()) == pytest.approx(0.25 * 90 / 1.4)


def test_distances_differ_as_much_as_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `blur` is asked for: the disparity at most, and at least 1 - uneven of it."""
    radii: list[Tensor] = []
    monkeypatch.setattr(rendering, "blur", lambda z, lens, radius: radii.append(lens.f_number * radius) or z)
    shares = []
    for seed in range(40):
        disparity = Bokeh(strength=1, uneven=0.6)(picture((32, 32)), source(seed)).condition[2]
        torch.testing.assert_close(radii[-2], radii[-1])
        low, high = (float(z) / disparity for z in radii[-1].aminmax())
        assert 0.4 - 1e-5 <= low <= high <= 1 + 1e-5
        shares.append(low)
    assert min(shares) < 0.5
    assert max(shares) > 0.9


def test_the_front_is_sharp_through_every_lens_and_gives_the_background_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A black and a white front differ by its outline: the same in both pictures, soft by a pixel or two."""
    clean, covered, lowest = 0.9 * picture((96, 80)), [], 0
    for seed in range(40):
        black, white = [], []
        for front, examples in ((0.0, black), (1.0, white)):
            monkeypatch.setattr(
                rendering, "front_picture", lambda z, rng, front=front: torch.full_like(z, front)
            )
            examples.extend(Bokeh()(clean, source(seed))[:2])
        matte = white[0] - black[0]
        torch.testing.assert_close(white[1] - black[1], matte, rtol=0, atol=1e-6)
        assert float(((matte > 0.01) & (matte < 0.99)).float().mean()) < 0.12
        covered.append(float(matte.mean()))
        lowest += bool(matte[0, -1].max() > 0.5)
    assert min(covered) > 0
    assert max(covered) < 0.8
    assert 0.1 < sum(covered) / 40 < 0.5
    assert lowest > 20


@pytest.mark.slow
def test_at_f16_the_picture_is_nearly_the_composition() -> None:
    clean = photograph(skimage.data.astronaut()[:192, 100:292])
    for seed in range(40):
        sharp, example = SHARP(clean, source(seed)), Bokeh()(clean, source(seed))
        torch.testing.assert_close(sharp.lq, sharp.gt, rtol=0, atol=0)
        first, second, disparity = example.condition
        for z, number in ((example.lq, first), (example.gt, second)):
            error = float((z - sharp.lq).square().mean().sqrt())
            assert error < 0.03 if abs(number) == 160 else disparity < 30 or error > 0.01


# ---- errors


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"least": -1.0}, "least -1.0"),
        ({"least": 91.0}, "least 91.0, most 90.0"),
        ({"most": math.inf}, "most inf"),
        ({"most": math.nan}, "most nan"),
        ({"strength": -0.1}, "strength -0.1"),
        ({"strength": math.inf}, "strength inf"),
        ({"uneven": 1.1}, "uneven 1.1"),
        ({"uneven": math.nan}, "uneven nan"),
        ({"sources": ()}, "at least one lens"),
        ({"targets": ("Canon50mmf1.4",)}, 'lens "Canon50mmf1.4": expected a name like'),
    ],
)
def test_values_out_of_range_are_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said.replace(".", r"\.")):
        dataclasses.replace(Bokeh(), **values)


def test_the_guide_is_what_stays_as_it_is() -> None:
    """Where it is 1 both lenses give the same; where it is 0, the wider one blurs."""
    sharp, wide = ("Canon50mmf16.0BS",), ("Sony50mmf1.4BS",)
    lq, gt, _, guides = Bokeh(sources=sharp, targets=wide, least=60)(picture((64, 96)), source(3))
    assert guides is not None
    front = (guides[0] == 1).expand(3, -1, -1)
    behind = (guides[0] == 0).expand(3, -1, -1)
    assert front.any()
    assert torch.equal(lq[front], gt[front])
    assert float((lq - gt)[behind].abs().mean()) > 0.1
