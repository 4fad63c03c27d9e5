"""Fields are smooth and span 0 to 1; outlines are soft, and positions mirrored at both ends."""

import numpy as np
import pytest
import torch

from refusion.data.fields import (
    front_opacity,
    front_picture,
    mirrored_positions,
    smooth_field,
    smooth_relief,
    stretch,
)


def source(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


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
    for seed in range(6):
        field = smooth_field((800, 600), source(seed))
        assert max(float(field.diff(dim=d).abs().max()) for d in (1, 2)) < 0.05


@pytest.mark.parametrize("size", [(1, 1), (1, 20), (17, 23), (200, 100)])
def test_a_relief_has_as_many_bumps_at_every_size(size: tuple[int, int]) -> None:
    """At the corners of a grid of four by four that does not depend on the size."""
    for seed in range(10):
        relief, small = smooth_relief(size, source(seed)), smooth_relief((4, 4), source(seed))
        assert relief.shape == (1, *size)
        assert 0 <= float(relief.min()) <= float(relief.max()) <= 1
        torch.testing.assert_close(relief[0, 0, 0], small[0, 0, 0])
        if min(size) > 1:
            torch.testing.assert_close(relief[0, -1, -1], small[0, -1, -1])


def test_stretching_keeps_the_order_and_a_flat_field_becomes_0() -> None:
    field = torch.from_numpy(source().normal(3, 5, (1, 8, 9))).float()
    stretched = stretch(field)
    assert (float(stretched.min()), float(stretched.max())) == (0, 1)
    assert torch.equal(stretched.flatten().argsort(), field.flatten().argsort())
    assert torch.equal(stretch(torch.full((1, 3, 4), 7.0)), torch.zeros(1, 3, 4))


@pytest.mark.parametrize("size", [(8, 40), (33, 17), (64, 48)])
def test_a_front_is_opaque_within_and_clear_without(size: tuple[int, int]) -> None:
    opacities = torch.stack([front_opacity(size, source(seed)) for seed in range(20)])
    assert opacities.shape == (20, 1, *size)
    assert (float(opacities.min()), float(opacities.max())) == (0, 1)


def test_a_front_is_another_part_of_the_picture_brighter_or_darker() -> None:
    """Of a ramp: its neighbouring columns differ by one step or, where it is mirrored, by none."""
    ramp, gains = torch.linspace(0, 0.5, 51).expand(3, 6, 51), []
    for seed in range(40):
        front = front_picture(ramp, source(seed))
        assert front.shape == ramp.shape
        steps = front.diff(dim=-1).abs()[0, 0]
        gains.append(float(steps.max()) / 0.01)
        assert ((steps - steps.max()).abs().minimum(steps) < 1e-6).all()
        assert not torch.equal(front, ramp)
    assert 0.6 - 1e-4 <= min(gains) < 0.7
    assert 1.3 < max(gains) <= 1.4 + 1e-4


def test_positions_beyond_a_side_are_those_of_its_mirror_images() -> None:
    side = [0, 1, 2, 3]
    whole = mirrored_positions(4, -8, 16).tolist()
    assert whole == (side + side[::-1]) * 3
    assert mirrored_positions(1, -3, 3).tolist() == [0] * 6
