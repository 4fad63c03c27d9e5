"""The mean-reverting SDE dx = theta_t (mu - x) dt + sigma_t dw (IR-SDE, arXiv 2301.11699), and the
denoising SDE for Gaussian noise.

With sigma_t^2 = 2 lambda^2 theta_t its marginals are exact: the residual y = x - mu obeys
y_t = alpha_t y_0 + s_t eps with s_t = lambda sqrt(1 - alpha_t^2). Images are in [0, 1] and so is lambda.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from refusion.diffusion.schedule import Table

Batch = Float[Tensor, "b c h w"]
"""Pictures or states of equal size."""
Time = int | Int[Tensor, " b"]
"""A training time 0 ... T: one for all pictures of a batch, or one for each."""
NoiseFn = Callable[[], Batch]
"""Returns a fresh field of unit normal noise, shaped like the state."""
Weight = Float[Tensor, "#b 1 1 1"]
"""A factor of states: one for all of a batch, or one for each."""


@dataclass(frozen=True, eq=False)
class SDE(ABC):
    """A process with Gaussian marginals: the residual obeys y_t = signal_t y_0 + s_t eps.

    Args:
        alphas: the schedule, alpha_0 = 1 ... alpha_T = delta.
        noise_level: lambda in units of the image range [0, 1]; the papers' "50" is 50/255.

    Raises:
        ValueError: the noise level is not in (0, 1], or the schedule does not fall from 1.
    """

    alphas: Table
    noise_level: float
    needs_noise_std: ClassVar[bool] = False
    """Whether `initial_time` depends on the noise in the picture."""

    def __post_init__(self) -> None:
        if not 0 < self.noise_level <= 1:
            raise ValueError(f"noise_level is {self.noise_level}: 50 grey levels are 50/255 in [0, 1]")
        if self.alphas[0] != 1 or bool((self.alphas.diff() >= 0).any()) or self.alphas[-1] <= 0:
            raise ValueError("alphas must fall from exactly 1 and stay above 0")

    @property
    @abstractmethod
    def signals(self) -> Table:
        """signal_t, the factor of y_0 in y_t, at t = 0 ... T."""

    @abstractmethod
    def initial_time(self, noise_std: float | None) -> int:
        """Return the time at which sampling starts.

        Args:
            noise_std: standard deviation of the noise in the picture, in [0, 1], where the process needs it.
        """

    @abstractmethod
    def initial_state(self, mu: Batch, noise: Batch) -> Batch:
        """Return the state at which sampling starts.

        Args:
            noise: unit normal.
        """

    @abstractmethod
    def posterior(self, t: Time, r: Time, ref: Batch) -> tuple[Weight, Weight, Weight]:
        """Return the weights of y_t and y_0 in the mean of p(x_r | x_t, x_0), and its standard deviation."""

    @abstractmethod
    def euler(self, t: Time, r: Time, ref: Batch, stochastic: bool = True) -> tuple[Weight, Weight]:
        """Return the weights of y_t and -eps in the mean of the papers' Euler step from t to r.

        Args:
            stochastic: the step is of the reverse SDE; else of its probability-flow ODE.
        """

    @property
    def steps(self) -> int:
        """T, the number of training times."""
        return len(self.alphas) - 1

    @property
    def stds(self) -> Table:
        """s_0 = 0 ... s_T, the standard deviations of the forward marginals (IR-SDE, proposition 3.1)."""
        return self.noise_level * torch.sqrt(1 - self.alphas**2)

    def signal(self, t: Time, ref: Batch) -> Weight:
        """Return signal_t, shaped to multiply `ref`."""
        return _shaped(self.signals[_index(t)], ref)

    def std(self, t: Time, ref: Batch) -> Weight:
        """Return s_t, shaped to multiply `ref`."""
        return _shaped(self.stds[_index(t)], ref)

    def rate(self, t: Time, r: Time, ref: Batch) -> Weight:
        """Return the integral of theta from r to t, theta_t dt if r = t - 1; sigma^2 is 2 lambda^2 of it."""
        return _shaped(torch.log(self.alphas[_index(r)] / self.alphas[_index(t)]), ref)

    def perturb(self, x0: Batch, mu: Batch, t: Time, noise: Batch) -> Batch:
        """Return x_t for x_0 and unit normal noise (IR-SDE, proposition 3.1); exact for every t."""
        return mu + self.signal(t, mu) * (x0 - mu) + self.std(t, mu) * noise

    def noise_from_clean(self, x_t: Batch, x0: Batch, mu: Batch, t: Time) -> Batch:
        """Return the noise with which perturb(x0, mu, t, noise) = x_t; undefined at t = 0."""
        return (x_t - mu - self.signal(t, mu) * (x0 - mu)) / self.std(t, mu)

    def clean_from_noise(self, x_t: Batch, noise: Batch, mu: Batch, t: Time) -> Batch:
        """Return the x0 with which perturb(x0, mu, t, noise) = x_t; errors grow by s_t / signal_t."""
        return mu + (x_t - mu - self.std(t, mu) * noise) / self.signal(t, mu)

    def posterior_mean(self, x_t: Batch, x0: Batch, mu: Batch, t: Time, r: Time) -> Batch:
        """Return the mean of p(x_r | x_t, x_0); at r = t - 1 the papers' optimal reverse state."""
        w_t, w_0, _ = self.posterior(t, r, mu)
        return mu + w_t * (x_t - mu) + w_0 * (x0 - mu)

    def _bridge(self, t: Time, r: Time, ref: Batch) -> tuple[Weight, Weight, Weight]:
        """Return `posterior` for a process that pulls the residual to 0 (IR-SDE, proposition 3.2)."""
        a_t, a_r = self.alphas[_index(t)], self.alphas[_index(r)]
        a = a_t / a_r
        w_t = a * (1 - a_r**2) / (1 - a_t**2)
        w_0 = a_r * (1 - a**2) / (1 - a_t**2)
        std = self.noise_level * torch.sqrt((1 - a_r**2) * (1 - a**2) / (1 - a_t**2))
        return _shaped(w_t, ref), _shaped(w_0, ref), _shaped(std, ref)


