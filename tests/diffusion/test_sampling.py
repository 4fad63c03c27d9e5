"""Samplers against exact answers: an oracle, Gaussian data, and the equation's own solution."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from refusion.diffusion.sampling import (
    Denoise,
    Solver,
    State,
    StepContext,
    euler_maruyama,
    exponential,
    posterior,
    sample,
)
from refusion.diffusion.schedule import SCHEDULES, make_alphas, timesteps
from refusion.diffusion.sde import MeanRevertingSDE, NoiseFn

LEVEL = 50 / 255
SDE = MeanRevertingSDE(make_alphas(SCHEDULES["cosine"](torch.arange(101, dtype=torch.float64))), LEVEL)
DETERMINISTIC: dict[str, Solver] = {
    "DDIM": posterior(0),
    "ODE 1": exponential(1),
    "ODE 2": exponential(2),
    "ODE 3": exponential(3),
}
STOCHASTIC: dict[str, Solver] = {
    "eta 0.5": posterior(0.5),
    "posterior": posterior(),
    "SDE 1": exponential(1, stochastic=True),
    "SDE 2": exponential(2, stochastic=True),
    "SDE 3": exponential(3, stochastic=True),
}
FINAL_IS_CLEAN = DETERMINISTIC | STOCHASTIC
EULER = {"Euler-Maruyama": euler_maruyama(), "Euler ODE": euler_maruyama(stochastic=False)}
steps_down = st.integers(2, 100).flatmap(lambda t: st.tuples(st.just(t), st.integers(1, t - 1)))


def source(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> NoiseFn:
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(*(shape or (2, 3, 4, 5)), generator=generator, dtype=dtype)


def silence() -> Tensor:
    return torch.zeros(2, 3, 4, 5, dtype=torch.float64)


def pictures(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    x0, mu = torch.rand(2, 2, 3, 4, 5, dtype=dtype)
    return x0, mu


def walk(
    denoise: Denoise,
    rule: Solver,
    mu: Tensor,
    times: list[int],
    draw: NoiseFn | None = None,
    sde: MeanRevertingSDE = SDE,
) -> list[State]:
    """From pure noise through `times`; the start and the steps take their noise from one source."""
    draw = draw or source(*mu.shape, dtype=mu.dtype)
    return list(sample(denoise, sde, sde.initial_state(mu, draw()), mu, times, rule, draw))


def curved(mu: Tensor) -> Denoise:
    """A denoiser that is no solution of anything, so that nothing agrees by chance."""
    return lambda x, t: mu + 0.4 * torch.tanh(3 * (x - mu) + 0.02 * t)


# An oracle, who always answers with the true picture


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10, 50, 100])
@pytest.mark.parametrize("name", FINAL_IS_CLEAN)
def test_an_oracle_restores_exactly_at_any_number_of_steps(name: str, steps: int) -> None:
    x0, mu = pictures()
    last = walk(lambda x, t: x0, FINAL_IS_CLEAN[name], mu, timesteps(100, steps))[-1]
    assert last.t == 0
    assert torch.equal(last.x, x0)


@pytest.mark.parametrize("steps", [2, 5, 10, 100])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_with_an_oracle_deterministic_rules_carry_the_noise_unchanged(name: str, steps: int) -> None:
    x0, mu = pictures()
    noise = SDE.noise_from_clean(SDE.initial_state(mu, source()()), x0, mu, 100)
    for state in walk(lambda x, t: x0, DETERMINISTIC[name], mu, timesteps(100, steps))[:-1]:
        expected = SDE.perturb(x0, mu, state.t, noise)
        torch.testing.assert_close(state.x, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_with_an_oracle_stochastic_rules_visit_the_marginals(name: str) -> None:
    x0, mu = torch.full((1, 1, 200, 200), 0.8), torch.full((1, 1, 200, 200), 0.3)
    for state in walk(lambda x, t: x0, STOCHASTIC[name], mu, timesteps(100, 6))[:-1]:
        std = float(SDE.stds[state.t])
        mean = 0.3 + float(SDE.alphas[state.t]) * 0.5
        assert float(state.x.mean()) == pytest.approx(mean, abs=5 * std / 200)
        assert float(state.x.std()) == pytest.approx(std, rel=0.02)


@pytest.mark.parametrize(
    ("total", "steps", "grey_levels"), [(100, 100, 0.95), (20, 20, 7.7), (100, 20, 3.86)]
)
def test_the_papers_sampler_leaves_noise_even_with_an_oracle(
    make_sde: Callable[..., MeanRevertingSDE], total: int, steps: int, grey_levels: float
) -> None:
    x0, mu = torch.rand(2, 1, 3, 128, 128, dtype=torch.float64)
    sde = make_sde(total=total)
    last = walk(lambda x, t: x0, euler_maruyama(), mu, timesteps(total, steps), sde=sde)[-1]
    assert float((last.x - x0).std() * 255) == pytest.approx(grey_levels, rel=0.02)


def test_the_papers_ode_step_reaches_the_oracle_only_with_many_steps(
    make_sde: Callable[..., MeanRevertingSDE],
) -> None:
    """Its relative error near t = 0 does not downscale: with constant rates half as much is left
    when four times as many steps are made."""
    x0, mu = pictures()
    left = []
    for total in (100, 400):
        sde = make_sde("constant", total=total)
        times = timesteps(total, total)
        last = walk(lambda x, t: x0, EULER["Euler ODE"], mu, times, sde=sde)[-1]
        left.append(float((last.x - x0).abs().mean()))
    assert left[0] > 1 / 255
    assert left[0] / left[1] == pytest.approx(2, rel=0.1)


# Rules that are the same rule


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (exponential(1), posterior(0)),
        (exponential(1, stochastic=True), posterior(1)),
    ],
    ids=["ODE 1 is DDIM", "SDE 1 is the posterior"],
)
def test_first_order_is_the_eta_family(one: Solver, other: Solver, steps: int) -> None:
    mu = pictures()[1]
    times = timesteps(100, steps)
    pairs = zip(walk(curved(mu), one, mu, times), walk(curved(mu), other, mu, times), strict=True)
    for a, b in pairs:
        assert a.t == b.t
        torch.testing.assert_close(a.x, b.x, rtol=0, atol=1e-11)
        torch.testing.assert_close(a.x0, b.x0, rtol=0, atol=1e-11)


@given(steps_down)
def test_eta_1_draws_from_the_posterior(step: tuple[int, int]) -> None:
    (t, r), draw = step, source()
    (x0, mu), x, z = pictures(), draw(), draw()
    moved = posterior()(StepContext(SDE, mu, x, t, r, [(t, x0)], lambda: z))
    mean, std = SDE.posterior_mean(x, x0, mu, t, r), SDE.posterior(t, r, mu)[2]
    torch.testing.assert_close(moved, mean + std * z, rtol=0, atol=1e-10)


@pytest.mark.parametrize("steps", [5, 100])
@pytest.mark.parametrize("name", FINAL_IS_CLEAN | EULER)
def test_float32_follows_float64(name: str, steps: int) -> None:
    mu, draw, again = pictures()[1], source(), source()
    rule, times = (FINAL_IS_CLEAN | EULER)[name], timesteps(100, steps)
    exact = walk(curved(mu), rule, mu, times, draw)[-1]
    single = walk(curved(mu.float()), rule, mu.float(), times, lambda: again().float())[-1]
    assert single.x.dtype == torch.float32
    torch.testing.assert_close(single.x.double(), exact.x, rtol=0, atol=2e-5)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_no_jump_takes_the_root_of_a_negative_number(eta: float) -> None:
    """In float32 what eta leaves of the noise can vanish at long jumps to small r."""
    (x0, mu), rule = pictures(torch.float32), posterior(eta)
    z = source(dtype=torch.float32)()
    for t in (100, 99, 60, 3, 2):
        for r in range(1, t, max(1, t // 20)):
            assert rule(StepContext(SDE, mu, mu + z, t, r, [(t, x0)], lambda: z)).isfinite().all()


# Gaussian data, where everything is known in closed form


def weights(rule: Solver, t: int, r: int) -> tuple[float, float, float]:
    """The factors of y_t, y_0 and z in y_r; a rule that has seen one time is linear in them."""

    def moved(y: float, y_0: float, z: float) -> float:
        y_t, clean, noise, mu = (
            torch.full((1, 1, 1, 1), v, dtype=torch.float64) for v in (y + 0.3, y_0 + 0.3, z, 0.3)
        )
        return float(rule(StepContext(SDE, mu, y_t, t, r, [(t, clean)], lambda: noise)) - mu)

    assert moved(0, 0, 0) == pytest.approx(0, abs=1e-15)
    return moved(1, 0, 0), moved(0, 1, 0), moved(0, 0, 1)


@pytest.mark.parametrize("name", FINAL_IS_CLEAN)
@settings(max_examples=15)
@given(steps_down)
def test_a_step_takes_the_marginal_at_t_to_the_marginal_at_r(name: str, step: tuple[int, int]) -> None:
    """y_r = A y_t + B y_0 + C z with y_t = alpha_t y_0 + s_t eps: for any law of y_0 the marginal
    at r results when A alpha_t + B = alpha_r and (A s_t)^2 + C^2 = s_r^2."""
    t, r = step
    of_state, of_clean, of_noise = weights(FINAL_IS_CLEAN[name], t, r)
    alpha, s = SDE.alphas.tolist(), SDE.stds.tolist()
    assert of_state * alpha[t] + of_clean == pytest.approx(alpha[r], rel=1e-9)
    assert (of_state * s[t]) ** 2 + of_noise**2 == pytest.approx(s[r] ** 2, rel=1e-9)
    assert (of_noise == 0) == (name in DETERMINISTIC)


@pytest.mark.slow
@pytest.mark.parametrize("eta", [0.0, 0.2, 0.7, 1.0])
@given(steps_down)
def test_eta_scales_the_deviation_of_the_posterior(eta: float, step: tuple[int, int]) -> None:
    deviation = float(SDE.posterior(*step, silence())[2])
    assert weights(posterior(eta), *step)[2] == pytest.approx(eta * deviation, rel=1e-9)


@pytest.mark.parametrize("order", [2, 3])
def test_higher_orders_draw_as_much_noise_as_the_first(order: int) -> None:
    draw = source()
    mu, x, z = draw(), draw(), draw()
    past = [(60, draw()), (80, draw()), (100, draw())]
    rule = exponential(order, stochastic=True)
    noise = rule(StepContext(SDE, mu, x, 60, 40, past, lambda: z))
    noise = noise - rule(StepContext(SDE, mu, x, 60, 40, past, silence))
    torch.testing.assert_close(noise, SDE.posterior(60, 40, mu)[2] * z, rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 3, 10])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_who_samples_clean_pictures_gets_the_law_of_clean_pictures(eta: float, steps: int) -> None:
    """Data y_0 ~ N(m, c^2), answers drawn from p(x0 | x_t): exact at any number of steps."""
    m, c, mu = 0.3, 0.1, torch.full((1, 1, 200, 200), 0.2, dtype=torch.float64)
    draw = source(1, 1, 200, 200)

    def sampler(x: Tensor, t: int) -> Tensor:
        a, s = float(SDE.alphas[t]), float(SDE.stds[t])
        spread = a**2 * c**2 + s**2
        mean = m + a * c**2 / spread * (x - mu - a * m)
        return mu + mean + c * s / math.sqrt(spread) * draw()

    noisy = float(SDE.alphas[100]) * (m + c * draw()) + float(SDE.stds[100]) * draw()
    times = timesteps(100, steps)
    for state in sample(sampler, SDE, mu + noisy, mu, times, posterior(eta), draw):
        a, s = float(SDE.alphas[state.t]), float(SDE.stds[state.t])
        spread = math.sqrt(a**2 * c**2 + s**2)
        assert float((state.x - mu).mean()) == pytest.approx(a * m, abs=5 * spread / 200)
        assert float((state.x - mu).std()) == pytest.approx(spread, rel=0.02)


def expectation(sde: MeanRevertingSDE, mu: Tensor, m: Tensor, c: Tensor) -> Denoise:
    """E[x0 | x_t] for data y_0 ~ N(m, c^2)."""

    def denoise(x: Tensor, t: int) -> Tensor:
        a, s = sde.alphas[t], sde.stds[t]
        return mu + m + a * c**2 / (a**2 * c**2 + s**2) * (x - mu - a * m)

    return denoise


def test_the_mean_of_clean_pictures_needs_many_steps_to_spread_like_them() -> None:
    """One step returns the mean; a hundred return the law of the data."""
    mu, m, c = (torch.full((1, 1, 64, 64), v, dtype=torch.float64) for v in (0.2, 0.3, 0.1))
    for rule in (posterior(0), posterior(1), exponential(2)):
        spread = {
            steps: float(walk(expectation(SDE, mu, m, c), rule, mu, timesteps(100, steps))[-1].x.std())
            for steps in (1, 10, 100)
        }
        assert spread[1] < 0.002 < spread[10] < 0.1
        assert 0.09 < spread[100] < 0.102


# Orders of convergence, on a schedule whose times lie evenly in Lambda = log(alpha / s)


def uniform_in_snr(total: int) -> MeanRevertingSDE:
    """Lambda falls from 2 at t = 1 to 0 at t = total."""
    snr = torch.linspace(2, 0, total, dtype=torch.float64)
    alphas = 1 / torch.sqrt(1 + torch.exp(-2 * snr) / LEVEL**2)
    return MeanRevertingSDE(torch.cat([torch.ones(1, dtype=torch.float64), alphas]), LEVEL)


FINE = uniform_in_snr(65)
SHAPE = (1, 1, 8, 8)
STRIDES = [8, 4, 2, 1]
"""8, 16, 32 and 64 steps from t = 65 to t = 1."""


def gaussian() -> tuple[Tensor, Tensor, Tensor]:
    """mu, and the mean and the deviation of data y_0 ~ N(m, c^2) with its own m and c at each pixel."""
    mu, m = torch.rand(2, *SHAPE, dtype=torch.float64)
    return mu, m, torch.logspace(-1.5, 0, 64, dtype=torch.float64).reshape(SHAPE)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_flow_stretches_gaussian_data_with_its_own_deviation(order: int) -> None:
    """The probability flow in closed form: (y_t - alpha_t m) / sqrt(alpha_t^2 c^2 + s_t^2) stays."""
    mu, m, c = gaussian()
    start = FINE.initial_state(mu, source(*SHAPE)())

    def deviation(t: int) -> Tensor:
        return torch.sqrt(FINE.alphas[t] ** 2 * c**2 + FINE.stds[t] ** 2)

    def exact(t: int) -> Tensor:
        ratio = deviation(t) / deviation(65)
        return mu + FINE.alphas[t] * m + ratio * (start - mu - FINE.alphas[65] * m)

    denoise, left = expectation(FINE, mu, m, c), []
    for stride in STRIDES:
        times = list(range(65, 0, -stride))
        warm = started(exponential(order), order, exact)
        *_, last = sample(denoise, FINE, start, mu, times, warm, silence)
        left.append(float((last.x - exact(1)).abs().max()))
    assert_order(left, order)
    assert left[-1] < {1: 2e-2, 2: 1e-3, 3: 1e-5}[order]


def test_the_mean_of_a_posterior_step_is_exact_for_gaussian_data() -> None:
    """E[y_r | y_t] = w_t y_t + w_0 E[y_0 | y_t], and E[y_0 | y_t] stays along the mean path: without
    noise every step size and order gives the same, (y_t - alpha_t m) alpha_t / variance_t stays."""
    mu, m, c = gaussian()
    start, denoise = FINE.initial_state(mu, source(*SHAPE)()), expectation(FINE, mu, m, c)
    before, after = (FINE.alphas[t] / (FINE.alphas[t] ** 2 * c**2 + FINE.stds[t] ** 2) for t in (65, 1))
    exact = mu + FINE.alphas[1] * m + (start - mu - FINE.alphas[65] * m) * before / after
    for rule in (posterior(1), *(exponential(order, stochastic=True) for order in (1, 2, 3))):
        for times in ([65, 1], [65, 50, 13, 1]):
            *_, last = sample(denoise, FINE, start, mu, times, rule, lambda: torch.zeros_like(mu))
            torch.testing.assert_close(last.x, exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pull", [1, 2])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_answers_on_a_polynomial_are_integrated_exactly_at_any_spacing(order: int, pull: int) -> None:
    """The residual times exp((pull - 1) Lambda) / s moves by the integral of pull exp(pull Lambda)
    q(Lambda), and a rule of order k knows q when it is a polynomial of degree k - 1."""
    rule = exponential(order, stochastic=pull == 2)
    snr = torch.log(FINE.alphas / FINE.stds)
    t, r, mu = 30, 12, torch.rand(*SHAPE, dtype=torch.float64)
    x, curve = mu + torch.rand_like(mu), torch.rand(4, *SHAPE, dtype=torch.float64)

    def moved(degree: int) -> tuple[Tensor, Tensor]:
        def q(at: Tensor) -> Tensor:
            return sum((curve[k] * at**k for k in range(degree + 1)), torch.zeros_like(mu))

        past = [(i, mu + q(snr[i])) for i in (t, 37, 62)]
        ours = rule(StepContext(FINE, mu, x, t, r, past, lambda: torch.zeros_like(mu)))
        grid = torch.linspace(float(snr[t]), float(snr[r]), 201, dtype=torch.float64)
        simpson = torch.tensor([1.0] + [4.0, 2.0] * 99 + [4.0, 1.0], dtype=torch.float64)
        values = torch.stack([pull * torch.exp(pull * at) * q(at) for at in grid])
        integral = torch.tensordot(simpson, values, dims=1) * (grid[1] - grid[0]) / 3
        scale_t, scale_r = (FINE.stds[i] * torch.exp(-(pull - 1) * snr[i]) for i in (t, r))
        return ours, mu + scale_r * ((x - mu) / scale_t + integral)

    ours, exact = moved(order - 1)
    torch.testing.assert_close(ours, exact, rtol=0, atol=1e-9)
    ours, exact = moved(order)
    assert (ours - exact).abs().max() > 1e-3


def two_pictures(sde: MeanRevertingSDE, mu: Tensor, a: Tensor) -> Denoise:
    """E[x0 | x_t] when y_0 is a or -a: as curved as a posterior gets."""

    def denoise(x: Tensor, t: int) -> Tensor:
        return mu + a * torch.tanh(a * sde.alphas[t] * (x - mu) / sde.stds[t] ** 2)

    return denoise


def solution(mu: Tensor, a: Tensor, start: Tensor, pull: int, substeps: int = 4) -> list[Tensor]:
    """States at t = 65 ... 1 of the reverse equation dy = -[theta y + pull lambda^2 theta score] dt:
    the probability flow (pull = 1), or the reverse SDE without its noise (pull = 2).

    With -theta dt = (1 - alpha^2) dLambda it is dy/dLambda = (1 - alpha^2) y - pull (y - alpha y_0);
    solved by the classical Runge-Kutta method.
    """

    def slope(snr: float, y: Tensor) -> Tensor:
        alpha = 1 / math.sqrt(1 + math.exp(-2 * snr) / LEVEL**2)
        s = LEVEL * math.sqrt(1 - alpha**2)
        y_0 = a * torch.tanh(a * alpha * y / s**2)
        return (1 - alpha**2) * y - pull * (y - alpha * y_0)

    y, h, states = start - mu, 2 / 64 / substeps, [start]
    for i in range(64 * substeps):
        snr = i * h
        k1 = slope(snr, y)
        k2 = slope(snr + h / 2, y + h / 2 * k1)
        k3 = slope(snr + h / 2, y + h / 2 * k2)
        k4 = slope(snr + h, y + h * k3)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        if (i + 1) % substeps == 0:
            states.append(mu + y)
    return states


def started(rule: Solver, order: int, exact: Callable[[int], Tensor]) -> Solver:
    """A method of order k needs k - 1 exact steps: without a past its first are of lower order."""
    return lambda step: rule(step) if len(step.past) >= order else exact(step.r)


def assert_order(left: list[float], order: int) -> None:
    slopes = [math.log2(a / b) for a, b in pairwise(left)]
    assert slopes == pytest.approx([order] * len(slopes), abs=0.25), (left, slopes)


@pytest.mark.parametrize(
    ("rule", "order", "pull"),
    [
        pytest.param(posterior(0), 1, 1, id="DDIM"),
        pytest.param(euler_maruyama(stochastic=False), 1, 1, id="Euler ODE"),
        pytest.param(exponential(1), 1, 1, id="ODE 1"),
        pytest.param(exponential(2), 2, 1, id="ODE 2"),
        pytest.param(exponential(3), 3, 1, id="ODE 3"),
        pytest.param(posterior(1), 1, 2, id="posterior"),
        pytest.param(euler_maruyama(), 1, 2, id="Euler-Maruyama"),
        pytest.param(exponential(1, stochastic=True), 1, 2, id="SDE 1"),
        pytest.param(exponential(2, stochastic=True), 2, 2, id="SDE 2"),
        pytest.param(exponential(3, stochastic=True), 3, 2, id="SDE 3"),
    ],
)
def test_rules_converge_with_their_order(rule: Solver, order: int, pull: int) -> None:
    mu = torch.rand(*SHAPE, dtype=torch.float64)
    a = torch.linspace(0.1, 0.3, 64, dtype=torch.float64).reshape(SHAPE)
    start = FINE.initial_state(mu, torch.linspace(0.3, 1, 64, dtype=torch.float64).reshape(SHAPE))
    exact = solution(mu, a, start, pull)
    warm = started(rule, order, lambda t: exact[65 - t])
    left = []
    for stride in STRIDES:
        times = list(range(65, 0, -stride))
        walked = sample(two_pictures(FINE, mu, a), FINE, start, mu, times, warm, lambda: torch.zeros_like(mu))
        *_, last = walked
        assert last.t == 1
        left.append(float((last.x - exact[-1]).abs().mean()))
    assert_order(left, order)


# The generator


def test_a_walk_asks_once_per_step_and_no_earlier_than_its_state_is_wanted() -> None:
    x0, mu = pictures()
    asked: list[int] = []

    def denoise(x: Tensor, t: int) -> Tensor:
        asked.append(t)
        return x0

    states = sample(denoise, SDE, mu, mu, [100, 60, 30, 0], exponential(2), silence)
    assert asked == []
    for visited, reached in zip([[100], [100, 60], [100, 60, 30]], [60, 30, 0], strict=True):
        assert next(states).t == reached
        assert asked == visited
    with pytest.raises(StopIteration):
        next(states)


def test_a_state_holds_the_estimate_that_led_to_it_and_feeds_the_next() -> None:
    mu = pictures()[1]
    seen: list[Tensor] = []

    def denoise(x: Tensor, t: int) -> Tensor:
        seen.append(x)
        return mu + 0.01 * t

    start = mu + 1
    states = list(sample(denoise, SDE, start, mu, [90, 50, 20, 5], posterior(0), silence))
    assert [state.t for state in states] == [50, 20, 5]
    for state, t in zip(states, [90, 50, 20], strict=True):
        assert torch.equal(state.x0, mu + 0.01 * t)
    for x, expected in zip(seen, [start, states[0].x, states[1].x], strict=True):
        assert torch.equal(x, expected)


@pytest.mark.parametrize(
    ("rule", "draws"),
    [
        (posterior(0), 0),
        (posterior(0.5), 3),
        (posterior(1), 3),
        (exponential(2), 0),
        (exponential(1, stochastic=True), 3),
        (exponential(3, stochastic=True), 3),
        (euler_maruyama(), 4),
        (euler_maruyama(stochastic=False), 0),
    ],
)
def test_noise_is_drawn_once_per_noisy_step_and_by_the_papers_also_in_the_last(
    rule: Solver, draws: int
) -> None:
    mu, count = pictures()[1], 0

    def draw() -> Tensor:
        nonlocal count
        count += 1
        return silence()

    list(sample(curved(mu), SDE, mu, mu, timesteps(100, 4), rule, draw))
    assert count == draws


def test_a_rule_of_ones_own_sees_the_last_three_estimates_latest_first() -> None:
    x0, mu = pictures()
    pasts: list[list[int]] = []

    def halve(step: StepContext) -> Tensor:
        pasts.append([t for t, _ in step.past])
        assert torch.equal(step.x0, step.past[0][1])
        noise = SDE.noise_from_clean(step.x, step.x0, step.mu, step.t)
        assert torch.equal(step.noise, noise)
        return step.mu + (step.x - step.mu) / 2

    states = list(sample(lambda x, t: x0, SDE, mu + 1, mu, [100, 80, 50, 20, 0], halve, silence))
    assert pasts == [[100], [80, 100], [50, 80, 100], [20, 50, 80]]
    torch.testing.assert_close(states[-1].x, mu + 1 / 16)


@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan])
def test_an_eta_outside_0_to_1_is_an_error_that_names_it(eta: float) -> None:
    with pytest.raises(ValueError, match=f"eta is {eta}"):
        posterior(eta)


@pytest.mark.parametrize("order", [0, 4])
def test_an_order_there_is_not_is_an_error_that_names_it(order: int) -> None:
    with pytest.raises(ValueError, match=f"order is {order}"):
        exponential(order)


# Published single steps


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(
    ("what", "rule", "noisy"),
    [
        ("reverse_sde_step", euler_maruyama(), True),
        ("reverse_sde_step_mean", euler_maruyama(), False),
        ("reverse_ode_step", euler_maruyama(stochastic=False), False),
        ("reverse_posterior_step", posterior(), True),
        ("posterior_mean", posterior(), False),
        ("reverse_posterior_step", exponential(3, stochastic=True), True),
    ],
)
def test_published_steps_of_a_network_that_predicts_noise(
    make_sde: Callable[..., MeanRevertingSDE],
    golden: dict[str, Tensor],
    name: str,
    what: str,
    rule: Solver,
    noisy: bool,
) -> None:
    sde, (xt, mu, noise, eps) = (
        make_sde(name),
        (golden[key] for key in ("xt", "mu", "noise", "eps")),
    )
    for i, t in enumerate(golden["times"].tolist()):
        x0 = sde.clean_from_noise(xt, noise, mu, t)
        fresh = eps if noisy else torch.zeros_like(eps)
        step = StepContext(sde, mu, xt, t, t - 1, [(t, x0)], fresh.clone)
        theirs = golden[f"{name}_s50_e0.005/{what}"][i]
        torch.testing.assert_close(rule(step), theirs, rtol=0, atol=3e-4 if t <= 2 else 1e-5)
