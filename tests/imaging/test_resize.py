"""A bicubic of known weights, with which even pictures stay even; and pixels that are repeated."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from refusion.imaging.resize import Enlarge, fitted, reduced

FACTORS = [2, 3, 4]


def picture(height: int, width: int) -> Tensor:
    """A batch of two with black and white."""
    return (1.4 * torch.rand(2, 3, height, width) - 0.2).clamp(0, 1)


def cubic(x: Tensor) -> Tensor:
    """Keys (1981), a = -1/2."""
    x = x.abs()
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0))


def by_weights(line: Tensor, size: int) -> Tensor:
    """Resized by the sum of all weights as they are defined, wider where there are fewer pixels."""
    scale = len(line) / size
    distance = (torch.arange(size) + 0.5)[:, None] * scale - (torch.arange(len(line)) + 0.5)
    weights = cubic(distance / max(scale, 1))
    return (weights / weights.sum(1, keepdim=True)) @ line


# ---- laws


RESIZES = [
    resize for f in FACTORS for resize in (Enlarge(f), Enlarge(f, "nearest"), partial(reduced, factor=f))
]


@pytest.mark.parametrize("resize", RESIZES)
def test_even_pictures_stay_even(resize: Callable[[Tensor], Tensor]) -> None:
    for value in (0.0, 0.3, 1.0):
        even = resize(torch.full((1, 3, 12, 24), value))
        torch.testing.assert_close(even, torch.full_like(even, value))


@pytest.mark.parametrize("factor", FACTORS)
def test_both_sides_are_multiplied_or_divided(factor: int) -> None:
    z = picture(12, 24)
    assert Enlarge(factor)(z).shape == Enlarge(factor, "nearest")(z).shape == (2, 3, 12 * factor, 24 * factor)
    assert reduced(z, factor).shape == (2, 3, 12 // factor, 24 // factor)


def test_a_factor_of_1_is_the_identity() -> None:
    z = picture(7, 9)
    assert torch.equal(Enlarge()(z), z)
    assert torch.equal(Enlarge(1, "nearest")(z), z)
    torch.testing.assert_close(reduced(z, 1), z)


@pytest.mark.parametrize("factor", FACTORS)
def test_values_stay_in_range(factor: int) -> None:
    """Where black meets white a bicubic would go beyond."""
    step = torch.zeros(1, 3, 12, 12)
    step[..., 4:] = 1
    for z in (Enlarge(factor)(step), Enlarge(factor)(picture(12, 12)), reduced(picture(24, 24), factor)):
        assert z.min() >= 0
        assert z.max() <= 1


@pytest.mark.parametrize("resize", RESIZES)
def test_turning_commutes(resize: Callable[[Tensor], Tensor]) -> None:
    z = picture(12, 24)
    torch.testing.assert_close(resize(z.rot90(1, (-2, -1))), resize(z).rot90(1, (-2, -1)))


@pytest.mark.parametrize("factor", FACTORS)
def test_nearest_repeats_pixels(factor: int) -> None:
    z = picture(5, 6)
    repeated = z.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
    assert torch.equal(Enlarge(factor, "nearest")(z), repeated)


@pytest.mark.parametrize("factor", FACTORS)
def test_a_rest_is_cut_when_reducing(factor: int) -> None:
    z = picture(12, 24)
    rest = F.pad(z, (0, factor - 1, 0, factor - 1))
    torch.testing.assert_close(reduced(rest, factor), reduced(z, factor), rtol=0, atol=0)


# ---- the weights


@pytest.mark.parametrize("factor", FACTORS)
def test_weights_are_those_of_keys_with_antialiasing(factor: int) -> None:
    line = torch.linspace(0.3, 0.7, 24) + 0.1 * torch.rand(24)
    z = line.expand(1, 3, 24, 24)
    larger, smaller = Enlarge(factor)(z)[0, 0, 0], reduced(z, factor)[0, 0, 0]
    torch.testing.assert_close(larger, by_weights(line, 24 * factor))
    torch.testing.assert_close(smaller, by_weights(line, 24 // factor))


def test_a_line_is_doubled_as_in_matlab() -> None:
    """imresize(line, 2) far from the border: the weights are multiples of 1/128."""
    line = torch.full((11,), 0.5)
    line[5] = 0.9
    doubled = Enlarge(2)(line.expand(1, 3, 11, 11))[0, 0, 0, 6:16]
    weights = torch.tensor([0, -3, -9, 29, 111, 111, 29, -9, -3, 0]) / 128
    torch.testing.assert_close(doubled, 0.5 + 0.4 * weights)


# ---- errors


@pytest.mark.parametrize("factor", [0, -2, 17])
def test_a_factor_out_of_range_is_named(factor: int) -> None:
    with pytest.raises(ValueError, match=f"factor is {factor}: give 1 to 16"):
        Enlarge(factor)


@pytest.mark.parametrize(
    ("size", "side", "expected"), [((8, 20), 10, (4, 10)), ((300, 2), 30, (30, 1)), ((9, 7), 9, (9, 7))]
)
def test_what_is_fitted_has_the_longest_side(
    size: tuple[int, int], side: int, expected: tuple[int, int]
) -> None:
    x = picture(*size)
    assert fitted(x, side).shape[-2:] == expected
    assert fitted(x, 400) is x