class MeanRevertingSDE(SDE):
    """The SDE that pulls a clean image x0 to its degraded version mu plus noise of std lambda."""

    @property
    def signals(self) -> Table:
        return self.alphas

    def initial_time(self, noise_std: float | None) -> int:
        return self.steps

    def initial_state(self, mu: Batch, noise: Batch) -> Batch:
        """Return x_T = mu + lambda z."""
        return mu + self.noise_level * noise

    def posterior(self, t: Time, r: Time, ref: Batch) -> tuple[Weight, Weight, Weight]:
        return self._bridge(t, r, ref)

    def euler(self, t: Time, r: Time, ref: Batch, stochastic: bool = True) -> tuple[Weight, Weight]:
        rate = self.rate(t, r, ref)
        score_factor = 2 if stochastic else 1
        return 1 + rate, score_factor * self.noise_level**2 * rate / self.std(t, ref)

    def forward(self, x0: Batch, mu: Batch, sample_noise: NoiseFn, exact: bool = True) -> Iterator[Batch]:
        """Yield one path x_0 ... x_T, by exact transitions or by the papers' Euler-Maruyama steps."""
        x = x0
        yield x
        for t in range(1, self.steps + 1):
            rate = self.rate(t, t - 1, mu)
            keep = torch.exp(-rate) if exact else 1 - rate
            variance = -torch.expm1(-2 * rate) if exact else 2 * rate
            x = mu + keep * (x - mu) + self.noise_level * torch.sqrt(variance) * sample_noise()
            yield x


class DenoisingSDE(SDE):
    """The SDE that adds Gaussian noise to a clean image: x_t = x_0 + s_t eps (IR-SDE's denoising SDE).

    It is the mean-reverting SDE with mu = x_0, so nothing depends on mu. A picture with noise of standard
    deviation sigma is the state at the time whose s_t is sigma: sampling starts at that time.
    """

    needs_noise_std = True

    @property
    def signals(self) -> Table:
        return torch.ones_like(self.alphas)

    def initial_time(self, noise_std: float | None) -> int:
        """Return the t >= 1 whose thetabar_t is nearest to that of noise of this standard deviation.

        Raises:
            ValueError: the standard deviation is missing, or not in [0, lambda).
        """
        if noise_std is None:
            raise ValueError("sigma is missing: give the standard deviation of the noise in the picture")
        sigma = noise_std
        if not 0 <= sigma < self.noise_level:
            most = f"{self.noise_level:.4g} ({255 * self.noise_level:.4g}/255)"
            raise ValueError(f"sigma is {sigma:.4g}: it must be in [0, λ), and λ is {most}")
        thetabar = -math.log1p(-((sigma / self.noise_level) ** 2)) / 2
        return int((-torch.log(self.alphas[1:]) - thetabar).abs().argmin()) + 1

    def initial_state(self, mu: Batch, noise: Batch) -> Batch:
        """Return the picture itself: its noise is that of the state at `initial_time`."""
        return mu

    def posterior(self, t: Time, r: Time, ref: Batch) -> tuple[Weight, Weight, Weight]:
        w_t, _, std = self._bridge(t, r, ref)
        return w_t, 1 - w_t, std

    def euler(self, t: Time, r: Time, ref: Batch, stochastic: bool = True) -> tuple[Weight, Weight]:
        score_factor = _shaped(self.alphas[_index(t)] ** 2, ref) + (1 if stochastic else 0)
        noise_coef = score_factor * self.noise_level**2 * self.rate(t, r, ref) / self.std(t, ref)
        return torch.ones_like(noise_coef), noise_coef


def _index(t: Time) -> Time:
    return t.cpu() if isinstance(t, Tensor) else t


def _shaped(value: Tensor, ref: Batch) -> Weight:
    """Return values of a table in the dtype and on the device of `ref`; tables stay float64 on the CPU."""
    return value.to(ref.dtype).to(ref.device).reshape(-1, 1, 1, 1)
