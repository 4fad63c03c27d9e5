"""Samplers of the reverse process.

`sample` calls `denoise` once per step, and a solver computes the next state from the estimate of x0. A
solver is any function of a `StepContext`; those of a user are used like the ones here.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch

from refusion.diffusion.sde import SDE, Batch, NoiseFn

Denoise = Callable[[Batch, int], Batch]
"""Maps (x_t, t) to an estimate of x0."""


@dataclass(frozen=True)
class StepContext:
    """The input of a solver, which computes the state at time r < t from the state x at time t."""

    sde: SDE
    mu: Batch
    x: Batch
    t: int
    r: int
    past: Sequence[tuple[int, Batch]]
    """Up to three pairs of a time and the estimate of x0 at it, latest first; past[0] is that of t."""
    sample_noise: NoiseFn

    @property
    def x0(self) -> Batch:
        return self.past[0][1]

    @property
    def noise(self) -> Batch:
        """The noise that x0 implies for x."""
        return self.sde.noise_from_clean(self.x, self.x0, self.mu, self.t)


class State(NamedTuple):
    """The state x at time t, and the estimate of x0 that led there."""

    t: int
    x: Batch
    x0: Batch


Solver = Callable[[StepContext], Batch]


def sample(
    denoise: Denoise,
    sde: SDE,
    x: Batch,
    mu: Batch,
    times: Sequence[int],
    solver: Solver,
    sample_noise: NoiseFn,
) -> Iterator[State]:
    """Yield the state after each step, from x, the state at times[0], down to times[-1], usually 0."""
    past: list[tuple[int, Batch]] = []
    for t, r in pairwise(times):
        past = [(t, denoise(x, t)), *past[:2]]
        x = solver(StepContext(sde, mu, x, t, r, past, sample_noise))
        yield State(r, x, past[0][1])


def posterior(eta: float = 1.0) -> Solver:
    """Return the rule of ancestral sampling: eta = 1 draws from p(x_r | x_t, x0), eta = 0 is DDIM.

    y_r = alpha_r y_0 + sqrt(s_r^2 - rho^2) eps + rho z, where rho is eta times the standard deviation of
    the posterior (Song et al., arXiv 2010.02502, equation 12, for the residual). The last step returns x0.

    Raises:
        ValueError: eta is not in [0, 1].
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}: give a number from 0 (deterministic) to 1 (posterior)")

    def solver(step: StepContext) -> Batch:
        if step.r == 0:
            return step.x0
        sde, mu, r = step.sde, step.mu, step.r
        rho = eta * sde.posterior(step.t, r, mu)[2]
        y = sde.signal(r, mu) * (step.x0 - mu) + torch.sqrt(sde.std(r, mu) ** 2 - rho**2) * step.noise
        return mu + (y + rho * step.sample_noise() if eta else y)

    return solver


def exponential(order: int = 2, stochastic: bool = False) -> Solver:
    """Return the rule of a multistep exponential integrator on data prediction.

    DPM-Solver++ (Lu et al., arXiv 2211.01095) and its SDE form (MaRS, arXiv 2502.07856) for the residual:
    the polynomial in Lambda = log(alpha / s) through the last `order` estimates of y_0 is integrated
    exactly. Order 1 is DDIM, its stochastic form the mean-reverting posterior. The last step returns x0.

    Raises:
        ValueError: the order is not 1, 2 or 3.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"order is {order}: give 1, 2 or 3")
    speed = 2 if stochastic else 1

    def solver(step: StepContext) -> Batch:
        if step.r == 0:
            return step.x0
        signal, s = step.sde.signals, step.sde.stds
        snr = torch.log(signal / s).tolist()
        h = snr[step.r] - snr[step.t]
        # i_k: the integral of speed exp(speed (tau - h)) tau^k over tau = 0 ... h
        i0 = -math.expm1(-speed * h)
        i1 = h - i0 / speed
        i2 = h**2 - 2 * i1 / speed
        q = [x0 - step.mu for _, x0 in step.past[:order]]
        gaps = [snr[t] - snr[earlier] for (t, _), (earlier, _) in pairwise(step.past[:order])]
        slopes = [(a - b) / gap for (a, b), gap in zip(pairwise(q), gaps, strict=True)]
        y_0 = i0 * q[0] + (i1 * slopes[0] if slopes else 0)
        if len(slopes) > 1:
            y_0 = y_0 + (i2 + gaps[0] * i1) * (slopes[0] - slopes[1]) / sum(gaps)
        keep = float(s[step.r] / s[step.t]) * math.exp(-(speed - 1) * h)
        y = keep * (step.x - step.mu) + float(signal[step.r]) * y_0
        if stochastic:
            y = y + float(s[step.r]) * math.sqrt(-math.expm1(-2 * h)) * step.sample_noise()
        return step.mu + y

    return solver


def euler_maruyama(stochastic: bool = True) -> Solver:
    """Return the rule of the papers' own sampler (IR-SDE), or of the Euler step of its ODE.

    The stochastic rule adds noise in the last step too, so even a perfect network leaves noise in the
    picture. A step over several training times uses the rate integrated over them.
    """

    def solver(step: StepContext) -> Batch:
        state_coef, noise_coef = step.sde.euler(step.t, step.r, step.mu, stochastic)
        x = step.mu + state_coef * (step.x - step.mu) - noise_coef * step.noise
        if not stochastic:
            return x
        rate = step.sde.rate(step.t, step.r, step.mu)
        return x - step.sde.noise_level * torch.sqrt(2 * rate) * step.sample_noise()

    return solver


SAMPLERS: dict[str, Callable[[float], Solver]] = {
    "posterior": posterior,
    "ode-1": lambda eta: exponential(1),
    "ode-2": lambda eta: exponential(2),
    "ode-3": lambda eta: exponential(3),
    "sde-1": lambda eta: exponential(1, stochastic=True),
    "sde-2": lambda eta: exponential(2, stochastic=True),
    "sde-3": lambda eta: exponential(3, stochastic=True),
    "euler-maruyama": lambda eta: euler_maruyama(),
    "euler-ode": lambda eta: euler_maruyama(stochastic=False),
}
"""Samplers by name. One of your own: `SAMPLERS["mine"] = lambda eta: my_sampler()`."""
