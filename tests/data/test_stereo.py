"""A second view moves things to the left, what is near farther, and keeps rows."""

import numpy as np
import pytest
import skimage.data
import torch
from torch import Tensor

from refusion.data import stereo
from refusion.data.fields import smooth_field
from refusion.data.stereo import parallax, warp
from refusion.imaging.analysis import vertical_offset

SIZES = [(8, 8), (8, 40), (33, 17), (64, 48)]


def picture(size: tuple[int, int], seed: int = 0) -> Tensor:
    """Noise in which all values from black to white occur."""
    return torch.from_numpy(np.random.default_rng(seed).uniform(-0.2, 1.2, (3, *size))).float().clamp(0, 1)


def source(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def even(disparity: float, size: tuple[int, int]) -> Tensor:
    return torch.full((1, *size), float(disparity))


def test_an_even_disparity_is_a_shift() -> None:
    left = picture((12, 30))
    for d in (0, 1, 5):
        right = warp(left, even(d, (12, 30)))
        torch.testing.assert_close(right[..., : 30 - d], left[..., d:], rtol=0, atol=1e-4)
    mirrored = left.flip(-1)[..., 1:6]
    torch.testing.assert_close(right[..., 25:], mirrored, rtol=0, atol=1e-4)


def test_one_colour_looks_the_same_from_everywhere() -> None:
    colour = torch.tensor([0.1, 0.5, 0.9])[:, None, None].expand(3, 12, 30)
    torch.testing.assert_close(warp(colour, 9 * smooth_field((12, 30), source())), colour)


def test_points_move_to_the_left_by_the_disparity(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a ramp, brightness is position. In front and behind: between 0 and the largest, with steps."""
    monkeypatch.setattr(stereo, "front_picture", lambda clean, rng: clean)
    ramp, largest, steps, farthest = torch.linspace(0, 1, 100).expand(3, 60, 100), 12.0, 0, 0.0
    for seed in range(40):
        left, right = parallax(ramp, source(seed), 0.12)
        torch.testing.assert_close(left, ramp)
        d = ((right - left) * 99)[0, :, :85]
        assert d.min() > -0.01
        assert d.max() < largest + 0.01
        assert d.max() > 0.5
        steps += bool(d.diff(dim=1).abs().max() > 1.5)
        farthest = max(farthest, float(d.max()))
    assert steps > 20
    assert farthest > 10


def test_the_front_moves_with_its_outline(monkeypatch: pytest.MonkeyPatch) -> None:
    box = torch.zeros(1, 20, 100)
    box[..., 40:60] = 1
    monkeypatch.setattr(stereo, "front_opacity", lambda size, rng: box)
    monkeypatch.setattr(stereo, "front_picture", lambda clean, rng: clean + 1)
    moved = []
    for seed in range(20):
        left, right = parallax(torch.zeros(3, 20, 100), source(seed), 0.12)
        assert torch.equal(left, box.expand(3, 20, 100))
        x = torch.arange(100) * (right[0] > 0.5)
        moved.append(float(59 - x.amax(1).float().mean()))
    assert 0 < min(moved) < max(moved) < 12
    assert max(moved) > 6


@pytest.mark.parametrize("size", SIZES)
def test_views_are_a_function_of_the_picture_and_the_randomness(size: tuple[int, int]) -> None:
    clean = picture(size)
    views, again = parallax(clean, source(5)), parallax(clean, source(5))
    for z, other in zip(views, again, strict=True):
        assert torch.equal(z, other)
        assert z.shape == clean.shape
        assert z.min() >= 0
        assert z.max() <= 1
    assert not torch.equal(parallax(clean, source(6))[0], views[0])


def test_views_that_are_made_are_rectified() -> None:
    clean = torch.from_numpy(skimage.data.chelsea()[:200, :256]).permute(2, 0, 1).float() / 255
    assert max(abs(vertical_offset(*parallax(clean, source(seed)))) for seed in range(10)) < 0.25
