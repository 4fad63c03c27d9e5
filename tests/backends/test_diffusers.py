"""A scheduler that knows nothing of mu and lambda walks as our own rules do."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from refusion.backends.diffusers import scheduler_betas, scheduler_solver
from refusion.diffusion.sampling import Solver, StepContext, exponential, posterior, sample
from refusion.diffusion.schedule import timesteps
from refusion.diffusion.sde import MeanRevertingSDE

KINDS = ["sample", "epsilon", "v_prediction"]


@dataclass
class Moved:
    prev_sample: Tensor


class Ddim:
    """Variance-preserving DDIM (arXiv 2010.02502, equation 12, eta = 0) with the usual surface."""

    def __init__(self, betas: list[float], walk: list[int], prediction_type: str) -> None:
        self.config = SimpleNamespace(prediction_type=prediction_type)
        self.timesteps = walk
        self.products = (1 - torch.tensor(betas, dtype=torch.float64)).cumprod(0)
        self.next = dict(zip(walk, [*walk[1:], None], strict=True))

    def step(self, output: Tensor, timestep: int, sample: Tensor) -> Moved:
        now, after = self.products[timestep], self.next[timestep]
        later = self.products[after] if after is not None else torch.tensor(1.0)
        alpha, sigma = now.sqrt(), (1 - now).sqrt()
        clean, noise = {
            "sample": lambda: (output, (sample - alpha * output) / sigma),
            "epsilon": lambda: ((sample - sigma * output) / alpha, output),
            "v_prediction": lambda: (
                alpha * sample - sigma * output,
                alpha * output + sigma * sample,
            ),
        }[self.config.prediction_type]()
        return Moved(later.sqrt() * clean + (1 - later).sqrt() * noise)


def states(sde: MeanRevertingSDE, rule: Solver, steps: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    mu, start = torch.randn(2, 2, 3, 4, 5, generator=generator, dtype=dtype)

    def denoise(x: Tensor, t: int) -> Tensor:
        moved: Tensor = mu + 0.4 * torch.tanh(3 * (x - mu) + 0.02 * t)
        return moved

    noisy = sde.initial_state(mu, start)
    walk = sample(denoise, sde, noisy, mu, timesteps(sde.steps, steps), rule, start.clone)
    return [state.x for state in walk]


def assert_same_walk(ours: list[Tensor], theirs: list[Tensor], atol: float) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol)


def test_betas_multiply_to_the_squared_alphas(sde: MeanRevertingSDE) -> None:
    betas = torch.tensor(scheduler_betas(sde), dtype=torch.float64)
    assert len(betas) == 100
    assert (betas > 0).all()
    assert (betas < 1).all()
    torch.testing.assert_close((1 - betas).cumprod(0), sde.alphas[1:] ** 2)


@pytest.mark.parametrize("steps", [1, 3, 20])
@pytest.mark.parametrize("kind", KINDS)
def test_a_ddim_scheduler_is_our_ddim(sde: MeanRevertingSDE, kind: str, steps: int) -> None:
    walk = [t - 1 for t in timesteps(100, steps)[:-1]]
    rule = scheduler_solver(Ddim(scheduler_betas(sde), walk, kind))
    ours = states(sde, posterior(0), steps, torch.float64)
    assert_same_walk(states(sde, rule, steps, torch.float64), ours, 1e-5)


def test_an_unknown_kind_of_prediction_is_an_error(sde: MeanRevertingSDE) -> None:
    rule = scheduler_solver(Ddim(scheduler_betas(sde), [99], "flow"))
    with pytest.raises(KeyError, match="flow"):
        states(sde, rule, 1, torch.float64)


def test_a_scheduler_of_another_walk_is_an_error(sde: MeanRevertingSDE) -> None:
    rule = scheduler_solver(Ddim(scheduler_betas(sde), [90, 40], "epsilon"))
    with pytest.raises(ValueError, match="timesteps lack 99"):
        states(sde, rule, 2, torch.float64)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [10, 20])
def test_ddim_of_diffusers_is_our_ddim(sde: MeanRevertingSDE, kind: str, steps: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=100,
        trained_betas=scheduler_betas(sde),
        prediction_type=kind,
        clip_sample=False,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(steps)
    theirs = states(sde, scheduler_solver(scheduler), steps, torch.float64)
    assert_same_walk(theirs, states(sde, posterior(0), steps, torch.float64), 1e-5)


MULTISTEP = {"prediction_type": "sample", "timestep_spacing": "trailing", "final_sigmas_type": "zero"}


class Noisy:
    """A scheduler that takes its noise from where our rules take theirs."""

    def __init__(self, scheduler: Any, step: StepContext) -> None:
        self.scheduler, self.config, self.timesteps = scheduler, scheduler.config, scheduler.timesteps
        self.noise = step.sample_noise()

    def step(self, output: Tensor, timestep: int, sample: Tensor) -> Any:
        return self.scheduler.step(output, timestep, sample, variance_noise=self.noise)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("steps", [5, 10, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dpm_solver_of_diffusers_is_our_exponential(
    sde: MeanRevertingSDE, order: int, stochastic: bool, steps: int, dtype: torch.dtype
) -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DPMSolverMultistepScheduler(
        num_train_timesteps=100,
        trained_betas=scheduler_betas(sde),
        algorithm_type="sde-dpmsolver++" if stochastic else "dpmsolver++",
        solver_order=order,
        solver_type="heun",
        lower_order_final=False,
        **MULTISTEP,
    )
    scheduler.set_timesteps(steps)

    def rule(step: StepContext) -> Tensor:
        return scheduler_solver(Noisy(scheduler, step) if stochastic else scheduler)(step)

    ours = states(sde, exponential(order, stochastic), steps, dtype)
    assert_same_walk(states(sde, rule, steps, dtype), ours, 1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["bh1", "bh2"])
@pytest.mark.parametrize("steps", [6, 10, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unipc_of_diffusers_is_our_exponential_of_order_3(
    sde: MeanRevertingSDE, kind: str, steps: int, dtype: torch.dtype
) -> None:
    """Its predictor, from the third step on: the second is not exact there, and the last divides by 0. (The
    third order of DPM-Solver in diffusers gives the curvature half of its weight.)"""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.UniPCMultistepScheduler(
        num_train_timesteps=100,
        trained_betas=scheduler_betas(sde),
        solver_order=3,
        solver_type=kind,
        lower_order_final=False,
        disable_corrector=list(range(steps)),
        **MULTISTEP,
    )
    scheduler.set_timesteps(steps)
    theirs, own = scheduler_solver(scheduler), exponential(3)

    def rule(step: StepContext) -> Tensor:
        moved = theirs(step) if step.r else None
        return own(step) if moved is None or len(step.past) < 3 else moved

    ours = states(sde, own, steps, dtype)
    assert_same_walk(states(sde, rule, steps, dtype), ours, 1e-5)
    assert (ours[-2] - states(sde, exponential(2), steps, dtype)[-2]).abs().max() > 1e-4
