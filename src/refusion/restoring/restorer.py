"""A picture enters, becomes (mu, features) in a codec, walks T ... 0 through a sampler, and leaves."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from refusion.codec import Codec, Encoded
from refusion.degradation import estimated_noise, punched
from refusion.errors import hint
from refusion.image import Image, from_array, sized
from refusion.memory import free_memory
from refusion.prediction import Prediction
from refusion.rendering import vertical_offset
from refusion.resize import Enlarge
from refusion.sampling import Rule, State, euler_maruyama, exponential, posterior, sample
from refusion.schedule import timesteps
from refusion.sde import SDE, Batch, Draw
from refusion.tiling import SMALLEST, Network, conditions, fitting, log, suited, views

SAMPLERS: Mapping[str, Callable[[float], Rule]] = {
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


@dataclass(frozen=True)
class Sampling:
    """How to walk. A recipe holds the defaults; every call may replace some.

    Args:
        steps: calls of the network, 1 ... T.
        sampler: a name in `SAMPLERS`, or a `Rule`.
        eta: 0 (deterministic) ... 1 (posterior); only "posterior" has this dial.
        seed: of all noise.
        tile: side in pixels of the tiles in which a large picture is restored; by default what free
            memory allows.
        sigma: deviation of the noise in the picture, in [0, 1]; only for models of Gaussian denoising,
            which estimate it by default.
        condition: numbers that tell the network what is wanted, as many as it takes (see `refusion.lens`).

    Raises:
        ValueError: an unknown name, steps below 1, eta outside [0, 1] or given to another sampler,
            a tile below 128, sigma outside [0, 1].
    """

    steps: int = 5
    sampler: str | Rule = "posterior"
    eta: float = 1.0
    seed: int = 0
    tile: int | None = None
    sigma: float | None = None
    condition: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.sampler, str) and self.sampler not in SAMPLERS:
            known = f"there are {', '.join(SAMPLERS)}"
            raise ValueError(f"unknown sampler {self.sampler!r}{hint(self.sampler, SAMPLERS)}: {known}")
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}: give at least 1")
        if not 0 <= self.eta <= 1 or (self.eta != 1 and self.sampler != "posterior"):
            raise ValueError(f"eta is {self.eta}: give 0 to 1, and with the sampler 'posterior' only")
        if self.tile is not None and self.tile < SMALLEST:
            chosen = "or nothing to choose by free memory"
            raise ValueError(f"tile is {self.tile}: give at least {SMALLEST} pixels, {chosen}")
        if self.sigma is not None and not 0 <= self.sigma <= 1:
            raise ValueError(f"sigma is {self.sigma}: 25 grey levels are 25/255 in [0, 1]")

    @property
    def rule(self) -> Rule:
        return SAMPLERS[self.sampler](self.eta) if isinstance(self.sampler, str) else self.sampler


@dataclass(frozen=True)
class Samples:
    """What several restorations of one picture say together.

    `deviation` is the standard deviation over the samples at each pixel, as the root mean square over
    the colours.
    """

    mean: Image
    deviation: Float[np.ndarray, "h w"]


class _Ready(NamedTuple):
    """Pictures about to walk, and what suits their size and the free memory."""

    lq: Float[Tensor, "b 3 h w"]
    codec: Codec
    encoded: Encoded
    network: Network


@dataclass(frozen=True, eq=False)
class Restorer:
    """Calling it restores a picture. `options` everywhere are fields of `Sampling`.

    Args:
        network: predicts from (x_t, mu, t); a module on the device that does the work.
        codec: between pictures and states.
        sde: the process the network was trained on.
        prediction: what the network's output means.
        sampling: the defaults of `options`.
        enlarge: what a picture goes through before everything else.
    """

    network: nn.Module
    codec: Codec
    sde: SDE
    prediction: Prediction
    sampling: Sampling = Sampling()
    enlarge: Enlarge = Enlarge()

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def to(self, device: str | torch.device) -> "Restorer":
        return replace(self, network=self.network.to(device), codec=self.codec.to(device))

    def __call__(self, image: object, **options: Any) -> Image:
        """Restore one picture: an `Image`, an array or a PIL picture, as `from_array` takes them."""
        return self.views([image], **options)[0]

    def views(self, images: Sequence[object], **options: Any) -> tuple[Image, ...]:
        """Restore the left and the right view of a scene together; of any other model one picture.

        The views are rectified: rows of one are rows of the other. If they are more than a pixel
        apart, a warning is logged.

        Raises:
            ValueError: the model takes another number of views, or their sizes differ.
        """
        if len(images) != (expected := views(self.network)):
            wanted = "the left and the right view of a scene" if expected > 1 else "one picture at a time"
            raise ValueError(f"{len(images)} given: this model takes {wanted}")
        given = [from_array(image) for image in images]
        if len({view.size for view in given}) > 1:
            raise ValueError(f"left and right are {sized(*given)}: give views of one size")
        if len(given) > 1 and abs(offset := vertical_offset(*(view.tensor() for view in given))) > 1:
            log.warning("right is %+.1f pixels lower than left: rectify them for good results", offset)
        sources = [self.prepared(view) for view in given]
        lq = torch.stack([source.tensor() for source in sources])
        settings = self._settings(options)
        restored = self._restored(self._ready(lq.to(self.device), settings), settings)
        return tuple(source.with_pixels(z) for source, z in zip(sources, restored, strict=True))

    def fill(self, image: object, holes: Float[np.ndarray, "h w"], **options: Any) -> Image:
        """Restore what is missing from a picture, with a model of inpainting.

        Args:
            holes: 1 where the picture is missing, 0 where it is kept to the last bit.

        Raises:
            ValueError: the holes have another size, or the model enlarges.
        """
        if self.enlarge.factor > 1:
            raise ValueError(f"this model enlarges {self.enlarge.factor} times: take one of inpainting")
        source = from_array(image)
        if holes.shape != source.pixels.shape[:2]:
            size = "{1}x{0}".format(*holes.shape)
            raise ValueError(
                f"the mask is {size} and the picture {'{}x{}'.format(*source.size)}: give equal ones"
            )
        field = torch.from_numpy(holes.astype(np.float32))[None]
        restored = self(source.with_pixels(punched(source.tensor(), field)), **options)
        return source.with_pixels(torch.where(field > 0, restored.tensor(), source.tensor()))

    def prepared(self, image: object) -> Image:
        """The picture as it enters: enlarged, if the model makes more pixels."""
        source = from_array(image)
        if self.enlarge.factor == 1:
            return source
        pixels = self.enlarge(source.tensor()[None])[0].permute(1, 2, 0).contiguous().numpy()
        alpha = source.alpha
        if alpha is not None:
            alpha = self.enlarge(torch.from_numpy(alpha)[None, None])[0, 0].numpy()
        return replace(source, pixels=pixels, alpha=alpha)

    def samples(self, image: object, count: int, **options: Any) -> Samples:
        """Restore `count` times with the seeds seed, seed + 1, ...

        Raises:
            ValueError: fewer than two samples have no deviation.
        """
        if count < 2:
            raise ValueError(f"count is {count}: a deviation needs at least 2 samples")
        source, settings = self.prepared(image), self._settings(options)
        ready = self._ready(source.tensor()[None].to(self.device), settings)
        mean, squares = np.zeros_like(source.pixels), np.zeros_like(source.pixels)
        for i in range(count):  # Welford's update: two pictures in memory, however many samples
            seeded = replace(settings, seed=settings.seed + i)
            pixels = source.with_pixels(self._restored(ready, seeded)[0]).pixels
            change = pixels - mean
            mean += change / (i + 1)
            squares += change * (pixels - mean)
        return Samples(source.with_pixels(mean), np.sqrt(squares.mean(-1) / (count - 1)))

    def trajectory(self, image: object, **options: Any) -> Iterator[Image]:
        """The picture after every step; the last one is the restoration."""
        source, settings = self.prepared(image), self._settings(options)
        ready = self._ready(source.tensor()[None].to(self.device), settings)
        for state in self._walk(ready, settings):
            yield source.with_pixels(self._decode(state, ready)[0])

    def restore_batch(
        self, lq: Float[Tensor, "b 3 h w"], **options: Any
    ) -> Float[Tensor, "b 3 larger_h larger_w"]:
        """Restore a batch in [0, 1] on the restorer's device. Its pictures share the seed's noise
        field, so that the result of each does not depend on its company. Of views, the left and the
        right one follow each other."""
        settings = self._settings(options)
        return self._restored(self._ready(self.enlarge(lq), settings), settings)

    def _settings(self, options: Mapping[str, Any]) -> Sampling:
        known = [field.name for field in fields(Sampling)]
        for name in options:
            if name not in known:
                raise TypeError(f"unknown option {name}{hint(name, known)}: there are {', '.join(known)}")
        return replace(self.sampling, **options)

    @torch.inference_mode()
    def _ready(self, lq: Float[Tensor, "b 3 h w"], settings: Sampling) -> _Ready:
        if len(settings.condition) != (expected := conditions(self.network)):
            given = len(settings.condition)
            raise ValueError(f"condition has {given} numbers: this model takes {expected}")
        if settings.sigma is not None and not self.sde.asks_sigma:
            raise ValueError(f"sigma is {settings.sigma}: only models of Gaussian denoising take it")
        lq = lq.contiguous()  # other layouts give other last bits
        codec = suited_codec(self.codec, lq, settings.tile)
        encoded = codec.encode(lq)
        reduced = max(encoded.mu.shape[-2:]) / max(lq.shape[-2:])
        tile = settings.tile and round(settings.tile * reduced)
        return _Ready(lq, codec, encoded, suited(self.network, encoded.mu, tile, free_memory(self.device)))

    def _restored(self, ready: _Ready, settings: Sampling) -> Float[Tensor, "b 3 h w"]:
        return self._decode(deque(self._walk(ready, settings), maxlen=1).pop(), ready)

    @torch.inference_mode()
    def _decode(self, state: State, ready: _Ready) -> Float[Tensor, "b 3 h w"]:
        encoded = ready.encoded
        return ready.codec.decode(state.x, encoded.features, encoded.size).clamp(0, 1)

    @torch.inference_mode()
    def _walk(self, ready: _Ready, settings: Sampling) -> Iterator[State]:
        mu = ready.encoded.mu
        draw = noise_source(mu, settings.seed)
        first, start = self.sde.begin(mu, draw(), lambda: _sigma(ready.lq, settings, self.sde))
        times = timesteps(self.sde.steps, settings.steps, first)
        denoise = self._denoiser(ready.network, mu, times, settings.condition)
        yield from sample(denoise, self.sde, start, mu, times, settings.rule, draw)

    def _denoiser(
        self, network: Network, mu: Batch, times: Sequence[int], condition: tuple[float, ...]
    ) -> Callable[[Batch, int], Batch]:
        at = torch.tensor(times[:-1], dtype=torch.float32, device=mu.device)
        wanted = [torch.tensor(condition, device=mu.device).expand(len(at), -1)] if condition else []
        embeddings = dict(zip(times, torch.split(network.embed(at, *wanted), 1), strict=False))

        def denoise(x_t: Batch, t: int) -> Batch:
            batch_t = torch.full((len(x_t),), float(t), device=x_t.device)
            output = network(x_t, mu, batch_t, embeddings[t].expand(len(x_t), -1))
            x0 = self.prediction.clean(output, self.sde, x_t, mu, t)
            return x0.clamp(*self.codec.bounds) if self.codec.bounds else x0

        return denoise


def suited_codec(codec: Codec, pictures: Float[Tensor, "b 3 h w"], tile: int | None = None) -> Codec:
    """The codec, in tiles if the pictures take more memory than one tile of that many pixels.

    Args:
        tile: side of the tiles in pixels; by default what free memory allows.
    """
    batch, _, height, width = pictures.shape
    free = free_memory(pictures.device)
    side = tile or max(SMALLEST, fitting(batch * codec.working_bytes, free))
    chosen = codec if height * width <= side**2 else codec.tiled(side)
    if chosen is not codec:
        log.info("%dx%d: tiles of %d pixels, %.1f GiB free", width, height, side, free / 2**30)
    return chosen


def noise_source(like: Batch, seed: int) -> Draw:
    """Unit normal fields like one picture of `like`, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(like.shape[1:], generator=generator).to(like).expand(like.shape)


def _sigma(lq: Float[Tensor, "b 3 h w"], settings: Sampling, sde: SDE) -> float:
    """The given deviation of the noise, or an estimate, at most that of the process.

    Raises:
        ValueError: several pictures, which may differ in it, and none is given.
    """
    if settings.sigma is not None:
        return settings.sigma
    if len(lq) > 1:
        raise ValueError(f"{len(lq)} pictures may differ in noise: give sigma, or restore them one by one")
    sigma = estimated_noise(lq[0])
    most = float(sde.stds[-1])
    if sigma > most:
        log.warning("noise of %.1f/255: this model takes off at most %.1f/255", 255 * sigma, 255 * most)
    else:
        log.info("noise of %.1f/255", 255 * sigma)
    return min(sigma, most)
