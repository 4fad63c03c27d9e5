"""The process of Gaussian denoising: its laws, the time of a deviation, and the walk from there."""

import logging
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from refusion.codec import Pixels
from refusion.degradation import estimated_noise
from refusion.prediction import PREDICTIONS, Clean
from refusion.restorer import SAMPLERS, Restorer, Sampling
from refusion.sampling import Step, exponential, posterior, sample
from refusion.schedule import RATES, make_alphas, timesteps
from refusion.sde import DenoisingSDE, MeanRevertingSDE

LEVEL = 70 / 255
TABLES = {
    f"{name}, T = {total}": make_alphas(RATES[name](torch.arange(total + 1, dtype=torch.float64)), delta)
    for name, total, delta in (("linear", 100, 0.005), ("constant", 100, 0.005), ("cosine", 1000, 0.04))
}
ALPHAS = TABLES["cosine, T = 1000"]
SDE = DenoisingSDE(ALPHAS, LEVEL)
DOT = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
every_table = pytest.mark.parametrize("name", TABLES)
steps_down = st.integers(2, 100).flatmap(lambda t: st.tuples(st.just(t), st.integers(0, t - 1)))


class Oracle(nn.Module):
    """Knows the clean picture; remembers when it was asked, and for what."""

    def __init__(self, x0: Tensor) -> None:
        super().__init__()
        self.x0 = nn.Parameter(x0, requires_grad=False)
        self.asked: list[tuple[int, Tensor]] = []

    def embed(self, t: Tensor) -> Tensor:
        return t[:, None]

    def forward(self, x_t: Tensor, mu: Tensor, t: Tensor, embedding: Tensor) -> Tensor:
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


