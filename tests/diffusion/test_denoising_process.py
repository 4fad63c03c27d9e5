"""The process of Gaussian denoising: its laws, and the time of a deviation."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from refusion.diffusion.prediction import PREDICTIONS
from refusion.diffusion.sampling import StepContext, exponential, posterior, sample
from refusion.diffusion.schedule import SCHEDULES, make_alphas
from refusion.diffusion.sde import DenoisingSDE, MeanRevertingSDE

LEVEL = 70 / 255
TABLES = {
    f"{name}, T = {total}": make_alphas(SCHEDULES[name](torch.arange(total + 1, dtype=torch.float64)), delta)
    for name, total, delta in (("linear", 100, 0.005), ("constant", 100, 0.005), ("cosine", 1000, 0.04))
}
ALPHAS = TABLES["cosine, T = 1000"]
SDE = DenoisingSDE(ALPHAS, LEVEL)
DOT = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
every_table = pytest.mark.parametrize("name", TABLES)
steps_down = st.integers(2, 100).flatmap(lambda t: st.tuples(st.just(t), st.integers(0, t - 1)))


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


# ---- where it begins


def test_it_begins_with_the_picture_itself() -> None:
    _, mu, _, noise = draws()
    assert torch.equal(SDE.initial_state(mu, noise), mu)
    assert SDE.needs_noise_std
    with pytest.raises(ValueError, match="sigma is missing") as caught:
        SDE.initial_time(None)
    assert "\n" not in str(caught.value)


@every_table
def test_the_time_of_a_deviation_undoes_the_deviation_of_a_time(name: str) -> None:
    sde = DenoisingSDE(TABLES[name], LEVEL)
    assert [sde.initial_time(float(s)) for s in sde.stds[1:]] == list(range(1, sde.steps + 1))


@given(st.floats(0, LEVEL, exclude_max=True), st.floats(0, LEVEL, exclude_max=True))
@example(0.0, 70 / 255 - 1e-9)
@example(25 / 255, 50 / 255)
def test_more_noise_never_starts_earlier_and_no_time_fits_better(sigma: float, other: float) -> None:
    low, high = sorted((sigma, other))
    assert 1 <= SDE.initial_time(low) <= SDE.initial_time(high) <= SDE.steps
    distance = (-torch.log(1 - (sigma / LEVEL) ** 2 * torch.ones(1)) / 2 + torch.log(SDE.alphas)).abs()
    assert float(distance[SDE.initial_time(sigma)]) <= float(distance[1:].min()) + 1e-6


@pytest.mark.parametrize(
    ("sigma", "said"), [(LEVEL, "0.2745"), (0.5, "0.5"), (-0.01, "-0.01"), (np.nan, "nan")]
)
def test_a_deviation_that_no_time_has_is_one_line(sigma: float, said: str) -> None:
    with pytest.raises(ValueError, match=rf"sigma is {said}: .*0\.2745 \(70/255\)$") as caught:
        SDE.initial_time(sigma)
    assert "\n" not in str(caught.value)


@given(steps_down)
def test_a_step_of_the_sampler_posterior_is_drawn_from_the_posterior(step: tuple[int, int]) -> None:
    (t, r), (x0, mu, x_t, noise) = step, draws()
    moved = posterior()(StepContext(SDE, mu, x_t, t, r, [(t, x0)], lambda: noise))
    mean, deviation = SDE.posterior_mean(x_t, x0, mu, t, r), SDE.posterior(t, r, DOT)[2]
    torch.testing.assert_close(moved, mean + deviation * noise, rtol=0, atol=1e-9)


# ---- walks with an oracle


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
