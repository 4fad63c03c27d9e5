"""Taking noise off: the walk starts with the picture, at the time of its noise, given or estimated."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from refusion.diffusion.prediction import Clean
from refusion.diffusion.sampling import SAMPLERS
from refusion.diffusion.schedule import SCHEDULES, make_alphas, timesteps
from refusion.diffusion.sde import DenoisingSDE, MeanRevertingSDE
from refusion.imaging.analysis import estimate_noise_std
from refusion.nn.network import Network
from refusion.nn.pooling import Pool, whole_mean
from refusion.restoring.codec import Pixels
from refusion.restoring.request import Sampling
from refusion.restoring.restorer import Restorer
from restorers import ask, said

LEVEL = 70 / 255
ALPHAS = make_alphas(SCHEDULES["cosine"](torch.arange(1001, dtype=torch.float64)), 0.04)
SDE = DenoisingSDE(ALPHAS, LEVEL)


class Oracle(Network):
    """Knows the clean picture; remembers when it was asked, and for what."""

    def __init__(self, x0: Tensor) -> None:
        super().__init__()
        self.x0 = nn.Parameter(x0, requires_grad=False)
        self.asked: list[tuple[int, Tensor]] = []

    def embed(self, t: Tensor, condition: Tensor | None = None) -> Tensor:
        return t[:, None]

    def forward(
        self, x_t: Tensor, mu: Tensor, t: Tensor, embedding: Tensor | None = None, pool: Pool = whole_mean
    ) -> Tensor:
        self.asked.append((int(t[0]), x_t))
        return self.x0.expand(x_t.shape) - mu


def noisy(sigma: float, side: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """A smooth picture with and without noise; neither is clipped."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:side, 0:side] / side
    gt = (0.4 + 0.2 * np.stack([x, y, x * y], -1)).astype(np.float32)
    lq = np.clip(gt + sigma * rng.standard_normal(gt.shape), 0, 1).astype(np.float32)
    return lq, gt


def oracle(gt: np.ndarray, sde: DenoisingSDE = SDE) -> tuple[Restorer, Oracle]:
    network = Oracle(torch.from_numpy(gt).permute(2, 0, 1)[None])
    return Restorer(network, Pixels(), sde, Clean(), Sampling(steps=5)), network


# ---- the walk


@pytest.mark.parametrize("steps", [1, 3, 100])
def test_the_walk_starts_with_the_picture_where_sigma_says(steps: int) -> None:
    (lq, gt), sigma = noisy(0.1), 0.1
    restore, network = oracle(gt)
    restore(lq, sigma=sigma, steps=steps)
    t, x_t = network.asked[0]
    assert t == SDE.initial_time(sigma)
    assert float(SDE.stds[t]) == pytest.approx(sigma, rel=0.01)
    assert torch.equal(x_t[0], torch.from_numpy(lq).permute(2, 0, 1))
    assert [t for t, _ in network.asked] == timesteps(1000, steps, SDE.initial_time(sigma))[:-1]


def test_a_higher_sigma_starts_later_and_little_noise_takes_few_steps() -> None:
    lq, gt = noisy(0.1)
    asked = []
    for sigma in (0.0, 10 / 255, 25 / 255, 50 / 255, 69 / 255):
        restore, network = oracle(gt)
        restore(lq, sigma=sigma)
        asked.append([t for t, _ in network.asked])
    starts = [times[0] for times in asked]
    assert starts == sorted(set(starts))
    assert asked[0] == [1]
    assert all(len(times) == 5 for times in asked[1:])


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_with_an_oracle_every_sampler_ends_at_the_clean_picture(sampler: str, steps: int) -> None:
    """The papers' own come as near as their steps allow, and leave the last one's noise."""
    lq, gt = noisy(25 / 255)
    restored = oracle(gt)[0](lq, sigma=25 / 255, sampler=sampler, steps=steps)
    error = np.sqrt(np.mean((restored.pixels - gt) ** 2))
    if "euler" not in sampler:
        assert error < 1e-6
    elif steps == 100:
        assert error < 0.03
    else:
        assert error < 25 / 255 * 1.5


