"""Noise is estimated by what is left of white noise, and views that are not rectified are found out."""

import numpy as np
import pytest
import skimage.data
import torch
import torch.nn.functional as F
from torch import Tensor

from refusion.data.camera import GaussianNoise
from refusion.data.fields import smooth_field
from refusion.imaging.analysis import estimate_noise_std, vertical_offset


def picture(size: tuple[int, int], seed: int = 0) -> Tensor:
    """Noise in which all values from black to white occur."""
    return torch.from_numpy(np.random.default_rng(seed).uniform(-0.2, 1.2, (3, *size))).float().clamp(0, 1)


def photograph(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).permute(2, 0, 1).float() / 255


def source(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# ---- the noise


def smooth_picture(seed: int) -> Tensor:
    return 0.35 + 0.3 * torch.cat([smooth_field((96, 96), source(seed + i)) for i in range(3)])


@pytest.mark.parametrize("grey_levels", [10, 25, 50])
def test_noise_in_a_smooth_picture_is_estimated(grey_levels: int) -> None:
    std = grey_levels / 255
    for seed in range(3):
        noisy = GaussianNoise(weakest=std, strongest=std)(smooth_picture(seed), source(seed)).lq
        assert estimate_noise_std(noisy) == pytest.approx(std, rel=0.15)


def test_a_smooth_picture_has_hardly_any_noise() -> None:
    assert estimate_noise_std(smooth_picture(0)) < 0.5 / 255
    y, x = torch.meshgrid(torch.linspace(0, 0.5, 31), torch.linspace(0, 0.5, 17), indexing="ij")
    assert estimate_noise_std((y + x).expand(3, -1, -1)) < 1e-6


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1)])
def test_a_picture_of_one_line_has_no_diagonal_differences(size: tuple[int, int]) -> None:
    assert estimate_noise_std(picture(size)) == 0


# ---- the vertical offset


def motorcycle() -> tuple[Tensor, Tensor]:
    left, right, _ = skimage.data.stereo_motorcycle()
    return photograph(left), photograph(right)


@pytest.mark.parametrize("offset", range(-8, 9))
def test_an_offset_is_found_to_a_quarter_pixel(offset: int) -> None:
    left, right = motorcycle()
    left, right = left[:, 8:492], right[:, 8 - offset : 492 - offset]
    assert vertical_offset(left, right) == pytest.approx(offset, abs=0.25)
    assert vertical_offset(left, 0.6 * right + 0.1) == pytest.approx(offset, abs=0.25)
    assert vertical_offset(right, left) == pytest.approx(-offset, abs=0.25)


@pytest.mark.parametrize("offset", [-15, -7, -1, 1, 3, 9])
def test_halves_of_a_pixel_are_found(offset: int) -> None:
    """An odd offset at twice the size."""
    left, right = motorcycle()
    pair = left[:, 16:484], right[:, 16 - offset : 484 - offset]
    found = vertical_offset(*(F.avg_pool2d(z, 2) for z in pair))
    assert found == pytest.approx(offset / 2, abs=0.25)


@pytest.mark.parametrize("size", [(1, 1), (3, 9), (40, 1), (4, 2), (30, 40)])
def test_views_that_tell_nothing_are_not_suspected(size: tuple[int, int]) -> None:
    assert vertical_offset(torch.full((3, *size), 0.3), torch.full((3, *size), 0.3)) == 0
    assert vertical_offset(picture(size), picture(size)) == pytest.approx(0, abs=0.2)


def test_an_offset_beyond_reach_is_large() -> None:
    left, right = motorcycle()
    assert vertical_offset(left[:, :480], right[:, 10:490]) == -10
    assert vertical_offset(left[:, 10:490], right[:, :480]) == 10
    assert abs(vertical_offset(left[:, 20:], right[:, :-20])) > 1
