"""The restorer: a picture is encoded to (mu, features), sampled from t = T to 0, and decoded."""

import functools
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Unpack

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from refusion.diffusion.prediction import Prediction
from refusion.diffusion.sampling import Denoise, State, sample
from refusion.diffusion.schedule import timesteps
from refusion.diffusion.sde import SDE, Batch, NoiseFn
from refusion.errors import Cancelled, Notice, RefusionWarning, Report
from refusion.imaging.analysis import estimate_noise_std, vertical_offset
from refusion.imaging.arrays import ImageLike, as_image
from refusion.imaging.image import Image, channels_last
from refusion.imaging.masks import apply_mask
from refusion.imaging.resize import Enlarge
from refusion.nn.network import Network
from refusion.restoring.codec import Codec, Encoded, codec_with_tiling
from refusion.restoring.memory import COPY, SLACK, Demand, free_memory
from refusion.restoring.request import (
    Ensemble,
    Limits,
    Options,
    Progress,
    Request,
    Result,
    Sampling,
    split_options,
)
from refusion.restoring.tiling import ignore, least_bytes, with_tiling

Cancel = Callable[[], bool]
"""Called before every step; True ends the restoration."""
STATES = 4
"""States in memory at a time: mu, x_t, the output of the network, and the estimate of x_0."""
MORE_STATES = 2
"""Further ones of several steps: noise or earlier estimates, and a sum."""
UNCHANGED = 1 / 255
"""A picture counts as unchanged if the largest difference of a pixel is below this."""


@dataclass(frozen=True, eq=False)
class _Walk:
    """Encoded pictures, and the codec and network, in tiles or not, that fit their size and the memory."""

    codec: Codec
    encoded: Encoded
    network: Network
    first: int
    """The time at which sampling starts."""

    @torch.inference_mode()
    def decode(self, state: State) -> Float[Tensor, "b 3 h w"]:
        picture = self.codec.decode(state.x, self.encoded.features, self.encoded.size)
        kept = (state.x, *self.encoded.features)
        owned = all(z.untyped_storage().data_ptr() != picture.untyped_storage().data_ptr() for z in kept)
        return picture.clamp_(0, 1) if owned else picture.clamp(0, 1)


@dataclass(frozen=True, eq=False)
class _Scene:
    """The input pictures of a request, and the mask of their holes."""

    sources: tuple[Image, ...]
    holes: Float[Tensor, "1 h w"] | None

    def tensor(self) -> Float[Tensor, "b 3 h w"]:
        """Return the pictures as the model expects them, with white holes; a single one is not copied."""
        if len(self.sources) == 1 and self.holes is None:
            return self.sources[0].tensor()[None]
        pictures = (source.tensor() for source in self.sources)
        return torch.stack([z if self.holes is None else apply_mask(z, self.holes) for z in pictures])

    def images(self, restored: Float[Tensor, "b 3 h w"]) -> tuple[Image, ...]:
        """Return the restored pictures; pixels outside the holes are those of the input."""
        if self.holes is not None:
            kept = torch.stack([source.tensor() for source in self.sources])
            restored = torch.where(self.holes > 0, restored.cpu(), kept)
        return tuple(_restored(source, z) for source, z in zip(self.sources, restored, strict=True))


