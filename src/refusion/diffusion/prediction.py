"""Predictions: how a network's output is read as the clean image, and its training target.

No other module depends on which of them a network uses. All work on the residual y = x - mu; eps is
the noise of `SDE.perturb`.
"""

from abc import ABC, abstractmethod

from refusion.diffusion.sde import SDE, Batch, Time


class Prediction(ABC):
    """One reading of a network's output."""

    @abstractmethod
    def clean(self, output: Batch, sde: SDE, x_t: Batch, mu: Batch, t: Time) -> Batch:
        """Read an output at (x_t, mu, t) as an estimate of x0."""

    @abstractmethod
    def target(self, sde: SDE, x0: Batch, mu: Batch, t: Time, noise: Batch) -> Batch:
        """Return the output that `clean` reads as exactly x0 when x_t = perturb(x0, mu, t, noise)."""


class Noise(Prediction):
    """The output is eps, as in the papers; x0 has its error times s_t / alpha_t, 200 lambda at t = T."""

    def clean(self, output: Batch, sde: SDE, x_t: Batch, mu: Batch, t: Time) -> Batch:
        return sde.clean_from_noise(x_t, output, mu, t)

    def target(self, sde: SDE, x0: Batch, mu: Batch, t: Time, noise: Batch) -> Batch:
        return noise


class Clean(Prediction):
    """The output is y_0 = x_0 - mu, a correction of the degraded image; well conditioned at every t."""

    def clean(self, output: Batch, sde: SDE, x_t: Batch, mu: Batch, t: Time) -> Batch:
        return mu + output

    def target(self, sde: SDE, x0: Batch, mu: Batch, t: Time, noise: Batch) -> Batch:
        return x0 - mu


class Velocity(Prediction):
    """The output is v = alpha_t eps - sqrt(1 - alpha_t^2) y_0 / lambda (Salimans & Ho, arXiv 2202.00512)."""

    def clean(self, output: Batch, sde: SDE, x_t: Batch, mu: Batch, t: Time) -> Batch:
        signal, std = sde.signal(t, mu), sde.std(t, mu)
        norm = signal**2 + (std / sde.noise_level) ** 2  # 1 for the mean-reverting SDE only
        return mu + (signal * (x_t - mu) - std * output) / norm

    def target(self, sde: SDE, x0: Batch, mu: Batch, t: Time, noise: Batch) -> Batch:
        return sde.signal(t, mu) * noise - sde.std(t, mu) * (x0 - mu) / sde.noise_level**2


class ReverseStep(Prediction):
    """The output is the eps whose Euler step is optimal: what the papers' maximum-likelihood loss teaches.

    The mean of the Euler step, (1 + theta_t dt) y - sigma_t^2 dt / s_t eps, equals the posterior mean
    at the optimum of that loss. This eps is not the noise: read as the noise, most of it would end in x0
    at large t. So this class solves the equation for x0.
    """

    def clean(self, output: Batch, sde: SDE, x_t: Batch, mu: Batch, t: Time) -> Batch:
        state_coef, noise_coef = sde.euler(t, t - 1, mu)
        w_t, w_0, _ = sde.posterior(t, t - 1, mu)
        return mu + ((state_coef - w_t) * (x_t - mu) - noise_coef * output) / w_0

    def target(self, sde: SDE, x0: Batch, mu: Batch, t: Time, noise: Batch) -> Batch:
        x_t = sde.perturb(x0, mu, t, noise)
        state_coef, noise_coef = sde.euler(t, t - 1, mu)
        return (state_coef * (x_t - mu) - (sde.posterior_mean(x_t, x0, mu, t, t - 1) - mu)) / noise_coef


PREDICTIONS: dict[str, Prediction] = {
    "noise": Noise(),
    "clean": Clean(),
    "velocity": Velocity(),
    "reverse-step": ReverseStep(),
}
