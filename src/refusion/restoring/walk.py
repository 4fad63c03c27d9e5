"""The walk of encoded pictures from t = T to 0."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from refusion.diffusion.prediction import Prediction
from refusion.diffusion.sampling import Denoise, State, sample
from refusion.diffusion.schedule import timesteps
from refusion.diffusion.sde import SDE, Batch, NoiseFn
from refusion.errors import Cancelled
from refusion.nn.network import Network
from refusion.nn.precision import Precision, multiplying
from refusion.restoring.codec import Codec, Encoded
from refusion.restoring.request import Sampling

Cancel = Callable[[], bool]
"""Called before every step; True ends the restoration."""


@dataclass(frozen=True, eq=False)
class Walk:
    """Encoded pictures and what carries them to restored ones.

    Args:
        codec, network: in tiles or not, as fits the size of the pictures and the memory.
        encoded: the pictures.
        seen: what the network sees beside x_t, see `Codec.seen`.
        sde: the process.
        prediction: how the network's output is read.
        first: the time at which sampling starts.
        precision: in which the network multiplies.
        texture: share of what sampling adds to mu, see `Sampling`.
    """

    codec: Codec
    encoded: Encoded
    seen: Float[Tensor, "b seen state_h state_w"]
    network: Network
    sde: SDE
    prediction: Prediction
    first: int
    precision: Precision = "32"
    texture: float = 1.0

    @torch.inference_mode()
    def decode(self, state: State) -> Float[Tensor, "b 3 h w"]:
        """Return the pictures, in [0, 1], that a state stands for."""
        x = state.x if self.texture == 1 else torch.lerp(self.encoded.mu, state.x, self.texture)
        picture = self.codec.decode(x, self.encoded.features, self.encoded.size)
        kept = (x, *self.encoded.features)
        owned = all(z.untyped_storage().data_ptr() != picture.untyped_storage().data_ptr() for z in kept)
        return picture.clamp_(0, 1) if owned else picture.clamp(0, 1)

    def times(self, steps: int) -> list[int]:
        """Return the times of a walk of so many steps; to the mean itself there is a single one."""
        return timesteps(self.sde.steps, steps, self.first) if self.texture else [self.first, 0]

    @torch.inference_mode()
    def states(
        self, sampling: Sampling, condition: tuple[float, ...], cancel: Cancel | None
    ) -> Iterator[State]:
        """Yield the state after every step.

        Args:
            sampling: steps, sampler and seed.
            condition: numbers for the network, as many as it takes.
            cancel: see `Cancel`.

        Raises:
            Cancelled: `cancel` returned True.
        """
        mu = self.encoded.mu
        if not self.texture:
            if cancel is not None and cancel():
                raise Cancelled("cancelled")
            yield State(0, mu, mu)
            return
        sample_noise = noise_source(mu, sampling.seed)
        start = self.sde.initial_state(mu, sample_noise())
        times = self.times(sampling.steps)
        denoise = self._denoiser(times, condition, cancel)
        yield from sample(denoise, self.sde, start, mu, times, sampling.solver, sample_noise)

    def _denoiser(self, times: Sequence[int], condition: tuple[float, ...], cancel: Cancel | None) -> Denoise:
        mu, network = self.encoded.mu, self.network
        at = torch.tensor(times[:-1], dtype=torch.float32, device=mu.device)
        conditions = torch.tensor(condition, device=mu.device).expand(len(at), -1) if condition else None
        embeddings = dict(zip(times, torch.split(network.embed(at, conditions), 1), strict=False))

        def denoise(x_t: Batch, t: int) -> Batch:
            if cancel is not None and cancel():
                raise Cancelled("cancelled")
            batch_t = torch.full((len(x_t),), float(t), device=x_t.device)
            with multiplying(self.precision, x_t.device):
                output = network(x_t, self.seen, batch_t, embeddings[t].expand(len(x_t), -1))
            x0 = self.prediction.clean(output.to(x_t.dtype), self.sde, x_t, mu, t)
            return x0.clamp(*self.codec.bounds) if self.codec.bounds else x0

        return denoise


def noise_source(ref: Batch, seed: int) -> NoiseFn:
    """Return a function that draws unit normal noise like `ref`, equal for its pictures on every device."""
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(ref.shape[1:], generator=generator).to(ref).expand(ref.shape)