@dataclass(frozen=True, eq=False)
class Restorer:
    """A model that restores pictures: a call restores one picture, `run` answers a whole request.

    Args:
        network: predicts from (x_t, mu, t); its device is that of the restoration.
        codec: maps pictures to states and back.
        sde: the process the network was trained on.
        prediction: how the network's output is read.
        sampling: the defaults of `Options`.
        enlarge: the enlargement of input pictures.
        name: of the model, for messages.
    """

    network: Network
    codec: Codec
    sde: SDE
    prediction: Prediction
    sampling: Sampling = Sampling()
    enlarge: Enlarge = Enlarge()
    name: str = "a model"

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def to(self, device: str | torch.device) -> "Restorer":
        return replace(self, network=self.network.to(device), codec=self.codec.to(device))

    def __repr__(self) -> str:
        millions = sum(p.numel() for part in (self.network, self.codec) for p in part.parameters()) / 1e6
        kinds = f"{type(self.network).__name__} on {type(self.codec).__name__}"
        sampler = self.sampling.sampler
        name = sampler if isinstance(sampler, str) else getattr(sampler, "__name__", "a solver")
        walk = f"steps={self.sampling.steps}, sampler={name}"
        return f"Restorer({self.name}: {kinds}, {millions:.1f} M parameters, {walk}, {self.device})"

    def __call__(self, image: ImageLike, **options: Unpack[Options]) -> Image:
        """Restore one picture: an `Image`, a file's path, an array or a PIL picture.

        The warnings of the result are issued as Python's.
        """
        return _warned(self.run(self.request(image, **options)))[0]

    def restore_views(self, images: Sequence[ImageLike], **options: Unpack[Options]) -> tuple[Image, ...]:
        """Restore the rectified left and right view of a scene, or one picture if the model takes one."""
        return _warned(self.run(self.request(*images, **options)))

    def request(self, *images: ImageLike, **options: Unpack[Options]) -> Request:
        """Return a request for one picture or a left and a right view; the model's sampling is the default.

        Raises:
            TypeError: an unknown option.
            ValueError: see `Sampling`, `Limits` and `Request`.
            ImageError: see `refusion.imaging.arrays.as_image`.
        """
        sampling, limits, rest = split_options(options)
        bounds = Limits(**limits)
        pictures = tuple(as_image(image, bounds.max_pixels) for image in images)
        return Request(pictures, replace(self.sampling, **sampling), limits=bounds, **rest)

    def demand(self, size: tuple[int, int], masked: bool = False, **options: Unpack[Options]) -> Demand:
        """Return the least memory that restoring a scene of this size takes, besides its input pictures.

        Args:
            size: width and height.
            masked: whether the request has a mask.
            options: of the request; their mask is not looked at.
        """
        sampling, limits, rest = split_options(options)
        bounds, count = Limits(**limits), self.network.num_views
        width, height = (side * self.enlarge.factor for side in size)
        rows, columns = self.codec.state_size(height, width)
        several, steps = rest.get("samples", 1) > 1, sampling.get("steps", self.sampling.steps)
        # The result; the enlarged input; with a mask three; mean, squares, a sample and a difference.
        copies = 1 + (self.enlarge.factor > 1) + 3 * masked + 4 * several
        copies += steps if rest.get("trajectory") else 0
        states = 4 * self.codec.channels * rows * columns * (STATES + MORE_STATES * (steps > 1))
        tile = bounds.tile and math.ceil(bounds.tile * max(rows / height, columns / width))
        device = count * (
            states + self.codec.least_bytes(height, width, bounds.tile or bounds.policy.min_tile)
        )
        # Several calls of a network leave holes in the heap, measured up to as much again.
        calls = min(2, steps)
        device += calls * least_bytes(self.network, rows, columns, bounds.policy, tile) + SLACK
        if self.device.type != "cpu":
            device += 2 * COPY * count * width * height
        return Demand(copies * COPY * count * width * height, device)

    def run(
        self,
        request: Request,
        progress: Callable[[Progress], object] | None = None,
        cancel: Cancel | None = None,
        report: Report = ignore,
    ) -> Result:
        """Answer a request.

        Args:
            request: see `Restorer.request`.
            progress: called after every step.
            cancel: called before every step; True ends the restoration.
            report: called with each notice as it arises; the result has them all.

        Raises:
            ValueError: see `check`.
            ImageError: the free memory does not suffice; it is not checked if `limits` hands in a budget.
            Cancelled: `cancel` returned True.
        """
        self.check(request)
        if request.limits.memory is None:
            self._admit(request)
        notices: list[Notice] = []

        def note(notice: Notice) -> None:
            notices.append(notice)
            report(notice)

        for notice in _rectification(request.images):
            note(notice)
        scene = self._scene(request)
        walk = self._prepare(scene.tensor().to(self.device), request, note)
        total = request.samples * (len(timesteps(self.sde.steps, request.sampling.steps, walk.first)) - 1)
        several = scene.sources if request.samples > 1 else ()
        ensembles = [Ensemble(source.pixels.shape) for source in several]
        trajectory: list[Image] = []
        done = itertools.count(1)
        for i in range(request.samples):
            sampling = replace(request.sampling, seed=request.sampling.seed + i)
            for state in self._states(walk, sampling, request.condition, cancel):
                decode = functools.partial(_decode, scene, walk, state)
                if request.trajectory:
                    trajectory += decode()
                if progress is not None:
                    progress(Progress(next(done), total, decode))
            images = (trajectory[-1],) if request.trajectory else decode()
            for ensemble, image in zip(ensembles, images, strict=False):
                ensemble.add(image.pixels)
        if ensembles:
            means = zip(scene.sources, ensembles, strict=True)
            images = tuple(source.with_pixels(ensemble.mean) for source, ensemble in means)
        for notice in _unchanged(scene.sources, images):
            note(notice)
        stds = tuple(ensemble.std for ensemble in ensembles)
        return Result(images, stds, tuple(trajectory), tuple(notices))

    def _admit(self, request: Request) -> None:
        limits, (width, height) = request.limits, request.images[0].size
        needed = self.demand(
            (width, height),
            request.mask is not None,
            steps=request.sampling.steps,
            samples=request.samples,
            trajectory=request.trajectory,
            tile=limits.tile,
            policy=limits.policy,
        )
        needed.admit(f"the picture of {width} x {height} pixels", self.device)

    def check(self, request: Request, views: int | None = None) -> None:
        """Check that the model can answer a request.

        Args:
            request: what is asked for.
            views: pictures of the scene; by default those of the request.

        Raises:
            ValueError: the model takes another number of views or conditions, no sigma or no mask, or fewer
                steps.
        """
        self.network.check(len(request.images) if views is None else views, len(request.condition))
        if request.sigma is not None and not self.sde.needs_noise_std:
            raise ValueError(f"sigma is {request.sigma}: only models of Gaussian denoising take it")
        if request.mask is not None and self.enlarge.factor > 1:
            raise ValueError(f"mask: this model enlarges {self.enlarge.factor} times; take one of inpainting")
        timesteps(self.sde.steps, request.sampling.steps)

    def upscale_input(self, image: ImageLike) -> Image:
        """Return the input picture, enlarged if the restored one has more pixels."""
        source = as_image(image)
        if self.enlarge.factor == 1:
            return source
        pixels = self.enlarge(source.tensor()[None])[0].permute(1, 2, 0).contiguous().numpy()
        alpha = source.alpha
        if alpha is not None:
            alpha = self.enlarge(torch.from_numpy(alpha)[None, None])[0, 0].numpy()
        return replace(source, pixels=pixels, alpha=alpha)

    def restore_batch(
        self, lq: Float[Tensor, "b 3 h w"], **options: Unpack[Options]
    ) -> Float[Tensor, "b 3 restored_h restored_w"]:
        """Restore a batch in [0, 1] on the restorer's device.

        All pictures share the seed's noise field, so that the result of each does not depend on the others.
        The left and the right view of a scene are consecutive.

        Raises:
            ValueError: see `run`; or a mask, samples or a trajectory, which are of single scenes.
        """
        request, views = self.request(**options), self.network.num_views
        if request.mask is not None or request.samples > 1 or request.trajectory:
            raise ValueError("a batch takes no mask, samples or trajectory: restore its pictures one by one")
        self.check(request, len(lq) if len(lq) % views else views)
        walk = self._prepare(self.enlarge(lq), request, _warn)
        *_, last = self._states(walk, request.sampling, request.condition, None)
        return walk.decode(last)

    def _scene(self, request: Request) -> _Scene:
        holes = None
        if request.mask is not None:
            holes = torch.from_numpy(request.mask.astype(np.float32))[None]
        return _Scene(tuple(self.upscale_input(image) for image in request.images), holes)

    @torch.inference_mode()
    def _prepare(self, lq: Float[Tensor, "b 3 h w"], request: Request, report: Report) -> _Walk:
        limits = request.limits
        free = limits.memory or free_memory(self.device)
        codec = codec_with_tiling(self.codec, lq, free, limits.tile, limits.policy, report)
        encoded = codec.encode(lq)
        reduced = max(encoded.mu.shape[-2:]) / max(lq.shape[-2:])
        tile = limits.tile and round(limits.tile * reduced)
        free = limits.memory or free_memory(self.device)  # encoding took some of it
        network = with_tiling(self.network, encoded.mu, free, tile, limits.policy, report)
        return _Walk(
            codec, encoded, network, self.sde.initial_time(self._noise_std(lq, request.sigma, report))
        )

    def _noise_std(self, lq: Float[Tensor, "b 3 h w"], sigma: float | None, report: Report) -> float | None:
        """Return the standard deviation of the noise, or an estimate of it if the process needs one.

        Raises:
            ValueError: sigma is needed and missing for several pictures, which may differ in noise.
        """
        if sigma is not None or not self.sde.needs_noise_std:
            return sigma
        if len(lq) > 1:
            raise ValueError(
                f"{len(lq)} pictures may differ in noise: give sigma, or restore them one by one"
            )
        sigma, most = estimate_noise_std(lq[0].contiguous()), float(self.sde.stds[-1])
        if sigma > most:
            text = f"noise of {255 * sigma:.1f}/255: this model takes off at most {255 * most:.1f}/255"
            report(Notice("noise-above-range", text, "warning"))
        else:
            report(Notice("noise-estimated", f"noise of {255 * sigma:.1f}/255"))
        return min(sigma, most)

    @torch.inference_mode()
    def _states(
        self, walk: _Walk, sampling: Sampling, condition: tuple[float, ...], cancel: Cancel | None
    ) -> Iterator[State]:
        mu = walk.encoded.mu
        sample_noise = noise_source(mu, sampling.seed)
        start = self.sde.initial_state(mu, sample_noise())
        times = timesteps(self.sde.steps, sampling.steps, walk.first)
        denoise = self._denoiser(walk, times, condition, cancel)
        yield from sample(denoise, self.sde, start, mu, times, sampling.solver, sample_noise)

    def _denoiser(
        self, walk: _Walk, times: Sequence[int], condition: tuple[float, ...], cancel: Cancel | None
    ) -> Denoise:
        mu, network = walk.encoded.mu, walk.network
        at = torch.tensor(times[:-1], dtype=torch.float32, device=mu.device)
        conditions = torch.tensor(condition, device=mu.device).expand(len(at), -1) if condition else None
        embeddings = dict(zip(times, torch.split(network.embed(at, conditions), 1), strict=False))

        def denoise(x_t: Batch, t: int) -> Batch:
            if cancel is not None and cancel():
                raise Cancelled("cancelled")
            batch_t = torch.full((len(x_t),), float(t), device=x_t.device)
            output = network(x_t, mu, batch_t, embeddings[t].expand(len(x_t), -1))
            x0 = self.prediction.clean(output, self.sde, x_t, mu, t)
            return x0.clamp(*self.codec.bounds) if self.codec.bounds else x0

        return denoise


