"""The sliced Wasserstein distance and the spectra: laws, values, and how all measures rank known cases."""

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torch import Tensor, nn

from refusion.evaluation.metrics import psnr
from refusion.evaluation.perceptual import METRICS, without_weights
from refusion.evaluation.spectrum import FLOOR, RINGS, Detail, Spectrum, spectrum
from refusion.evaluation.ssimulacra2 import Ssimulacra2
from refusion.evaluation.wasserstein import (
    COARSEST,
    PATCHES,
    SlicedWasserstein,
    enlarged,
    laplacian,
    sliced_wasserstein,
)

MODULES: list[Callable[[], nn.Module]] = [Ssimulacra2, SlicedWasserstein, Spectrum, Detail]


def photo() -> Tensor:
    return torch.from_numpy(data.astronaut()[:256, 128:384] / 255).permute(2, 0, 1)[None].float()


def grains(seed: int, side: int = 256) -> Tensor:
    """Texture of a size of about two pixels around grey: other grains for another seed."""
    noise = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(seed))
    smooth = blurred(noise, 2)
    return (0.5 + 0.15 * smooth / smooth.std()).clamp(0, 1)


def blurred(x: Tensor, times: int) -> Tensor:
    for dim in (2, 3):
        for _ in range(times):
            x = (x.roll(1, dim) + 2 * x + x.roll(-1, dim)) / 4
    return x


def noisy(x: Tensor, std: float) -> Tensor:
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    return (x + std / 255 * noise).clamp(0, 1)


def jpeg(x: Tensor, quality: int) -> Tensor:
    file = BytesIO()
    pixels = (x[0].permute(1, 2, 0) * 255).round().byte().numpy()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file)) / 255).permute(2, 0, 1)[None].float()


def peak(x: Tensor, y: Tensor) -> float:
    return psnr(x[0].permute(1, 2, 0).numpy(), y[0].permute(1, 2, 0).numpy())


DISTANCES: dict[str, Callable[[Tensor, Tensor], float]] = {
    "ssimulacra2": lambda x, y: 100 - float(Ssimulacra2()(x, y)),
    "swd": lambda x, y: float(SlicedWasserstein()(x, y)),
    "spectrum": lambda x, y: float(Spectrum()(x, y)),
    "detail": lambda x, y: abs(float(Detail()(x, y))),
}


# ---- all of them


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize(
    ("worse", "strengths"), [(blurred, (1, 4, 16)), (noisy, (3, 8, 25)), (jpeg, (80, 40, 10))]
)
def test_what_is_worse_is_farther(
    name: str, worse: Callable[[Tensor, float], Tensor], strengths: tuple[int, ...]
) -> None:
    clean = photo()
    distances = [DISTANCES[name](worse(clean, strength), clean) for strength in strengths]
    assert 0 < distances[0] < distances[1] < distances[2]


@pytest.mark.parametrize("build", MODULES)
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (13, 40), (37, 61), (256, 256)])
def test_equal_pictures_are_so_at_any_size(build: Callable[[], nn.Module], size: tuple[int, int]) -> None:
    for x in (photo()[..., : size[0], : size[1]], torch.zeros(1, 3, *size), torch.ones(1, 3, *size)):
        (value,) = build()(x, x)
        assert float(value) == (100 if build is Ssimulacra2 else 0)
    grey = photo()[..., : size[0], : size[1]].mean(1, keepdim=True).expand(-1, 3, -1, -1)
    assert bool(build()(grey, 1 - grey).isfinite().all())


