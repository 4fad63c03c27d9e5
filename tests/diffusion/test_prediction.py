"""Whatever a network predicts, the right output is read as exactly the clean image."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from refusion.diffusion.prediction import PREDICTIONS, Noise, ReverseStep, Velocity
from refusion.diffusion.schedule import SCHEDULES, make_alphas
from refusion.diffusion.sde import MeanRevertingSDE

LEVEL = 50 / 255
SDES = {
    name: MeanRevertingSDE(make_alphas(SCHEDULES[name](torch.arange(101, dtype=torch.float64))), LEVEL)
    for name in SCHEDULES
}
KINDS = list(PREDICTIONS)


def fields(count: int, dtype: torch.dtype = torch.float64, batch: int = 2) -> Tensor:
    return torch.randn(count, batch, 3, 5, 4, dtype=dtype)


def test_the_kinds_a_recipe_may_name() -> None:
    assert KINDS == ["noise", "clean", "velocity", "reverse-step"]


@pytest.mark.parametrize("kind", KINDS)
@given(st.sampled_from(list(SCHEDULES)), st.integers(1, 100))
def test_the_target_is_read_as_x0(kind: str, name: str, t: int) -> None:
    sde, prediction, (x0, mu, noise) = SDES[name], PREDICTIONS[kind], fields(3)
    x_t = sde.perturb(x0, mu, t, noise)
    target = prediction.target(sde, x0, mu, t, noise)
    assert target.isfinite().all()
    torch.testing.assert_close(prediction.clean(target, sde, x_t, mu, t), x0, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("kind", "least", "most"),
    [("noise", 5e-6, 1e-4), ("clean", 0, 1e-6), ("velocity", 0, 3e-6), ("reverse-step", 2e-5, 1e-3)],
)
def test_in_float32_noise_and_reverse_step_lose_digits(kind: str, least: float, most: float) -> None:
    sde, prediction, t = SDES["cosine"], PREDICTIONS[kind], torch.arange(1, 101)
    x0, mu, noise = fields(3, torch.float32, batch=100)
    x_t = sde.perturb(x0, mu, t, noise)
    read = prediction.clean(prediction.target(sde, x0, mu, t, noise), sde, x_t, mu, t)
    assert read.dtype == torch.float32
    assert least <= float((read - x0).abs().max()) <= most


@pytest.mark.parametrize("kind", KINDS)
def test_a_time_for_each_picture_equals_each_alone(kind: str) -> None:
    sde, prediction, t = SDES["cosine"], PREDICTIONS[kind], torch.tensor([1, 100, 42])
    x0, mu, noise = fields(3, batch=3)
    x_t = sde.perturb(x0, mu, t, noise)
    target = prediction.target(sde, x0, mu, t, noise)
    read = prediction.clean(noise, sde, x_t, mu, t)
    for i, t_i in enumerate(t.tolist()):
        x0_i, mu_i, noise_i, x_i = (field[i : i + 1] for field in (x0, mu, noise, x_t))
        assert torch.equal(target[i : i + 1], prediction.target(sde, x0_i, mu_i, t_i, noise_i))
        assert torch.equal(read[i : i + 1], prediction.clean(noise_i, sde, x_i, mu_i, t_i))


@pytest.mark.parametrize("t", [1, 50, 75, 100])
def test_an_error_of_the_output_reaches_x0_with_the_stated_factor(t: int) -> None:
    sde, (x0, mu, noise, error) = SDES["cosine"], fields(4)
    x_t = sde.perturb(x0, mu, t, noise)
    factors = {"noise": -sde.stds[t] / sde.alphas[t], "clean": 1.0, "velocity": -sde.stds[t]}
    for kind, factor in factors.items():
        prediction = PREDICTIONS[kind]
        output = prediction.target(sde, x0, mu, t, noise) + error
        wrong = prediction.clean(output, sde, x_t, mu, t) - x0
        torch.testing.assert_close(wrong, factor * error, rtol=0, atol=1e-10, msg=kind)


def test_noise_prediction_at_the_start_multiplies_errors_by_200_lambda() -> None:
    sde = SDES["cosine"]
    assert float(sde.stds[100] / sde.alphas[100]) == pytest.approx(200 * LEVEL, rel=1e-4)


@given(st.integers(0, 100))
def test_velocity_turns_clean_and_noise_without_changing_their_length(t: int) -> None:
    """(y_t / lambda, v) is (y_0 / lambda, eps) turned by an angle: v is never badly scaled."""
    sde, (x0, mu, noise) = SDES["cosine"], fields(3)
    v = Velocity().target(sde, x0, mu, t, noise)
    state = (sde.perturb(x0, mu, t, noise) - mu) / LEVEL
    clean = (x0 - mu) / LEVEL
    torch.testing.assert_close(state**2 + v**2, clean**2 + noise**2)
    alpha = float(sde.alphas[t])
    torch.testing.assert_close(v, alpha * noise - math.sqrt(1 - alpha**2) * clean)


def published(name: str, t: int) -> tuple[float, float, float, float]:
    """theta_t dt, sigma_t^2 dt / s_t, and the optimal reverse state's weights of y_t and y_0."""
    theta = SCHEDULES[name](torch.arange(101, dtype=torch.float64))
    integral = theta.cumsum(0) - theta[0]
    dt = -math.log(0.005) / float(integral[-1])
    now, before = float(integral[t]) * dt, float(integral[t - 1]) * dt
    rate = float(theta[t]) * dt
    kick = 2 * LEVEL**2 * rate / (LEVEL * math.sqrt(1 - math.exp(-2 * now)))
    whole = 1 - math.exp(-2 * now)
    w_t = math.exp(-rate) * (1 - math.exp(-2 * before)) / whole
    w_0 = math.exp(-before) * (1 - math.exp(-2 * rate)) / whole
    return rate, kick, w_t, w_0


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("t", [1, 2, 50, 90, 100])
def test_reverse_step_solves_the_published_equation(name: str, t: int) -> None:
    sde, (x_t, x0, mu, output, noise) = SDES[name], fields(5)
    rate, kick, w_t, w_0 = published(name, t)
    y = x_t - mu
    read = ReverseStep().clean(output, sde, x_t, mu, t)
    torch.testing.assert_close(read - mu, ((1 + rate - w_t) * y - kick * output) / w_0, rtol=1e-6, atol=1e-8)
    y = sde.perturb(x0, mu, t, noise) - mu
    target = ReverseStep().target(sde, x0, mu, t, noise)
    euler = (1 + rate) * y - kick * target
    torch.testing.assert_close(euler, w_t * y + w_0 * (x0 - mu), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
def test_reverse_step_reads_a_published_step_as_its_optimum(golden: dict[str, Tensor], name: str) -> None:
    """The published Euler mean of an output is the published posterior mean of what we read in it."""
    sde, (xt, mu, output) = SDES[name], (golden[key] for key in ("xt", "mu", "noise"))
    for i, t in enumerate(golden["times"].tolist()):
        read = ReverseStep().clean(output, sde, xt, mu, t)
        mean = sde.posterior_mean(xt, read, mu, t, t - 1)
        theirs = golden[f"{name}_s50_e0.005/reverse_sde_step_mean"][i]
        torch.testing.assert_close(mean, theirs, rtol=0, atol=3e-4 if t <= 2 else 1e-5)


@pytest.mark.parametrize(("t", "grey_levels"), [(50, 1.447), (75, 18.04), (90, 87.17), (100, 251.4)])
def test_reading_the_published_optimum_as_the_noise_leaves_noise_in_x0(t: int, grey_levels: float) -> None:
    """Why `ReverseStep` exists: its bias is mostly noise, and grows with t."""
    sde, (x0, mu, noise) = SDES["cosine"], fields(3, batch=8)
    x_t = sde.perturb(x0, mu, t, noise)
    optimum = ReverseStep().target(sde, x0, mu, t, noise)
    wrong = Noise().clean(optimum, sde, x_t, mu, t) - x0
    sources = torch.stack([noise.flatten(), (x0 - mu).flatten()], dim=1)
    of_noise, of_residual = torch.linalg.lstsq(sources, wrong.flatten()[:, None]).solution
    assert float(of_noise) * 255 == pytest.approx(grey_levels, rel=1e-3)
    assert abs(float(of_residual)) < 0.03
