"""Samplers of the library diffusers as solvers."""

from typing import Any

import torch

from refusion.diffusion.sampling import Solver, StepContext
from refusion.diffusion.sde import Batch, MeanRevertingSDE


def scheduler_betas(sde: MeanRevertingSDE) -> list[float]:
    """Return beta_1 ... beta_T of the variance-preserving diffusion of y / lambda."""
    return (1 - (sde.alphas[1:] / sde.alphas[:-1]) ** 2).tolist()


def scheduler_solver(scheduler: Any) -> Solver:
    """Return the rule of a scheduler of `diffusers`, applied to the residual in units of lambda.

    Build the scheduler with `trained_betas=scheduler_betas(sde)`; training time t is its timestep t - 1, and
    its timesteps must be those of the sampling. It draws its own noise, not from `StepContext.sample_noise`.

    Args:
        scheduler: has `config.prediction_type` ("sample", "epsilon" or "v_prediction"), `timesteps` and
            `step(output, timestep, sample).prev_sample`.

    Raises:
        ValueError: raised by the rule at a time that is not among the scheduler's timesteps.
    """

    def solver(step: StepContext) -> Batch:
        if step.t - 1 not in scheduler.timesteps:
            raise ValueError(
                f"the scheduler's timesteps lack {step.t - 1}: give it those of the walk, less 1"
            )
        unit = step.sde.noise_level
        alpha = step.sde.signal(step.t, step.mu)
        clean, noise = (step.x0 - step.mu) / unit, step.noise
        outputs = {
            "sample": clean,
            "epsilon": noise,
            "v_prediction": alpha * noise - torch.sqrt(1 - alpha**2) * clean,
        }
        output = outputs[scheduler.config.prediction_type]
        moved: Batch = scheduler.step(output, step.t - 1, (step.x - step.mu) / unit).prev_sample
        return step.mu + unit * moved

    return solver