@pytest.mark.slow
@pytest.mark.parametrize("build", MODULES)
def test_a_batch_is_measured_one_by_one_and_always_alike(build: Callable[[], nn.Module]) -> None:
    clean = torch.cat([photo(), grains(0)])
    worse = noisy(clean, 10)
    together = build()(worse, clean)
    each = torch.cat([build()(worse[i : i + 1], clean[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(together, each, atol=1e-3, rtol=1e-4)
    assert torch.equal(build()(worse, clean), together)


def test_symmetric_are_swd_and_spectrum_and_detail_changes_its_sign() -> None:
    x, y = blurred(photo(), 2), photo()
    assert float(SlicedWasserstein()(x, y)) == pytest.approx(float(SlicedWasserstein()(y, x)), rel=1e-4)
    assert float(Spectrum()(x, y)) == pytest.approx(float(Spectrum()(y, x)))
    assert float(Detail()(x, y)) == pytest.approx(-float(Detail()(y, x)))


def test_the_metrics_without_weights_are_these() -> None:
    assert list(without_weights().distances) == ["ssimulacra2", "swd", "spectrum", "detail"]
    assert [type(METRICS[name].build()) for name in without_weights().distances] == MODULES


# ---- texture, wherever it is


@pytest.mark.parametrize("name", ["swd", "spectrum", "detail"])
@pytest.mark.parametrize(
    "other", [grains(0).roll((5, 3), (2, 3)), grains(1)], ids=["displaced", "drawn anew"]
)
def test_equal_texture_is_near_and_blurred_texture_is_far(name: str, other: Tensor) -> None:
    """PSNR finds the reverse."""
    clean = grains(0)
    smooth = blurred(clean, 3)
    assert peak(other, clean) < peak(smooth, clean) - 3
    assert 2 * DISTANCES[name](other, clean) < DISTANCES[name](smooth, clean)


def test_detail_says_how_much_of_the_power_is_there() -> None:
    noise = 0.1 * torch.randn(1, 3, 64, 64)
    assert float(Detail()(0.5 + noise / 2**0.5, 0.5 + noise)) == pytest.approx(-3.01, abs=0.02)
    assert float(Detail()(blurred(photo(), 1), photo())) < -3
    assert float(Detail()(noisy(photo(), 10), photo())) > 0.5


# ---- the spectrum


def test_white_noise_has_the_spectrum_of_its_variance() -> None:
    noise = 0.1 * torch.randn(1, 1, 256, 200).expand(-1, 3, -1, -1)
    levels = spectrum(0.5 + noise)
    assert levels.shape == (1, RINGS)
    torch.testing.assert_close(levels, torch.full_like(levels, -20.0), atol=2.5, rtol=0)
    assert float(levels.mean()) == pytest.approx(-20, abs=0.2)


def test_a_wave_is_in_the_ring_of_its_frequency() -> None:
    columns = torch.arange(128)
    wave = (0.5 + 0.2 * torch.sin(torch.pi * 12.5 / RINGS * columns)).expand(1, 3, 96, 128)
    levels = spectrum(wave)[0]
    assert int(levels.argmax()) == 12
    rounding = 10 * np.log10(FLOOR)
    assert float(levels[-1]) == pytest.approx(rounding, abs=0.1)


@pytest.mark.parametrize(("ring", "fine"), [(RINGS // 2 - 4, False), (RINGS // 2 + 4, True)])
def test_detail_is_of_the_upper_half_of_the_frequencies(ring: int, fine: bool) -> None:
    clean = 0.5 + 0.02 * torch.randn(1, 3, 96, 128)
    wave = 0.1 * torch.sin(torch.pi * (ring + 0.5) / RINGS * torch.arange(128))
    assert float(Spectrum()(clean + wave, clean)) > 0.3
    assert (float(Detail()(clean + wave, clean)) > 0.3) == fine


# ---- the sliced Wasserstein distance


@pytest.mark.parametrize("size", [(16, 16), (31, 50), (97, 130), (128, 64)])
def test_the_pyramid_has_its_levels_and_adds_up_to_the_picture(size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size)
    levels = laplacian(x)
    assert COARSEST <= min(levels[-1].shape[2:]) < 2 * COARSEST
    assert len(levels) == int(np.log2(min(size) / COARSEST)) + 1
    again = levels[-1]
    for level in levels[-2::-1]:
        again = enlarged(again, level) + level
    torch.testing.assert_close(again, x)


def test_the_finer_levels_of_an_even_picture_are_nothing() -> None:
    *finer, last = laplacian(torch.full((1, 3, 96, 70), 0.3))
    assert all(float(level.abs().max()) < 1e-6 for level in finer)
    torch.testing.assert_close(last, torch.full_like(last, 0.3))


def test_the_distance_of_a_shift_of_all_colours_is_that_of_its_projections() -> None:
    """Pictures of one level: the patches differ by c in every element, |c sum(d)| in a direction d."""
    noise = torch.randn(1, 3, COARSEST, COARSEST)
    shift = 0.01
    both = torch.cat([noise, noise + shift]).unfold(2, 7, 1).unfold(3, 7, 1)
    std = both.transpose(0, 1).flatten(1).std(1)
    directions = torch.randn(20000, 147)
    directions /= directions.norm(dim=1, keepdim=True)
    expected = (directions @ (shift / std).repeat_interleave(49)).abs().mean()
    assert float(SlicedWasserstein()(noise + shift, noise)) == pytest.approx(1000 * float(expected), rel=0.1)


@pytest.mark.slow
def test_sets_are_compared_as_sets() -> None:
    """In any order, of any sizes; a picture whose like is elsewhere in the other set is not missed."""
    pictures = [photo(), grains(0), photo()[..., :100, :130]]
    assert float(sliced_wasserstein(pictures, pictures[::-1])) == pytest.approx(0, abs=1e-4)
    batch = [torch.cat(pictures[:2])]
    assert float(sliced_wasserstein(batch, pictures[1::-1])) == pytest.approx(0, abs=1e-4)
    worse = [blurred(x, 2) for x in pictures]
    assert float(sliced_wasserstein(worse, pictures)) > 10
    one = float(SlicedWasserstein()(worse[0], pictures[0]))
    assert float(sliced_wasserstein(worse[:1], pictures[:1])) == pytest.approx(one)
    with pytest.raises(ValueError, match=f"{2 * PATCHES}"):
        sliced_wasserstein([photo()], [photo(), photo()])
