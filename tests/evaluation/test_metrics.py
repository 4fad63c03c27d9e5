"""PSNR, SSIM and luma against scikit-image's, which follow the papers."""

import inspect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from refusion.evaluation import metrics
from refusion.evaluation.metrics import luma, psnr, ssim

SIZES = [(11, 11), (12, 40), (64, 48), (33, 17), (100, 101)]


def two(height: int, width: int, seed: int = 0, noise: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    a = np.stack([x, y, (x + y) / 2], axis=2) * 0.8 + 0.1
    return a, (a + rng.normal(0, noise, a.shape)).clip(0, 1)


def their_ssim(a: np.ndarray, b: np.ndarray) -> float:
    result: float = structural_similarity(
        a,
        b,
        data_range=1,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    return result


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("noise", [0.003, 0.1, 0.5])
@pytest.mark.parametrize("convert", [lambda z: z, luma], ids=["rgb", "y"])
def test_as_in_scikit_image(size: tuple[int, int], noise: float, convert: object) -> None:
    a, b = (convert(z) for z in two(*size, noise=noise))  # type: ignore[operator]
    assert psnr(a, b) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=1), abs=1e-9)
    assert ssim(a, b) == pytest.approx(their_ssim(a, b), abs=1e-5)
    assert ssim(a, b) == pytest.approx(ssim(b, a), abs=1e-6)


@pytest.mark.parametrize("rows", [1, 7, 30, 47])
@pytest.mark.parametrize("convert", [lambda z: z, luma], ids=["rgb", "y"])
def test_blocks_of_rows_change_nothing(rows: int, convert: object, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = (convert(z) for z in two(48, 33))
    whole = psnr(a, b), ssim(a, b)
    monkeypatch.setattr(metrics, "BLOCK", 33 * rows + 5)
    np.testing.assert_allclose((psnr(a, b), ssim(a, b)), whole, rtol=1e-6)


def matlab_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004, equation 13, window by window in float64, on grey levels as published."""
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for x, y in zip(np.moveaxis(255 * a, 2, 0), np.moveaxis(255 * b, 2, 0), strict=True):
        for i, j in np.ndindex(x.shape[0] - 10, x.shape[1] - 10):
            u, v = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            m_u, m_v = (window * u).sum(), (window * v).sum()
            v_u, v_v = (window * (u - m_u) ** 2).sum(), (window * (v - m_v) ** 2).sum()
            cov = (window * (u - m_u) * (v - m_v)).sum()
            top = (2 * m_u * m_v + c1) * (2 * cov + c2)
            values.append(top / ((m_u**2 + m_v**2 + c1) * (v_u + v_v + c2)))
    return float(np.mean(values))


@pytest.mark.parametrize("convert", [lambda z: z, luma], ids=["rgb", "y"])
def test_ssim_is_matlabs(convert: object) -> None:
    """Where the window lies inside the picture, and nowhere else."""
    a, b = (convert(z) for z in two(18, 27, noise=0.15))  # type: ignore[operator]
    b[:5] = a[:5]  # so that the border differs
    expected = matlab_ssim(a, b)
    assert ssim(a, b) == pytest.approx(expected, abs=1e-5)
    map_ = structural_similarity(
        *(a, b),
        **{"data_range": 1, "channel_axis": 2, "gaussian_weights": True, "use_sample_covariance": False},
        full=True,
    )[1]
    assert map_[5:-5, 5:-5].mean() == pytest.approx(expected, abs=1e-9)
    assert abs(map_.mean() - expected) > 1e-3


@pytest.mark.parametrize("level", [0.0, 0.05, 0.95, 1.0])
def test_ssim_is_as_exact_in_the_dark_and_in_the_light(level: float) -> None:
    rng = np.random.default_rng(0)
    a, b = (np.clip(level + rng.normal(0, 0.004, (40, 40, 3)), 0, 1) for _ in range(2))
    assert ssim(a, b) == pytest.approx(their_ssim(a, b), abs=2e-4)


def test_luma_is_matlabs() -> None:
    rgb = np.random.default_rng(0).uniform(0, 1, (7, 9, 3))
    np.testing.assert_allclose(luma(rgb)[..., 0], rgb2ycbcr(rgb)[..., 0] / 255, atol=1e-9)
    ends = luma(np.array([[[0.0, 0, 0], [1, 1, 1]]]))
    np.testing.assert_allclose(ends.ravel() * 255, [16, 235], atol=1e-9)


@given(st.integers(1, 16), st.integers(1, 16), st.integers(0, 9))
def test_equal_pictures_of_every_size(height: int, width: int, seed: int) -> None:
    a, _ = two(height, width, seed)
    assert psnr(a, a.copy()) == float("inf")
    assert ssim(a, a.copy()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (10, 10), (2, 50), (5, 9)])
def test_pictures_under_11_pixels_have_an_ssim(size: tuple[int, int]) -> None:
    a, b = two(*size)
    assert -1 <= ssim(a, b) < 1


@pytest.mark.parametrize("side", [1, 3, 5, 9, 11])
def test_ssim_of_a_single_window_is_its_formula(side: int) -> None:
    a, b = two(side, side)
    bell = np.exp(-((np.arange(side) - side // 2) ** 2) / (2 * 1.5**2))
    weights = np.outer(bell, bell)[..., None] / bell.sum() ** 2

    def mean(z: np.ndarray) -> np.ndarray:
        return (weights * z).sum((0, 1))

    (m_a, m_b), c1, c2 = (mean(a), mean(b)), 0.01**2, 0.03**2
    v_a, v_b, cov = mean((a - m_a) ** 2), mean((b - m_b) ** 2), mean((a - m_a) * (b - m_b))
    each = (2 * m_a * m_b + c1) * (2 * cov + c2) / ((m_a**2 + m_b**2 + c1) * (v_a + v_b + c2))
    assert ssim(a, b) == pytest.approx(each.mean(), abs=1e-5)


def test_one_grey_level_is_48_db() -> None:
    a = np.full((12, 12, 3), 0.5)
    assert psnr(a, a + 1 / 255) == pytest.approx(20 * np.log10(255))


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_other_shapes_are_an_error_that_names_both(measure: object) -> None:
    unchecked = inspect.unwrap(measure)  # type: ignore[arg-type]  # as users have it, without the tests' hook
    with pytest.raises(ValueError, match=r"\(4, 5, 3\) and \(5, 4, 3\)"):
        unchecked(np.zeros((4, 5, 3)), np.zeros((5, 4, 3)))
