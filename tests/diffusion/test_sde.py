"""The process is Gaussian: every formula is checked against the law of Gaussians that it states."""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch import Tensor

from refusion.diffusion.schedule import SCHEDULES, make_alphas
from refusion.diffusion.sde import MeanRevertingSDE

LEVEL = 50 / 255
PROCESSES = {
    name: MeanRevertingSDE(make_alphas(SCHEDULES[name](torch.arange(101, dtype=torch.float64))), LEVEL)
    for name in SCHEDULES
}
DOT = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
schedules = st.sampled_from(list(SCHEDULES))
steps_down = st.integers(1, 100).flatmap(lambda t: st.tuples(st.just(t), st.integers(0, t - 1)))


def fields(count: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, *(shape or (2, 3, 5, 4)), dtype=dtype)


def kernel(sde: MeanRevertingSDE, t: int, r: int) -> tuple[Tensor, Tensor]:
    """y_t given y_r, of the SDE itself: the factor of y_r and the variance."""
    rate = sde.rate(t, r, DOT)
    return torch.exp(-rate), sde.noise_level**2 * (1 - torch.exp(-2 * rate))


@given(schedules, steps_down)
def test_the_marginal_at_r_moved_on_to_t_is_the_marginal_at_t(name: str, step: tuple[int, int]) -> None:
    sde, (t, r) = PROCESSES[name], step
    factor, variance = kernel(sde, t, r)
    torch.testing.assert_close(sde.signal(r, DOT) * factor, sde.signal(t, DOT))
    moved = sde.std(r, DOT) ** 2 * factor**2 + variance
    torch.testing.assert_close(moved, sde.std(t, DOT) ** 2, rtol=1e-10, atol=1e-14)


