"""The mean-reverting SDE dx = theta_t (mu - x) dt + sigma_t dw (IR-SDE, arXiv 2301.11699).

With sigma_t^2 = 2 lambda^2 theta_t its marginals are exact: the residual y = x - mu obeys
y_t = alpha_t y_0 + s_t eps with s_t = lambda sqrt(1 - alpha_t^2). Images are in [0, 1] and so is lambda.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from refusion.schedule import Table

Batch = Float[Tensor, "b c h w"]
"""Pictures or states of equal size."""
Time = int | Int[Tensor, " b"]
"""A training time 0 ... T: one for all pictures of a batch, or one for each."""
Draw = Callable[[], Batch]
"""A fresh field of unit normal noise, shaped like the state."""


@dataclass(frozen=True, eq=False)
class MeanRevertingSDE:
    """Pulls a clean image x0 to its degraded version mu plus noise of deviation lambda, and back.

    Args:
        alphas: the schedule, alpha_0 = 1 ... alpha_T = delta.
        noise_level: lambda in units of the image range [0, 1]; the papers' "50" is 50/255.

    Raises:
        ValueError: the noise level is not in (0, 1], or the schedule does not fall from 1.
    """

    alphas: Table
    noise_level: float

    def __post_init__(self) -> None:
        if not 0 < self.noise_level <= 1:
            raise ValueError(f"noise_level is {self.noise_level}: 50 grey levels are 50/255 in [0, 1]")
        if self.alphas[0] != 1 or bool((self.alphas.diff() >= 0).any()) or self.alphas[-1] <= 0:
            raise ValueError("alphas must fall from exactly 1 and stay above 0")

    @property
    def steps(self) -> int:
        """T, the number of training times."""
        return len(self.alphas) - 1

    @property
    def stds(self) -> Table:
        """s_0 = 0 ... s_T, the deviations of the forward marginals (IR-SDE, proposition 3.1)."""
        return self.noise_level * torch.sqrt(1 - self.alphas**2)

    def alpha(self, t: Time, like: Batch) -> Tensor:
        """alpha_t, shaped to multiply `like`."""
        return _shaped(self.alphas[_index(t)], like)

    def std(self, t: Time, like: Batch) -> Tensor:
        """s_t, shaped to multiply `like`."""
        return _shaped(self.stds[_index(t)], like)

    def rate(self, t: Time, r: Time, like: Batch) -> Tensor:
        """The integral of theta from r to t: theta_t dt when r = t - 1; sigma^2 is 2 lambda^2 of it."""
        return _shaped(torch.log(self.alphas[_index(r)] / self.alphas[_index(t)]), like)

    def prior(self, mu: Batch, noise: Batch) -> Batch:
        """Where sampling starts: x_T = mu + lambda z."""
        return mu + self.noise_level * noise

    def forward(self, x0: Batch, mu: Batch, draw: Draw, exact: bool = True) -> Iterator[Batch]:
        """One path x_0 ... x_T, by exact transitions or by the papers' Euler-Maruyama steps."""
        yield (x := x0)
        for t in range(1, self.steps + 1):
            rate = self.rate(t, t - 1, mu)
            keep = torch.exp(-rate) if exact else 1 - rate
            variance = -torch.expm1(-2 * rate) if exact else 2 * rate
            yield (x := mu + keep * (x - mu) + self.noise_level * torch.sqrt(variance) * draw())

    def perturb(self, x0: Batch, mu: Batch, t: Time, noise: Batch) -> Batch:
        """x_t given x_0 and unit normal noise (IR-SDE, proposition 3.1); exact for every t."""
        return mu + self.alpha(t, mu) * (x0 - mu) + self.std(t, mu) * noise

    def noise_from_clean(self, x_t: Batch, x0: Batch, mu: Batch, t: Time) -> Batch:
        """The noise with which perturb(x0, mu, t, noise) = x_t; undefined at t = 0."""
        return (x_t - mu - self.alpha(t, mu) * (x0 - mu)) / self.std(t, mu)

    def clean_from_noise(self, x_t: Batch, noise: Batch, mu: Batch, t: Time) -> Batch:
        """The x0 with which perturb(x0, mu, t, noise) = x_t; multiplies errors by s_t / alpha_t."""
        return mu + (x_t - mu - self.std(t, mu) * noise) / self.alpha(t, mu)

    def posterior(self, t: Time, r: Time, like: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The weights of y_t and y_0 in the mean of p(x_r | x_t, x_0), and its deviation (prop. 3.2)."""
        a_t, a_r = self.alphas[_index(t)], self.alphas[_index(r)]
        a = a_t / a_r
        w_t = a * (1 - a_r**2) / (1 - a_t**2)
        w_0 = a_r * (1 - a**2) / (1 - a_t**2)
        std = self.noise_level * torch.sqrt((1 - a_r**2) * (1 - a**2) / (1 - a_t**2))
        return _shaped(w_t, like), _shaped(w_0, like), _shaped(std, like)

    def posterior_mean(self, x_t: Batch, x0: Batch, mu: Batch, t: Time, r: Time) -> Batch:
        """The mean of x_r given x_t and x_0; at r = t - 1 the papers' optimal reverse state."""
        w_t, w_0, _ = self.posterior(t, r, mu)
        return mu + w_t * (x_t - mu) + w_0 * (x0 - mu)


def _index(t: Time) -> Time:
    return t.cpu() if isinstance(t, Tensor) else t


def _shaped(value: Tensor, like: Batch) -> Tensor:
    """Rounded to `like`'s type, (b or 1, 1, 1, 1), on its device; the tables stay float64 on the CPU."""
    return value.to(like.dtype).to(like.device).reshape(-1, 1, 1, 1)
