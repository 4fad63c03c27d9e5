"""Losses vanish at the truth, equal the published objective, and train at every time."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from refusion.objective import Compare, diffusion_loss
from refusion.prediction import PREDICTIONS, Clean, Noise, Prediction, ReverseStep
from refusion.schedule import RATES
from refusion.sde import MeanRevertingSDE

LEVEL = 50 / 255
COMPARES: list[Compare] = ["output", "reverse-mean"]
EVERY_TIME = torch.tensor([1, 2, 50, 99, 100])


def pictures(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    x0, mu = torch.rand(2, len(EVERY_TIME), 3, 6, 5, dtype=dtype)
    return x0, mu, torch.randn_like(x0)


def always(output: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda x_t, mu, t: output


@pytest.mark.parametrize("compare", COMPARES)
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_the_loss_is_0_at_the_target_and_only_there(
    sde: MeanRevertingSDE, kind: str, compare: Compare
) -> None:
    prediction, (x0, mu, noise) = PREDICTIONS[kind], pictures()
    target = prediction.target(sde, x0, mu, EVERY_TIME, noise)

    def loss(output: Tensor) -> float:
        return float(diffusion_loss(always(output), sde, prediction, x0, mu, EVERY_TIME, noise, compare))

    assert loss(target) == pytest.approx(0, abs=1e-12)
    for i in range(len(EVERY_TIME)):  # also when only the picture at one of the times is wrong
        off = target.clone()
        off[i] += 0.1
        assert loss(off) > 1e-7


def test_the_network_sees_the_state_the_degraded_picture_and_the_time(
    sde: MeanRevertingSDE,
) -> None:
    x0, mu, noise = pictures(torch.float32)
    seen: list[Tensor] = []

    def network(x_t: Tensor, given: Tensor, t: Tensor) -> Tensor:
        seen.extend([x_t, given, t])
        return torch.zeros_like(x_t)

    diffusion_loss(network, sde, Noise(), x0, mu, EVERY_TIME, noise)
    x_t, given, t = seen
    assert torch.equal(x_t, sde.perturb(x0, mu, EVERY_TIME, noise))
    assert torch.equal(given, mu)
    assert t.dtype == torch.float32
    assert torch.equal(t, EVERY_TIME.float())


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize("t", [1, 2, 50, 100])
def test_reverse_mean_of_a_reverse_step_is_the_published_objective(
    make_sde: Callable[..., MeanRevertingSDE], name: str, t: int
) -> None:
    """L1 between the Euler mean and the optimal reverse state, written out from the tables."""
    x0, mu, noise = pictures()
    output = torch.randn_like(x0)
    theta = RATES[name](torch.arange(101, dtype=torch.float64))
    integral = theta.cumsum(0) - theta[0]
    dt = -math.log(0.005) / integral[-1]
    rate, now, before = theta[t] * dt, integral[t] * dt, integral[t - 1] * dt
    s_t = LEVEL * torch.sqrt(1 - torch.exp(-2 * now))
    y = torch.exp(-now) * (x0 - mu) + s_t * noise
    euler = (1 + rate) * y - 2 * LEVEL**2 * rate / s_t * output
    whole = 1 - torch.exp(-2 * now)
    optimum = torch.exp(-rate) * (1 - torch.exp(-2 * before)) / whole * y
    optimum = optimum + torch.exp(-before) * (1 - torch.exp(-2 * rate)) / whole * (x0 - mu)
    times = torch.full((len(x0),), t)
    loss = diffusion_loss(always(output), make_sde(name), ReverseStep(), x0, mu, times, noise, "reverse-mean")
    assert float(loss) == pytest.approx(float((euler - optimum).abs().mean()), rel=1e-7)


def test_published_objective_against_published_numbers(
    sde: MeanRevertingSDE, golden: dict[str, Tensor]
) -> None:
    """The recorded Euler mean and optimum start from the same state: x0 is what makes it so."""
    x0, mu, xt, output = (golden[key] for key in ("x0", "mu", "xt", "noise"))
    for i, t in enumerate(golden["times"].tolist()):
        euler, optimum = (
            golden[f"cosine_s50_e0.005/{key}"][i] for key in ("reverse_sde_step_mean", "reverse_optimum_step")
        )
        noise = sde.noise_from_clean(xt, x0, mu, t)
        times = torch.full((2,), t)
        loss = diffusion_loss(always(output), sde, ReverseStep(), x0, mu, times, noise, "reverse-mean")
        theirs = float((euler - optimum).abs().mean())
        assert float(loss) == pytest.approx(theirs, abs=3e-4 if t <= 2 else 1e-5)


def test_only_the_published_objective_has_its_minimum_beside_the_noise(
    sde: MeanRevertingSDE,
) -> None:
    x0, mu, noise = pictures()

    def loss(prediction: Prediction) -> float:
        return float(
            diffusion_loss(always(noise), sde, prediction, x0, mu, EVERY_TIME, noise, "reverse-mean")
        )

    assert loss(Noise()) < 1e-12
    assert loss(ReverseStep()) > 1e-4


def test_output_and_reverse_mean_differ_by_a_weight_of_the_time_alone(
    sde: MeanRevertingSDE,
) -> None:
    x0, mu, noise = pictures()
    output = torch.randn_like(x0)
    for t in EVERY_TIME.tolist():
        times = torch.full((len(x0),), t)
        w_0 = float(sde.posterior(t, t - 1, mu)[1])
        plain, reverse = (
            float(diffusion_loss(always(output), sde, Clean(), x0, mu, times, noise, compare))
            for compare in COMPARES
        )
        assert plain == pytest.approx(float((output - (x0 - mu)).abs().mean()))
        assert reverse == pytest.approx(w_0 * plain)
        noisy = float(diffusion_loss(always(output), sde, Noise(), x0, mu, times, noise, "reverse-mean"))
        weight = w_0 * float(sde.stds[t] / sde.alphas[t])
        assert noisy == pytest.approx(weight * float((output - noise).abs().mean()))


class Scale(nn.Module):
    """The smallest network that can be trained."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.3))

    def forward(self, x_t: Tensor, mu: Tensor, t: Tensor) -> Tensor:
        return self.weight * (x_t - mu) + 0.01 * t[:, None, None, None]


@pytest.mark.parametrize("t", [1, 2, 50, 100])
@pytest.mark.parametrize("compare", COMPARES)
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_gradients_are_finite_and_alive_at_both_ends(
    sde: MeanRevertingSDE, kind: str, compare: Compare, t: int
) -> None:
    (x0, mu, noise), network = pictures(torch.float32), Scale()
    times = torch.full((len(x0),), t)
    loss = diffusion_loss(network, sde, PREDICTIONS[kind], x0, mu, times, noise, compare)
    loss.backward()
    gradient = network.weight.grad
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert loss > 0
    assert gradient is not None
    assert gradient.isfinite()
    assert gradient != 0


@pytest.mark.parametrize("compare", COMPARES)
def test_an_output_in_bfloat16_gives_a_loss_in_float32(sde: MeanRevertingSDE, compare: Compare) -> None:
    x0, mu, noise = pictures(torch.float32)
    half = always(noise.bfloat16())
    loss = diffusion_loss(half, sde, Noise(), x0, mu, EVERY_TIME, noise, compare)
    assert loss.dtype == torch.float32
    assert 0 < float(loss) < 0.01