@given(schedules, st.lists(st.integers(0, 100), min_size=3, max_size=3, unique=True))
def test_chapman_kolmogorov(name: str, times: list[int]) -> None:
    sde, (q, r, t) = PROCESSES[name], sorted(times)
    (first, variance), (second, added) = kernel(sde, r, q), kernel(sde, t, r)
    factor, whole = kernel(sde, t, q)
    torch.testing.assert_close(first * second, factor)
    torch.testing.assert_close(variance * second**2 + added, whole, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("t", [1, 37, 100])
def test_perturb_draws_from_the_marginal(sde: MeanRevertingSDE, t: int) -> None:
    x0, mu = torch.full((1, 1, 300, 300), 0.9), torch.full((1, 1, 300, 300), 0.2)
    x_t = sde.perturb(x0, mu, t, torch.randn_like(x0))
    alpha, std = float(sde.alphas[t]), float(sde.stds[t])
    assert std == pytest.approx(LEVEL * math.sqrt(1 - alpha**2))
    assert float(x_t.mean()) == pytest.approx(0.2 + alpha * 0.7, abs=5 * std / 300)
    assert float(x_t.std()) == pytest.approx(std, rel=0.015)


def test_nothing_is_lost_at_0_and_delta_is_left_at_the_end(sde: MeanRevertingSDE) -> None:
    x0, mu, noise = fields(3)
    assert sde.steps == 100
    torch.testing.assert_close(sde.perturb(x0, mu, 0, noise), x0, rtol=0, atol=1e-15)
    left = sde.perturb(x0, mu, sde.steps, torch.zeros_like(noise)) - mu
    torch.testing.assert_close(left, 0.005 * (x0 - mu))


def test_the_prior_is_the_last_marginal_without_what_delta_leaves(sde: MeanRevertingSDE) -> None:
    mu, noise = fields(2)
    torch.testing.assert_close(sde.initial_state(mu, noise), mu + LEVEL * noise)
    # x0 = mu has no residual; the deviations differ by delta squared
    torch.testing.assert_close(
        sde.initial_state(mu, noise), sde.perturb(mu, mu, 100, noise), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("total", [1, 5, 100])
def test_sampling_starts_at_the_last_time_whatever_the_noise(
    make_sde: Callable[..., MeanRevertingSDE], total: int
) -> None:
    sde = make_sde(total=total)
    assert not sde.needs_noise_std
    assert [sde.initial_time(std) for std in (None, 0.0, 0.1, 1.0)] == [total] * 4


@pytest.mark.parametrize("total", [1, 5, 20])
def test_an_exact_path_visits_the_marginals(make_sde: Callable[..., MeanRevertingSDE], total: int) -> None:
    sde = make_sde("constant", total=total)
    x0, mu = (torch.full((1, 1, 200, 200), v, dtype=torch.float64) for v in (0.9, 0.2))
    path = list(sde.forward(x0, mu, lambda: torch.randn_like(mu)))
    assert len(path) == total + 1
    assert torch.equal(path[0], x0)
    for x, alpha, std in zip(path[1:], sde.alphas[1:].tolist(), sde.stds[1:].tolist(), strict=True):
        assert float(x.mean()) == pytest.approx(0.2 + alpha * 0.7, abs=5 * std / 200)
        assert float(x.std()) == pytest.approx(std, rel=0.02)


def test_a_path_without_noise_decays_exactly_and_under_euler_only_nearly(
    make_sde: Callable[..., MeanRevertingSDE],
) -> None:
    sde, (x0, mu) = make_sde("constant", total=10), fields(2)
    exact, euler = (list(sde.forward(x0, mu, lambda: torch.zeros_like(mu), flag)) for flag in (True, False))
    for t in range(11):
        torch.testing.assert_close(exact[t], mu + sde.alphas[t] * (x0 - mu), rtol=0, atol=1e-12)
        rate = -math.log(0.005) / 10
        torch.testing.assert_close(euler[t], mu + (1 - rate) ** t * (x0 - mu), rtol=0, atol=1e-12)


@given(schedules, st.integers(1, 100))
def test_clean_and_noise_invert_perturb(name: str, t: int) -> None:
    sde, (x0, mu, noise) = PROCESSES[name], fields(3)
    x_t = sde.perturb(x0, mu, t, noise)
    torch.testing.assert_close(sde.clean_from_noise(x_t, noise, mu, t), x0, rtol=0, atol=1e-11)
    torch.testing.assert_close(sde.noise_from_clean(x_t, x0, mu, t), noise, rtol=0, atol=1e-11)


@given(schedules, steps_down)
def test_the_posterior_is_bayes_rule(name: str, step: tuple[int, int]) -> None:
    """p(y_r | y_t, y_0) is proportional to p(y_t | y_r) p(y_r | y_0): precisions add."""
    sde, (t, r) = PROCESSES[name], step
    w_t, w_0, std = sde.posterior(t, r, DOT)
    factor, variance = kernel(sde, t, r)
    prior = sde.std(r, DOT) ** 2
    if r == 0:
        assert w_t == 0
        assert std == 0
        torch.testing.assert_close(w_0, torch.ones_like(w_0), rtol=1e-12, atol=0)
        return
    precision = 1 / prior + factor**2 / variance
    torch.testing.assert_close(std**2, 1 / precision, rtol=1e-9, atol=0)
    torch.testing.assert_close(w_t, factor / variance / precision, rtol=1e-9, atol=0)
    torch.testing.assert_close(w_0, sde.signal(r, DOT) / prior / precision, rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_last_step_is_exactly_x0_without_noise(name: str, dtype: torch.dtype) -> None:
    x_t, x0, mu = fields(3, dtype=dtype)
    mean = PROCESSES[name].posterior_mean(x_t, x0, mu, 1, 0)
    torch.testing.assert_close(mean, x0, rtol=0, atol=4 * torch.finfo(dtype).eps)
    assert PROCESSES[name].posterior(1, 0, mu)[2] == 0


def test_a_time_for_each_picture_equals_each_picture_alone(sde: MeanRevertingSDE) -> None:
    t, r = torch.tensor([100, 1, 50, 7]), torch.tensor([90, 0, 2, 6])
    x0, mu, noise = fields(3, 4, 3, 5, 6)
    x_t = sde.perturb(x0, mu, t, noise)
    batch = {
        "perturb": x_t,
        "clean": sde.clean_from_noise(x_t, noise, mu, t),
        "noise": sde.noise_from_clean(x_t, x0, mu, t),
        "mean": sde.posterior_mean(x_t, x0, mu, t, r),
        "deviation": sde.posterior(t, r, mu)[2],
        "rate": sde.rate(t, r, mu),
    }
    for i, (t_i, r_i) in enumerate(zip(t.tolist(), r.tolist(), strict=True)):
        one = slice(i, i + 1)
        x_i, x0_i, mu_i, noise_i = x_t[one], x0[one], mu[one], noise[one]
        alone = {
            "perturb": sde.perturb(x0_i, mu_i, t_i, noise_i),
            "clean": sde.clean_from_noise(x_i, noise_i, mu_i, t_i),
            "noise": sde.noise_from_clean(x_i, x0_i, mu_i, t_i),
            "mean": sde.posterior_mean(x_i, x0_i, mu_i, t_i, r_i),
            "deviation": sde.posterior(t_i, r_i, mu_i)[2],
            "rate": sde.rate(t_i, r_i, mu_i),
        }
        for what, value in alone.items():
            assert torch.equal(batch[what][one], value), (what, t_i)


def test_a_batch_of_one_keeps_its_shape(sde: MeanRevertingSDE) -> None:
    x0, mu, noise = fields(3, 1, 3, 5, 4)
    assert sde.perturb(x0, mu, torch.tensor([3]), noise).shape == (1, 3, 5, 4)


@pytest.mark.parametrize("t", [1, 2, 50, 100])
def test_float32_is_float64_rounded(sde: MeanRevertingSDE, t: int) -> None:
    x0, mu, noise = torch.rand(3, 2, 3, 5, 4, dtype=torch.float64)
    single = sde.perturb(x0.float(), mu.float(), t, noise.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), sde.perturb(x0, mu, t, noise), rtol=0, atol=3e-7)
    mean = sde.posterior_mean(single, x0.float(), mu.float(), t, t - 1)
    exact = sde.posterior_mean(single.double(), x0, mu, t, t - 1)
    torch.testing.assert_close(mean.double(), exact, rtol=0, atol=3e-7)


@pytest.mark.parametrize("level", [50.0, 1.01, 0.0, -0.1, math.nan])
def test_a_noise_level_in_grey_levels_is_an_error_that_says_what_to_give(level: float) -> None:
    with pytest.raises(ValueError, match=rf"noise_level is {level}: .*50/255"):
        MeanRevertingSDE(PROCESSES["cosine"].alphas, level)


@pytest.mark.parametrize("alphas", [[0.9, 0.5], [1, 0.5, 0.5], [1, 0.4, 0.6], [1, 0.5, 0.0]])
def test_a_table_that_does_not_fall_from_1_is_an_error(alphas: list[float]) -> None:
    with pytest.raises(ValueError, match="fall from exactly 1"):
        MeanRevertingSDE(torch.tensor(alphas, dtype=torch.float64), LEVEL)


def test_a_process_cannot_be_changed(sde: MeanRevertingSDE) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        sde.noise_level = 0.1  # type: ignore[misc]


def test_shapes_are_checked_under_pytest(sde: MeanRevertingSDE) -> None:
    x0, mu, noise = fields(3)
    with pytest.raises(TypeCheckError):
        sde.perturb(x0, mu[:1], 3, noise)


def tolerance(t: int) -> float:
    """Published arithmetic is float32 throughout; ours is better where t is small."""
    return 3e-4 if t <= 2 else 1e-5


@pytest.mark.parametrize("name", SCHEDULES)
def test_published_single_steps(golden: dict[str, Tensor], name: str) -> None:
    sde, setting = PROCESSES[name], f"{name}_s50_e0.005"
    x0, mu, xt, noise = (golden[key] for key in ("x0", "mu", "xt", "noise"))
    cases: list[tuple[int | Tensor, str, int | None]] = [
        (int(t), setting, i) for i, t in enumerate(golden["times"])
    ]
    cases.append((golden["batch_times"], f"{setting}/batch", None))
    for t, key, i in cases:
        estimate = sde.clean_from_noise(xt, noise, mu, t)
        ours = {
            "real_noise": sde.noise_from_clean(xt, x0, mu, t),
            "init_from_noise": estimate,
            "posterior_mean": sde.posterior_mean(xt, estimate, mu, t, t - 1),
            "reverse_optimum_step": sde.posterior_mean(xt, x0, mu, t, t - 1),
            "reverse_optimum_std": sde.posterior(t, t - 1, mu)[2],
        }
        for what, value in ours.items():
            theirs = golden[f"{key}/{what}"] if i is None else golden[f"{key}/{what}"][i]
            allowed = tolerance(2 if isinstance(t, Tensor) else t)
            error = (value.reshape(theirs.shape) - theirs).abs().max()
            assert error <= allowed * max(float(theirs.abs().max()), 1e-3), (what, t)


@pytest.mark.parametrize("name", SCHEDULES)
def test_published_forward_walk(golden: dict[str, Tensor], name: str) -> None:
    x0, mu = golden["x0"], golden["mu"]
    noise = iter(torch.randn(100, *x0.shape, generator=torch.Generator().manual_seed(78)))
    *_, x = PROCESSES[name].forward(x0, mu, lambda: next(noise), exact=False)
    torch.testing.assert_close(x, golden[f"{name}_s50_e0.005/forward"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SCHEDULES)
def test_published_training_states(golden: dict[str, Tensor], name: str) -> None:
    t, noise = golden["random_times"], golden["random_noise"]
    states = PROCESSES[name].perturb(golden["x0"], golden["mu"], t, noise)
    torch.testing.assert_close(states, golden[f"{name}_s50_e0.005/random_states"], rtol=0, atol=1e-6)