def _restored(source: Image, pixels: Float[Tensor, "3 h w"]) -> Image:
    """Return the source with other pixels in [0, 1], which it owns from now on.

    Raises:
        ImageError: a pixel is NaN.
    """
    array = channels_last(pixels)
    if np.isnan(array.max()) or array.shape != source.pixels.shape:
        return source.with_pixels(pixels)  # which says what is wrong
    return replace(source, pixels=np.ascontiguousarray(array))


def _decode(scene: _Scene, walk: _Walk, state: State) -> tuple[Image, ...]:
    return scene.images(walk.decode(state))


def _warn(notice: Notice) -> None:
    """Issue a notice that is a warning as Python's."""
    if notice.level == "warning":
        warnings.warn(notice.text, RefusionWarning, stacklevel=4)


def _warned(result: Result) -> tuple[Image, ...]:
    """Return the images of a result, and issue its warnings as Python's to the caller's caller."""
    for notice in result.warnings:
        warnings.warn(notice.text, RefusionWarning, stacklevel=3)
    return result.images


def _rectification(views: Sequence[Image]) -> Iterator[Notice]:
    """Yield a warning if the right view is more than a pixel above or below the left one."""
    if len(views) > 1 and abs(offset := vertical_offset(*(view.tensor() for view in views))) > 1:
        text = f"right is {offset:+.1f} pixels lower than left: rectify them for good results"
        yield Notice("unrectified-views", text, "warning")


def _unchanged(sources: Sequence[Image], restored: Sequence[Image]) -> Iterator[Notice]:
    """Yield a warning for each picture in which no pixel changed visibly."""
    for source, image in zip(sources, restored, strict=True):
        rows = zip(image.pixels, source.pixels, strict=True)  # one by one, without a copy of the picture
        if all(np.abs(after - before).max() < UNCHANGED for after, before in rows):
            yield Notice("unchanged", "nothing changed; is this a picture for this model?", "warning")


def noise_source(ref: Batch, seed: int) -> NoiseFn:
    """Return a function that draws unit normal noise like `ref`, equal for its pictures on every device."""
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(ref.shape[1:], generator=generator).to(ref).expand(ref.shape)
