"""Step rules of other libraries."""

from typing import Any

import torch

from refusion.sampling import Rule, Step
from refusion.sde import Batch, MeanRevertingSDE


def scheduler_betas(sde: MeanRevertingSDE) -> list[float]:
    """beta_1 ... beta_T of the variance-preserving diffusion that y / lambda is."""
    return (1 - (sde.alphas[1:] / sde.alphas[:-1]) ** 2).tolist()


def scheduler_rule(scheduler: Any) -> Rule:
    """Step with a scheduler in the style of `diffusers`, which sees the residual in units of lambda.

    Build it with `trained_betas=scheduler_betas(sde)`; training time t is its timestep t - 1, and its
    own timesteps must be those of the walk. Its noise comes from where it takes it, not from `draw`.

    Args:
        scheduler: has `config.prediction_type` ("sample", "epsilon" or "v_prediction"), `timesteps` and
            `step(output, timestep, sample).prev_sample`.

    Raises:
        ValueError: at a step of the walk that the scheduler does not have.
    """

    def rule(step: Step) -> Batch:
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

    return rule
