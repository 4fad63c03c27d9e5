"""What the output of a network means, and back: the only place that knows.

Each kind reads an output as the clean image and states the output that would have been right.
All work on the residual y = x - mu; eps is the noise of `SDE.perturb`.
"""

from abc import ABC, abstractmethod

from torch import Tensor

from refusion.sde import SDE, Batch, Time


class Prediction(ABC):
    """One meaning of a network's output."""

    @abstractmethod
    def clean(self, output: Tensor, sde: SDE, x_t: Batch, mu: Batch, t: Time) -> Batch:
        """Read an output at (x_t, mu, t) as an estimate of x0."""

    @abstractmethod
    def target(self, sde: SDE, x0: Batch, mu: Batch, t: Time, noise: Batch) -> Tensor:
        """The output that `clean` reads as exactly x0 when x_t = perturb(x0, mu, t, noise)."""


class Noise(Prediction):
    """eps: the papers' output. Its errors are multiplied by s_t / alpha_t, 200 lambda at t = T."""

    def clean(self, output: Tensor, sde: SDE, x_t: Batch, mu: Batch, t: Time) -> Batch:
        return sde.clean_from_noise(x_t, output, mu, t)

    def target(self, sde: SDE, x0: Batch, mu: Batch, t: Time, noise: Batch) -> Tensor:
        return noise


class Clean(Prediction):
    """y_0 = x_0 - mu: the clean image as a correction of the degraded one, well conditioned everywhere."""

    def clean(self, output: Tensor, sde: SDE, x_t: Batch, mu: Batch, t: Time) -> Batch:
        return mu + output

    def target(self, sde: SDE, x0: Batch, mu: Batch, t: Time, noise: Batch) -> Tensor:
        return x0 - mu


class Velocity(Prediction):
    """v = alpha_t eps - sqrt(1 - alpha_t^2) y_0 / lambda (Salimans & Ho, arXiv 2202.00512, of y)."""

    def clean(self, output: Tensor, sde: SDE, x_t: Batch, mu: Batch, t: Time) -> Batch:
        signal, std = sde.signal(t, mu), sde.std(t, mu)
        share = signal**2 + (std / sde.noise_level) ** 2  # 1 for the mean-reverting SDE, not for its twin
        return mu + (signal * (x_t - mu) - std * output) / share

    def target(self, sde: SDE, x0: Batch, mu: Batch, t: Time, noise: Batch) -> Tensor:
        return sde.signal(t, mu) * noise - sde.std(t, mu) * (x0 - mu) / sde.noise_level**2


class ReverseStep(Prediction):
    """What the published maximum-likelihood objective teaches: an eps whose Euler step is optimal.

    The mean of the Euler step, (1 + theta_t dt) y - sigma_t^2 dt / s_t eps, equals the posterior mean
    at its optimum. That eps is not the noise; reading it as the noise puts most of it into x0 at large
    t, so this class solves the equation for x0 instead.
    """

    def clean(self, output: Tensor, sde: SDE, x_t: Batch, mu: Batch, t: Time) -> Batch:
        grow, kick = sde.euler(t, t - 1, mu)
        w_t, w_0, _ = sde.posterior(t, t - 1, mu)
        return mu + ((grow - w_t) * (x_t - mu) - kick * output) / w_0

    def target(self, sde: SDE, x0: Batch, mu: Batch, t: Time, noise: Batch) -> Tensor:
        x_t = sde.perturb(x0, mu, t, noise)
        grow, kick = sde.euler(t, t - 1, mu)
        return (grow * (x_t - mu) - (sde.posterior_mean(x_t, x0, mu, t, t - 1) - mu)) / kick


PREDICTIONS: dict[str, Prediction] = {
    "noise": Noise(),
    "clean": Clean(),
    "velocity": Velocity(),
    "reverse-step": ReverseStep(),
}