def test_with_an_oracle_the_papers_samplers_come_nearer_with_every_step() -> None:
    lq, gt = noisy(25 / 255)
    errors = [
        np.abs(oracle(gt)[0](lq, sigma=25 / 255, sampler="euler-ode", steps=steps).pixels - gt).mean()
        for steps in (2, 8, 32, 128)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 4


def test_a_seed_is_a_picture() -> None:
    lq, gt = noisy(25 / 255)
    states = [
        ask(oracle(gt)[0], lq, sigma=25 / 255, seed=seed, trajectory=True).trajectory[0].pixels
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(states[0], states[1])
    assert np.abs(states[0] - states[2]).max() > 0.01


# ---- what is given and what is estimated


def test_without_sigma_the_noise_is_estimated_and_said() -> None:
    lq, gt = noisy(25 / 255, 64)
    estimate = estimate_noise_std(torch.from_numpy(lq).permute(2, 0, 1))
    assert estimate == pytest.approx(25 / 255, rel=0.1)
    restore, network = oracle(gt)
    result = ask(restore, lq)
    assert network.asked[0][0] == SDE.initial_time(estimate)
    assert said(result.notices) == [("noise-estimated", "info", [f"{255 * estimate:.1f}", "255"])]


def test_a_given_sigma_is_not_estimated() -> None:
    assert ask(oracle(noisy(0.1)[1])[0], noisy(0.1)[0], sigma=0.05).notices == ()


def test_a_picture_with_more_noise_than_the_model_knows_starts_at_the_end() -> None:
    """An estimate may be wrong, as of a chessboard, and is nobody's mistake; a given sigma is."""
    board = np.indices((16, 16)).sum(0) % 2
    lq = np.repeat(board[..., None].astype(np.float32), 3, -1)
    restore, network = oracle(lq)
    result, most = ask(restore, lq), f"{255 * float(SDE.stds[-1]):.1f}"
    assert network.asked[0][0] == SDE.steps
    above, unchanged = said(result.notices)
    noise = f"{255 * estimate_noise_std(torch.from_numpy(lq).permute(2, 0, 1)):.1f}"
    assert above == ("noise-above-range", "warning", [noise, "255", most, "255"])
    assert float(noise) > float(most)
    assert unchanged[:2] == ("unchanged", "warning")  # an oracle of a chessboard
    with pytest.raises(ValueError, match=r"sigma is 0\.3: .*0\.2745 \(70/255\)$"):
        restore(lq, sigma=0.3)


@pytest.mark.parametrize("sigma", [0.1, 0.0])
def test_sigma_for_another_model_is_an_error(sigma: float) -> None:
    lq, gt = noisy(0.1)
    restore = Restorer(oracle(gt)[1], Pixels(), MeanRevertingSDE(ALPHAS, LEVEL), Clean())
    with pytest.raises(ValueError, match=re.escape(f"sigma is {sigma}: only models of Gaussian denoising")):
        restore(lq, sigma=sigma)
    assert restore(lq).pixels == pytest.approx(gt, abs=1e-5)


@pytest.mark.parametrize("sigma", [25, -0.1, float("nan")])
def test_a_sigma_in_grey_levels_is_an_error_that_says_so(sigma: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"sigma is {sigma}: 25 grey levels are 25/255")):
        oracle(noisy(0.1)[1])[0].request(noisy(0.1)[0], sigma=sigma)


def test_a_batch_is_restored_with_one_sigma_and_never_by_an_estimate() -> None:
    lq, gt = (torch.from_numpy(z).permute(2, 0, 1)[None] for z in noisy(0.1))
    restore, network = oracle(noisy(0.1)[1])
    with pytest.raises(ValueError, match="2 pictures may differ in noise: give sigma") as caught:
        restore.restore_batch(lq.expand(2, -1, -1, -1))
    assert "\n" not in str(caught.value)
    assert network.asked == []
    restored = restore.restore_batch(lq.expand(2, -1, -1, -1), sigma=0.1)
    torch.testing.assert_close(restored, gt.expand(2, -1, -1, -1), rtol=0, atol=1e-6)
    restore.restore_batch(lq)  # of a single one the noise is known


@settings(max_examples=10)
@given(st.integers(1, 9), st.integers(1, 9))
def test_pictures_of_any_size_are_estimated_and_restored(height: int, width: int) -> None:
    gt = np.full((height, width, 3), 0.5, np.float32)
    result = ask(oracle(gt)[0], gt)
    np.testing.assert_allclose(result.image.pixels, gt, rtol=0, atol=1e-6)
    assert [notice.key for notice in result.notices] == ["noise-estimated", "unchanged"]
