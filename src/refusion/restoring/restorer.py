"""The restorer: a picture is encoded to (mu, features), sampled from t = T to 0, and decoded."""

import functools
import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Unpack

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from refusion.diffusion.prediction import Prediction
from refusion.diffusion.sampling import State
from refusion.diffusion.schedule import timesteps
from refusion.diffusion.sde import SDE
from refusion.errors import Notice, RefusionWarning, Report
from refusion.imaging.analysis import estimate_noise_std
from refusion.imaging.arrays import ImageLike, as_image
from refusion.imaging.image import Image
from refusion.imaging.resize import Enlarge
from refusion.nn.network import Network
from refusion.nn.precision import multiplying
from refusion.restoring.admission import Demand, Work, least_demand
from refusion.restoring.codec import Codec, codec_with_tiling
from refusion.restoring.mean import estimated_mean
from refusion.restoring.memory import free_memory
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
from refusion.restoring.scene import Scene, rectification_notices, unchanged_notices
from refusion.restoring.self_ensemble import self_ensemble
from refusion.restoring.tiling import ignore, with_tiling
from refusion.restoring.walk import Cancel, Walk


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
        fill: of holes, see `ModelSpec.fill`.
        name: of the model, for messages.
        std_scale: factor of the standard deviation of samples, which are surer than they are right.
        mean: a regression network in front, whose estimate of the mean of all clean pictures takes the place
            of mu (Ohayon et al. 2024, arXiv 2410.00418; Whang et al. 2022, arXiv 2112.02475). The residual is
            then what a regression cannot know.
    """

    network: Network
    codec: Codec
    sde: SDE
    prediction: Prediction
    sampling: Sampling = Sampling()
    enlarge: Enlarge = Enlarge()
    fill: str | None = None
    name: str = "a model"
    std_scale: float = 1.0
    mean: Network | None = None

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def to(self, device: str | torch.device) -> "Restorer":
        mean = None if self.mean is None else self.mean.to(device)
        return replace(self, network=self.network.to(device), codec=self.codec.to(device), mean=mean)

    def __repr__(self) -> str:
        millions = sum(p.numel() for part in self.modules().values() for p in part.parameters()) / 1e6
        kinds = f"{type(self.network).__name__} on {type(self.codec).__name__}"
        sampler = self.sampling.sampler
        name = sampler if isinstance(sampler, str) else getattr(sampler, "__name__", "a solver")
        walk = f"steps={self.sampling.steps}, sampler={name}"
        return f"Restorer({self.name}: {kinds}, {millions:.1f} M parameters, {walk}, {self.device})"

    def modules(self) -> dict[str, nn.Module]:
        """Return the parts that have weights, by name."""
        parts: dict[str, nn.Module] = {"network": self.network, "codec": self.codec}
        return parts if self.mean is None else {**parts, "mean": self.mean}

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
        work = Work(
            (size[0] * self.enlarge.factor, size[1] * self.enlarge.factor),
            replace(self.sampling, **sampling).steps,
            2 if rest.get("self_ensemble") else rest.get("samples", 1),  # their mean takes as much
            self.enlarge.factor > 1,
            masked,
            rest.get("trajectory", False),
            self.fill == "harmonic",
        )
        on_cpu = self.device.type == "cpu"
        networks = [self.network] if self.mean is None else [self.network, self.mean]
        demands = [least_demand(work, one, self.codec, Limits(**limits), on_cpu) for one in networks]
        return max(demands, key=lambda demand: demand.device)

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
        if request.self_ensemble:
            source = self.upscale_input(request.images[0])
            return self_ensemble(
                lambda one, note, told: self.run(one, told, cancel, note), request, source, progress, report
            )
        if request.limits.memory is None:
            self._admit(request)
        notices: list[Notice] = []

        def note(notice: Notice) -> None:
            notices.append(notice)
            report(notice)

        for notice in rectification_notices(request.images):
            note(notice)
        scene = self._scene(request)
        walk = self._prepare(scene.tensor().to(self.device), scene.guides.to(self.device), request, note)
        total = request.samples * (len(walk.times(request.sampling.steps)) - 1)
        several = scene.sources if request.samples > 1 else ()
        ensembles = [Ensemble(source.pixels.shape) for source in several]
        trajectory: list[Image] = []
        done = itertools.count(1)
        for i in range(request.samples):
            sampling = replace(request.sampling, seed=request.sampling.seed + i)
            for state in walk.states(sampling, request.condition, cancel):
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
        for notice in unchanged_notices(scene.sources, images):
            note(notice)
        stds = tuple(self.std_scale * ensemble.std for ensemble in ensembles)
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
            ValueError: the model takes another number of views, conditions or guides, no sigma or no mask,
                needs a mask, takes fewer steps, or does not multiply in that precision.
        """
        guides = 0 if request.guides is None else request.guides.shape[-3]
        if self.fill and request.images and (request.mask is None or guides):
            raise ValueError(
                "this model fills the holes of a mask, its only guide: give one (--mask, --hole-colour)"
            )
        self.network.check(len(request.images) if views is None else views, len(request.condition), guides)
        precision, known = request.limits.precision, self.network.precisions
        if precision not in known:
            raise ValueError(f"precision is {precision}: this model takes {' or '.join(known)}")
        if request.sigma is not None and not self.sde.needs_noise_std:
            raise ValueError(f"sigma is {request.sigma}: only models of Gaussian denoising take it")
        if request.mask is not None and self.enlarge.factor > 1:
            raise ValueError(f"mask: this model enlarges {self.enlarge.factor} times; take one of inpainting")
        if request.sampling.texture != 1 and self.mean is None:
            raise ValueError(
                f"texture is {request.sampling.texture}: this model has no mean stage; leave it out"
            )
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
        self,
        lq: Float[Tensor, "b 3 h w"],
        maps: Float[Tensor, "b guides h w"] | None = None,
        **options: Unpack[Options],
    ) -> Float[Tensor, "b 3 restored_h restored_w"]:
        """Restore a batch in [0, 1] on the restorer's device.

        All pictures share the seed's noise field, so that the result of each does not depend on the others.
        The left and the right view of a scene are consecutive.

        Args:
            lq: the pictures; holes of models with a `fill` are filled already, and their results are not
                composed with what was kept.
            maps: guides beside each picture, as large, on the same device; by default 0.
            options: of all restorations.

        Raises:
            ValueError: see `run`; or options of single scenes: a mask, guides, samples, a trajectory or a
                self-ensemble.
        """
        request, views = self.request(**options), self.network.num_views
        single = (request.mask is not None, request.guides is not None, request.samples > 1)
        if any(single) or request.trajectory or request.self_ensemble:
            one_by_one = "restore its pictures one by one"
            raise ValueError(
                f"a batch takes no mask, guides, samples, trajectory or self-ensemble: {one_by_one}"
            )
        self.check(request, len(lq) if len(lq) % views else views)
        if maps is None:
            maps = lq.new_zeros(len(lq), self.network.num_guides, *lq.shape[-2:])
        self.network.check(views, None, maps.shape[1])
        walk = self._prepare(self.enlarge(lq), maps, request, _warn)
        *_, last = walk.states(request.sampling, request.condition, None)
        return walk.decode(last)

    def _scene(self, request: Request) -> Scene:
        holes = None
        if request.mask is not None:
            holes = torch.from_numpy(request.mask.astype(np.float32))[None]
        size = request.images[0].size[::-1]
        guides = torch.zeros(1, self.network.num_guides, *size)
        if request.guides is not None:
            guides = torch.from_numpy(request.guides.astype(np.float32)).reshape(-1, *guides.shape[1:])
        elif self.fill and holes is not None:
            guides = (holes > 0).float()[None]
        sources = tuple(self.upscale_input(image) for image in request.images)
        guides = guides.expand(len(sources), -1, -1, -1)
        return Scene(sources, holes, guides, self.fill or "white")

    @torch.inference_mode()
    def _prepare(
        self,
        lq: Float[Tensor, "b 3 h w"],
        guides: Float[Tensor, "b guides input_h input_w"],
        request: Request,
        report: Report,
    ) -> Walk:
        limits = request.limits
        free = limits.memory or free_memory(self.device)
        codec = codec_with_tiling(self.codec, lq, free, limits.tile, limits.policy, report)
        encoded = codec.encode(lq)
        lq_state = encoded.mu
        reduced = max(encoded.mu.shape[-2:]) / max(lq.shape[-2:])
        tile = limits.tile and round(limits.tile * reduced)
        free = limits.memory or free_memory(self.device)  # encoding took some of it
        network = with_tiling(self.network, encoded.mu, free, tile, limits.policy, report)
        first = self.sde.initial_time(self._noise_std(lq, request.sigma, report))
        maps = self.enlarge(guides) if guides.shape[1] else guides
        if self.mean is not None:
            mean = with_tiling(self.mean, encoded.mu, free, tile, limits.policy, report)
            with multiplying(limits.precision, self.device):
                mu = estimated_mean(mean, self.sde, codec, lq_state, maps, request.condition)
            encoded = encoded._replace(mu=mu)
        seen = codec.seen(network, encoded.mu, maps, lq_state)
        sampling = request.sampling
        return Walk(
            codec,
            encoded,
            seen,
            network,
            self.sde,
            self.prediction,
            first,
            limits.precision,
            sampling.texture,
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


def _decode(scene: Scene, walk: Walk, state: State) -> tuple[Image, ...]:
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