def draws() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A clean picture, two pictures that are given as mean, and noise."""
    x0, mu, other, noise = torch.randn(4, 2, 3, 4, 5, dtype=torch.float64)
    return x0, mu, other, noise


# ---- the process


@every_table
def test_the_picture_stays_and_its_noise_grows_to_nearly_lambda(name: str) -> None:
    sde, (x0, mu, _, noise) = DenoisingSDE(TABLES[name], LEVEL), draws()
    thetabar = -torch.log(TABLES[name])
    for t in (1, 7, 50, sde.steps):
        s = LEVEL * torch.sqrt(1 - torch.exp(-2 * thetabar[t]))
        torch.testing.assert_close(sde.perturb(x0, mu, t, noise), x0 + s * noise, rtol=0, atol=1e-12)
    assert 0.999 * LEVEL < float(sde.stds[-1]) < LEVEL


@every_table
@settings(max_examples=15)
@given(steps_down)
def test_it_is_the_mean_reverting_process_whose_mean_is_the_clean_picture(
    name: str, step: tuple[int, int]
) -> None:
    (t, r), (x0, mu, x_t, noise) = step, draws()
    ours, theirs = DenoisingSDE(TABLES[name], LEVEL), MeanRevertingSDE(TABLES[name], LEVEL)
    close: dict[str, Any] = {"rtol": 0, "atol": 1e-10}
    torch.testing.assert_close(ours.perturb(x0, mu, t, noise), theirs.perturb(x0, x0, t, noise), **close)
    mean = ours.posterior_mean(x_t, x0, mu, t, r)
    torch.testing.assert_close(mean, theirs.posterior_mean(x_t, x0, x0, t, r), **close)
    torch.testing.assert_close(ours.posterior(t, r, DOT)[2], theirs.posterior(t, r, DOT)[2], **close)
    for stochastic in (True, False):
        moved = []
        for sde, origin in ((ours, mu), (theirs, x0)):
            grow, kick = sde.euler(t, r, DOT, stochastic)
            eps = sde.noise_from_clean(x_t, x0, origin, t)
            moved.append(origin + grow * (x_t - origin) - kick * eps)
        torch.testing.assert_close(*moved, **close)


@every_table
@settings(max_examples=15)
@given(steps_down)
def test_who_draws_from_the_posterior_draws_from_the_marginal(name: str, step: tuple[int, int]) -> None:
    sde, (t, r) = DenoisingSDE(TABLES[name], LEVEL), step
    w_t, w_0, std = sde.posterior(t, r, DOT)
    torch.testing.assert_close(w_t + w_0, torch.ones_like(DOT), rtol=0, atol=1e-14)
    variance = w_t**2 * sde.std(t, DOT) ** 2 + std**2
    torch.testing.assert_close(variance, sde.std(r, DOT) ** 2, rtol=1e-10, atol=1e-15)


@given(steps_down)
def test_nothing_depends_on_the_mean(step: tuple[int, int]) -> None:
    (t, r), (x0, mu, other, noise) = step, draws()
    x_t = x0 + 0.1 * noise
    for law in (
        lambda mu: SDE.perturb(x0, mu, t, noise),
        lambda mu: SDE.noise_from_clean(x_t, x0, mu, t),
        lambda mu: SDE.clean_from_noise(x_t, noise, mu, t),
        lambda mu: SDE.posterior_mean(x_t, x0, mu, t, r),
    ):
        torch.testing.assert_close(law(mu), law(other), rtol=0, atol=1e-8)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("t", [1, 20, 1000])
def test_every_meaning_of_an_output_is_read_as_the_clean_picture(prediction: str, t: int) -> None:
    kind, (x0, mu, _, noise) = PREDICTIONS[prediction], draws()
    output = kind.target(SDE, x0, mu, t, noise)
    x_t = SDE.perturb(x0, mu, t, noise)
    torch.testing.assert_close(kind.clean(output, SDE, x_t, mu, t), x0, rtol=0, atol=1e-9)


# ---- the time of a deviation


@every_table
def test_the_time_of_a_deviation_undoes_the_deviation_of_a_time(name: str) -> None:
    sde = DenoisingSDE(TABLES[name], LEVEL)
    assert [sde.time(float(s)) for s in sde.stds[1:]] == list(range(1, sde.steps + 1))


@given(st.floats(0, LEVEL, exclude_max=True), st.floats(0, LEVEL, exclude_max=True))
@example(0.0, 70 / 255 - 1e-9)
@example(25 / 255, 50 / 255)
def test_more_noise_never_starts_earlier_and_no_time_fits_better(sigma: float, other: float) -> None:
    low, high = sorted((sigma, other))
    assert 1 <= SDE.time(low) <= SDE.time(high) <= SDE.steps
    distance = (-torch.log(1 - (sigma / LEVEL) ** 2 * torch.ones(1)) / 2 + torch.log(SDE.alphas)).abs()
    assert float(distance[SDE.time(sigma)]) <= float(distance[1:].min()) + 1e-6


@pytest.mark.parametrize(
    ("sigma", "said"), [(LEVEL, "0.2745"), (0.5, "0.5"), (-0.01, "-0.01"), (np.nan, "nan")]
)
def test_a_deviation_that_no_time_has_is_one_line(sigma: float, said: str) -> None:
    with pytest.raises(
        ValueError, match=rf"sigma is {said}: .* from 0 to below 0\.2745 \(70/255\)"
    ) as caught:
        SDE.time(sigma)
    assert "\n" not in str(caught.value)


@given(steps_down)
def test_a_step_of_the_sampler_posterior_is_drawn_from_the_posterior(step: tuple[int, int]) -> None:
    (t, r), (x0, mu, x_t, noise) = step, draws()
    moved = posterior()(Step(SDE, mu, x_t, t, r, [(t, x0)], lambda: noise))
    mean, deviation = SDE.posterior_mean(x_t, x0, mu, t, r), SDE.posterior(t, r, DOT)[2]
    torch.testing.assert_close(moved, mean + deviation * noise, rtol=0, atol=1e-9)


# ---- the walk


@pytest.mark.parametrize("steps", [1, 3, 100])
def test_the_walk_starts_with_the_picture_where_sigma_says(steps: int) -> None:
    (lq, gt), sigma = noisy(0.1), 0.1
    restore, network = oracle(gt)
    restore(lq, sigma=sigma, steps=steps)
    t, x_t = network.asked[0]
    assert t == SDE.time(sigma)
    assert float(SDE.stds[t]) == pytest.approx(sigma, rel=0.01)
    assert torch.equal(x_t[0], torch.from_numpy(lq).permute(2, 0, 1))
    assert [t for t, _ in network.asked] == timesteps(1000, steps, SDE.time(sigma))[:-1]


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


@pytest.mark.parametrize("rule", [posterior(0), exponential(1), exponential(2), exponential(3)])
def test_with_an_oracle_deterministic_rules_carry_the_noise_unchanged(rule: Any) -> None:
    x0, mu, _, noise = draws()
    start = SDE.perturb(x0, mu, 600, noise)
    for state in sample(lambda x, t: x0, SDE, start, mu, [600, 400, 77, 5, 0], rule, lambda: noise):
        torch.testing.assert_close(state.x, x0 + float(SDE.stds[state.t]) * noise, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rule", [posterior(), posterior(0.5), *(exponential(n, True) for n in (1, 2, 3))])
def test_with_an_oracle_stochastic_rules_visit_the_marginals(rule: Any) -> None:
    x0, mu = torch.rand(2, 1, 3, 100, 100, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)

    def draw() -> Tensor:
        return torch.randn(x0.shape, generator=generator, dtype=torch.float64)

    start, first = SDE.perturb(x0, mu, 600, draw()), draw()
    states = sample(lambda x, t: x0, SDE, start, mu, [600, 400, 77, 20], rule, draw)
    for state in states:
        added = (state.x - x0) / float(SDE.stds[state.t])
        assert float(added.std()) == pytest.approx(1, rel=0.02)
        assert abs(float((added * first).mean())) < 0.03  # of its own noise


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
    states = [next(oracle(gt)[0].trajectory(lq, sigma=25 / 255, seed=seed)).pixels for seed in (0, 0, 1)]
    np.testing.assert_array_equal(states[0], states[1])
    assert np.abs(states[0] - states[2]).max() > 0.01


# ---- what is given and what is estimated


def test_without_sigma_the_noise_is_estimated_and_said(caplog: pytest.LogCaptureFixture) -> None:
    lq, gt = noisy(25 / 255, 64)
    estimate = estimated_noise(torch.from_numpy(lq).permute(2, 0, 1))
    assert estimate == pytest.approx(25 / 255, rel=0.1)
    restore, network = oracle(gt)
    with caplog.at_level(logging.INFO, "refusion"):
        restore(lq)
    assert network.asked[0][0] == SDE.time(estimate)
    assert caplog.messages == [f"noise of {255 * estimate:.1f}/255"]


def test_a_given_sigma_is_not_estimated(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "refusion"):
        oracle(noisy(0.1)[1])[0](noisy(0.1)[0], sigma=0.05)
    assert caplog.messages == []


def test_a_picture_with_more_noise_than_the_model_knows_starts_at_the_end() -> None:
    """An estimate may be wrong, as of a chessboard, and is nobody's mistake; a given sigma is."""
    board = np.indices((16, 16)).sum(0) % 2
    lq = np.repeat(board[..., None].astype(np.float32), 3, -1)
    restore, network = oracle(lq)
    restore(lq)
    assert network.asked[0][0] == SDE.steps
    with pytest.raises(ValueError, match=r"sigma is 0\.3: this model takes noise from 0 to below"):
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
        Sampling(sigma=sigma)


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
    restored = oracle(gt)[0](gt)
    np.testing.assert_allclose(restored.pixels, gt, rtol=0, atol=1e-6)
