"""Requests to a restorer and their results, as values for commands, services and notebooks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from jaxtyping import Float, Shaped

from refusion.diffusion.sampling import SAMPLERS, Solver
from refusion.errors import Notice, hint
from refusion.imaging.formats import MAX_PIXELS
from refusion.imaging.image import Image, format_sizes
from refusion.nn.precision import PRECISIONS, Precision
from refusion.restoring.tiling import TilingPolicy

Mask = Shaped[np.ndarray, "h w"]
"""1 in the holes of a picture, 0 where it is kept."""
Guides = Shaped[np.ndarray, "*views guides h w"]
"""Maps beside a picture, in [0, 1]; of several views the same for all, or with a first axis for each."""
Std = Float[np.ndarray, "h w"]
"""Standard deviation over samples at each pixel, as the root mean square over the colours."""


@dataclass(frozen=True)
class Sampling:
    """Settings of the sampler. A model holds the defaults; every request may replace some.

    Args:
        steps: number of steps, each a call of the network, 1 ... T.
        sampler: a name in `SAMPLERS`, or a `Solver`.
        eta: 0 (deterministic) ... 1 (posterior); for the sampler "posterior" only.
        seed: seed of all noise.
        texture: of models with a mean stage: 0 is the mean, of the best PSNR, 1 a sample, and in between lies
            their interpolation, of the least squared error for its closeness to clean pictures in the
            Wasserstein distance (Freirich et al. 2021, arXiv 2107.02555).

    Raises:
        ValueError: an unknown sampler, steps below 1, eta outside [0, 1] or given to another sampler, texture
            outside [0, 1].
    """

    steps: int = 5
    sampler: str | Solver = "posterior"
    eta: float = 1.0
    seed: int = 0
    texture: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.sampler, str) and self.sampler not in SAMPLERS:
            choices = f"there are {', '.join(SAMPLERS)}"
            raise ValueError(f"unknown sampler {self.sampler!r}{hint(self.sampler, SAMPLERS)}: {choices}")
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}: give at least 1")
        if not 0 <= self.eta <= 1 or (self.eta != 1 and self.sampler != "posterior"):
            raise ValueError(f"eta is {self.eta}: give 0 to 1, and with the sampler 'posterior' only")
        if not 0 <= self.texture <= 1:
            raise ValueError(f"texture is {self.texture}: give 0 (the mean) to 1 (a sample)")

    @property
    def solver(self) -> Solver:
        return SAMPLERS[self.sampler](self.eta) if isinstance(self.sampler, str) else self.sampler


@dataclass(frozen=True)
class Limits:
    """Limits of a restoration: tiles, memory and precision.

    Args:
        tile: side in pixels of the tiles in which a large picture is restored; by default the largest that
            fits in the memory.
        memory: bytes that may be used; by default all that are free. Give each of several requests that
            run at the same time a part.
        policy: the sizes at which tiling begins.
        max_pixels: files of pictures with more are refused before they are decoded.
        precision: in which the network multiplies: "32", "bf16", "16", or "auto", what the device multiplies
            natively. Norms, states and all other arithmetic are in float32.

    Raises:
        ValueError: a tile below the policy's smallest, less than 1 byte or 1 pixel, an unknown precision.
    """

    tile: int | None = None
    memory: int | None = None
    policy: TilingPolicy = TilingPolicy()
    max_pixels: int = MAX_PIXELS
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}: there are {', '.join(PRECISIONS)}")
        if self.tile is not None and self.tile < self.policy.min_tile:
            remedy = "or nothing to choose by free memory"
            raise ValueError(f"tile is {self.tile}: give at least {self.policy.min_tile} pixels, {remedy}")
        if self.memory is not None and self.memory < 1:
            raise ValueError(f"memory is {self.memory}: give bytes, or nothing for what is free")
        if self.max_pixels < 1:
            raise ValueError(f"max_pixels is {self.max_pixels}: give at least 1")


@dataclass(frozen=True, eq=False)
class Request:
    """One picture, or the views of one scene, and all settings of its restoration.

    `Restorer.request` makes one with the model's own sampling as the default.

    Args:
        images: one picture, or a left and a right view.
        sampling: settings of the sampler.
        condition: numbers for the network, as many as it takes (for lenses see `refusion.imaging.lens`).
        sigma: standard deviation of the noise in the picture, in [0, 1]; only for models of Gaussian
            denoising, which estimate it by default.
        mask: for inpainting; pixels where it is 0 are kept to the last bit. Models with a `fill` see it as
            their first guide.
        guides: maps beside the picture for models that take some, as many as they take, but for the mask of
            models with a `fill`; by default 0 everywhere.
        samples: number of restorations, with the seeds seed, seed + 1, ...; the result is their mean.
        trajectory: also return the picture after every step.
        self_ensemble: restore the picture in its eight orientations, turned and mirrored, in eight times the
            time; the result is their mean, see `refusion.restoring.self_ensemble`.
        limits: tiles and memory.

    Raises:
        ValueError: views of different sizes, a mask or guides of another size, sigma outside [0, 1], fewer
            than one sample, several at texture 0, a trajectory of several samples or views, a self-ensemble
            with either or of views.
    """

    images: tuple[Image, ...]
    sampling: Sampling
    condition: tuple[float, ...] = ()
    sigma: float | None = None
    mask: Mask | None = None
    guides: Guides | None = None
    samples: int = 1
    trajectory: bool = False
    self_ensemble: bool = False
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if len({image.size for image in self.images}) > 1:
            raise ValueError(f"left and right are {format_sizes(*self.images)}: give views of one size")
        if self.sigma is not None and not 0 <= self.sigma <= 1:
            raise ValueError(f"sigma is {self.sigma}: 25 grey levels are 25/255 in [0, 1]")
        if self.mask is not None:
            self._check_map("mask", self.mask, "give 1 in a hole and 0 elsewhere")
        if self.guides is not None:
            self._check_map("guide", self.guides, "give 0 to 1")
            if self.guides.ndim > 4 or (self.guides.ndim == 4 and len(self.guides) != len(self.images)):
                shape = "x".join(map(str, self.guides.shape))
                raise ValueError(
                    f"guides are {shape}: give guides x height x width, for each view or for all"
                )
        if self.samples < 1:
            raise ValueError(f"samples is {self.samples}: give at least 1")
        if self.samples > 1 and not self.sampling.texture:
            raise ValueError(f"samples is {self.samples} and texture 0, which has one: give more of it, or 1")
        if self.trajectory and (self.samples > 1 or len(self.images) > 1):
            raise ValueError("a trajectory is of a single picture and a single sample: leave one out")
        if self.self_ensemble and (self.samples > 1 or self.trajectory or len(self.images) > 1):
            raise ValueError(
                "a self-ensemble is of a single picture, without samples or trajectory: leave one out"
            )

    def _check_map(self, name: str, values: np.ndarray, remedy: str) -> None:
        if any(values.shape[-2:] != image.pixels.shape[:2] for image in self.images):
            height, width = values.shape[-2:]
            sizes = f"{width}x{height} and the picture {format_sizes(*self.images)}"
            raise ValueError(f"the {name} is {sizes}: give equal ones")
        if not (values.min() >= 0 and values.max() <= 1):  # NaN is neither
            raise ValueError(f"the {name} spans {values.min():g} to {values.max():g}: {remedy}")


class Options(TypedDict, total=False):
    """The keywords of `Restorer.request`: fields of `Sampling`, `Request` and `Limits`."""

    steps: int
    sampler: str | Solver
    eta: float
    seed: int
    texture: float
    condition: tuple[float, ...]
    sigma: float | None
    mask: Mask | None
    guides: Guides | None
    samples: int
    trajectory: bool
    self_ensemble: bool
    tile: int | None
    memory: int | None
    policy: TilingPolicy
    max_pixels: int
    precision: Precision


@dataclass(frozen=True, eq=False)
class Progress:
    """The progress of a restoration after a step.

    Args:
        done: steps so far, of all samples.
        total: steps of all samples.
        preview: decodes the current state, a picture for each view; callable only during the callback.
    """

    done: int
    total: int
    preview: Callable[[], tuple[Image, ...]]


@dataclass(frozen=True, eq=False)
class Result:
    """The result of a request.

    Args:
        images: the restored picture, or one for each view.
        stds: the standard deviation of each over the samples, times the model's `std_scale`; empty for a
            single sample.
        trajectory: the picture after every step, if requested; the last one is the restored one.
        notices: messages for the user.
    """

    images: tuple[Image, ...]
    stds: tuple[Std, ...] = ()
    trajectory: tuple[Image, ...] = ()
    notices: tuple[Notice, ...] = ()

    @property
    def image(self) -> Image:
        """The restored picture, or the left one of two views."""
        return self.images[0]

    @property
    def std(self) -> Std | None:
        """The standard deviation of `image` over the samples; None for a single one."""
        return self.stds[0] if self.stds else None

    @property
    def warnings(self) -> tuple[Notice, ...]:
        """The notices that put the result in doubt."""
        return tuple(notice for notice in self.notices if notice.level == "warning")

    def __repr__(self) -> str:
        parts = [", ".join(map(repr, self.images))]
        parts += [f"{len(self.trajectory)} steps"] if self.trajectory else []
        parts += ["std over samples"] if self.stds else []
        parts += [str(notice) for notice in self.notices]
        return f"Result({'; '.join(parts)})"


class Ensemble:
    """Running mean and standard deviation of pictures by Welford's update, in the memory of two."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.count = 0
        self.mean = np.zeros(shape, np.float32)
        self._squares = np.zeros(shape, np.float32)

    def add(self, pixels: Float[np.ndarray, "h w 3"]) -> None:
        """Add a picture."""
        self.count += 1
        change = pixels - self.mean
        self.mean += change / self.count
        self._squares += change * (pixels - self.mean)

    @property
    def std(self) -> Std:
        """The standard deviation over the pictures, of which there must be at least two."""
        std: Std = np.sqrt(self._squares.mean(-1) / (self.count - 1))
        return std


def split_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Sort keywords into those of `Sampling`, of `Limits` and of `Request`.

    Raises:
        TypeError: a keyword that none of them takes.
    """
    names = list(Options.__annotations__)
    for name in options:
        if name not in names:
            raise TypeError(f"unknown option {name}{hint(name, names)}: there are {', '.join(names)}")
    kinds = (Sampling, Limits, Request)
    return tuple(
        {name: options[name] for name in kind.__dataclass_fields__ if name in options} for kind in kinds
    )
