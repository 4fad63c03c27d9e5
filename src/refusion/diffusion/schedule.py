"""Noise schedules, each one decreasing table alpha_0 = 1 ... alpha_T = delta.

The literature's tables follow from it: theta_t dt = log(alpha_{t-1} / alpha_t) and
thetabar_t dt = -log(alpha_t). The tables are float64; `sde` rounds them where it uses them.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float64
from torch import Tensor

Table = Float64[Tensor, " times"]
"""One value for each training time t = 0 ... T."""


def _cosine(t: Table) -> Table:
    f = torch.cos((torch.cat([t, t[-1:] + 1]) / (len(t) + 1) + 0.008) / 1.008 * math.pi / 2) ** 2
    return 1 - f[1:] / f[0]


SCHEDULES: dict[str, Callable[[Table], Table]] = {
    "constant": torch.ones_like,
    "linear": lambda t: 1000 / len(t) * torch.linspace(1e-4, 0.02, len(t), dtype=t.dtype),
    "cosine": _cosine,
}
"""theta_t by the name of the schedule. Cosine rises from 0 to 1: it is not that of DDPM."""


def make_alphas(rates: Table, delta: float = 0.005) -> Table:
    """Return alpha_t = exp(-thetabar_t dt), scaled so that alpha_T = delta (IR-SDE).

    Args:
        rates: theta_0 ... theta_T; theta_0 has no effect, since alpha_0 = 1.
        delta: factor of the clean image's residual at t = T.

    Raises:
        ValueError: delta is not in (0, 1), or T is 0.
    """
    if not 0 < delta < 1 or len(rates) < 2:
        raise ValueError(f"delta {delta} and {len(rates) - 1} steps: give 0 < delta < 1, one step or more")
    integral = rates.cumsum(0) - rates[0]
    return torch.exp(math.log(delta) * integral / integral[-1])


def timesteps(total: int, steps: int, first: int | None = None) -> list[int]:
    """Return `steps` + 1 evenly spaced training times, from the first down to 0.

    Args:
        total: T.
        steps: number of steps of the sampler.
        first: the first time, by default T; a first time below `steps` is also the number of steps.

    Raises:
        ValueError: steps is not in 1 ... T; the network was trained at these times only.
    """
    if not 1 <= steps <= total:
        raise ValueError(f"steps is {steps}: this model was trained with {total}, give 1 to {total}")
    first = total if first is None else first
    count = min(steps, first)
    return [round(first * (count - i) / count) for i in range(count + 1)]
