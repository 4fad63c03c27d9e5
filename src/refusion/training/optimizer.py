"""The optimizer of a recipe and its learning-rate schedule."""

import math
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from refusion.training.recipe import Loop


def make_optimizer(training: Loop, network: nn.Module) -> Optimizer:
    """Return the optimizer that a recipe names, for all weights that require a gradient."""
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    values: dict[str, Any] = {
        "lr": training.learning_rate,
        "betas": training.betas,
        "weight_decay": training.weight_decay,
    }
    if training.optimizer == "lion":
        from pytorch_optimizer import Lion

        return Lion(weights, **values)
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return kinds[training.optimizer](weights, fused=True, **values)


def rate_factor(training: Loop, step: int) -> float:
    """Return the learning-rate schedule at a step, as a factor of `learning_rate`."""
    if step < training.warmup:
        return (step + 1) / training.warmup
    progress = (step - training.warmup) / max(1, training.steps - training.warmup)
    if training.lr_schedule == "cosine":
        floor = training.final_learning_rate / training.learning_rate
        return floor + (1 - floor) * (1 + math.cos(math.pi * min(1.0, progress))) / 2
    if training.lr_schedule == "multistep":
        return training.lr_gamma ** sum(step >= m * training.steps for m in training.milestones)
    return 1.0
