"""Noise of a sensor, and what JPEG does to it."""

import math

import numpy as np
import pytest
import torch

from refusion.data.camera import MotionBlur, SensorNoise, compressed

DARK, BRIGHT = 0.2, 0.7


def source(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def noise(made: SensorNoise, seed: int = 0, side: int = 96) -> tuple[torch.Tensor, torch.Tensor]:
    """What it adds to a dark and to a bright area."""
    clean = torch.full((3, side, 2 * side), DARK)
    clean[..., side:] = BRIGHT
    dark, bright = (made(clean, source(seed)).lq - clean).split(side, dim=-1)
    return dark, bright


def correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one * other).mean() / (one.std() * other.std()))


def test_the_noise_of_photons_is_the_root_of_light_behind_a_cameras_curve() -> None:
    shot = 1e-4
    photons = SensorNoise(least=shot, most=shot, read=0, smooth=0, jpeg=0)
    exponents = []
    for seed in range(20):
        dark, bright = (float(area.std()) for area in noise(photons, seed))
        exponents.append(2 - 2 * math.log(bright / dark) / math.log(BRIGHT / DARK))
        exponent = exponents[-1]
        assert dark == pytest.approx(math.sqrt(shot) * DARK ** (1 - exponent / 2) / exponent, rel=0.05)
    assert 0.9 < min(exponents) < 1.3
    assert 1.9 < max(exponents) < 2.3


def test_what_the_amplifier_adds_is_seen_in_the_dark() -> None:
    black = torch.zeros(3, 64, 64)
    silent, loud = (SensorNoise(read=read, jpeg=0)(black, source(1)).lq for read in (0, 0.02))
    assert float(silent.max()) == 0
    assert float(loud.mean()) > 0.002


def test_demosaicing_correlates_neighbours_and_colours() -> None:
    sharp, smooth = (
        [noise(SensorNoise(smooth=smooth, shared=0, jpeg=0), seed)[1] for seed in range(20)]
        for smooth in (0, 2)
    )
    neighbours = [[correlation(area[..., 1:], area[..., :-1]) for area in areas] for areas in (sharp, smooth)]
    assert max(map(abs, neighbours[0])) < 0.05
    assert 0.8 < max(neighbours[1]) < 0.98
    assert max(abs(correlation(area[0], area[1])) for area in sharp) < 0.1
    shared = [noise(SensorNoise(smooth=0, shared=0.9, jpeg=0), seed)[1] for seed in range(20)]
    colours = [correlation(area[0], area[1]) for area in shared]
    assert min(colours) < 0.4
    assert 0.7 < max(colours) < 0.93


def test_blur_keeps_the_deviation_of_the_noise() -> None:
    stds = [float(noise(SensorNoise(smooth=s, shared=0, jpeg=0), 3)[1].std()) for s in (0, 1, 2)]
    assert max(stds) / min(stds) < 1.1


def test_jpeg_keeps_even_colours_and_errs_more_the_lower_its_quality() -> None:
    even = torch.tensor([0.2, 0.5, 0.8])[:, None, None].expand(3, 20, 37).contiguous()
    torch.testing.assert_close(compressed(even, 90), even, atol=0.01, rtol=0)
    picture = torch.rand(3, 20, 37)
    errors = [float((compressed(picture, quality) - picture).abs().mean()) for quality in (20, 60, 95)]
    assert errors[0] > errors[1] > errors[2] > 0


def test_half_of_the_shaken_pictures_pass_a_jpeg() -> None:
    clean = torch.rand(3, 24, 24)
    kinds = [MotionBlur(noise=0, jpeg=quality) for quality in (0, 40)]
    changed = [not torch.equal(*(kind(clean, source(seed)).lq for kind in kinds)) for seed in range(60)]
    assert 0.3 < np.mean(changed) < 0.7
