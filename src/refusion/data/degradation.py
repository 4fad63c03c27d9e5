"""Synthetic degradations, for tasks with few pairs or none.

A degradation is a value: called with a clean picture and a random generator it returns an example, the same
for equal states of the generator. Lengths are in pixels, light and noise in units of the range [0, 1].
Parameters are drawn uniformly from their ranges.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from refusion.data.fields import Field, Picture, smooth_field, stretch
from refusion.imaging.masks import apply_mask
from refusion.imaging.resize import reduced

Kernel = Float[Tensor, "side side"]
TRIES = 8
"""Draws of holes until one is in a window."""


class Example(NamedTuple):
    """A degraded picture, the picture it should be restored to, the condition of the network, and guides."""

    lq: Picture
    gt: Picture
    condition: tuple[float, ...] = ()
    """Numbers for the network, such as those of lenses."""
    guides: Float[Tensor, "guides h w"] | None = None
    """Maps of lq in [0, 1] for the network, such as the mask of holes; None if there are none."""


@runtime_checkable
class Degradation(Protocol):
    """A degradation: a clean picture in [0, 1] -> an example."""

    def __call__(self, clean: Picture, rng: np.random.Generator) -> Example: ...


@dataclass(frozen=True, kw_only=True)
class Haze:
    """Uneven haze by atmospheric scattering: I = J t + A (1 - t), t = exp(-density depth) (Koschmieder).

    The depth is random: it grows along a direction, mostly upwards, varies smoothly, and partly follows the
    brightness of the picture, so that it has edges at objects. The density varies smoothly over the picture.

    Args:
        name: of the degradation, in a recipe.
        thin, thick: range of the optical depth at the farthest point, for the average density.
        uneven: largest logarithm of the ratio of the density to its average, in both directions.
        dim: darkest airlight A; the brightest is 1.
        tint: largest relative difference of a colour channel of A from grey.
        cold: largest relative excess of blue in A, and lack of red, as of the fog of machines and in shade.
        banks: largest optical depth of banks of fog, which hang before the scene at any distance.

    Raises:
        ValueError: a range is empty or negative.
    """

    name: Literal["Haze"] = "Haze"
    thin: float = 0.3
    thick: float = 2.5
    uneven: float = 1.0
    dim: float = 0.7
    tint: float = 0.04
    cold: float = 0.0
    banks: float = 0.0

    def __post_init__(self) -> None:
        check_range("0", 0, "banks", self.banks)
        check_range("0", 0, "cold", self.cold, highest=1)
        if not 0 <= self.thin <= self.thick < math.inf:
            raise ValueError(f"thin {self.thin} and thick {self.thick}: give 0 <= thin <= thick")
        if not (0 < self.dim <= 1 and 0 <= self.uneven < math.inf and 0 <= self.tint < 1):
            values = f"dim {self.dim}, uneven {self.uneven}, tint {self.tint}"
            raise ValueError(f"{values}: give dim and tint from 0 to 1, and uneven at least 0")

    def __call__(self, clean: Picture, rng: np.random.Generator) -> Example:
        size = (clean.shape[-2], clean.shape[-1])
        up = rng.normal(0, 0.5)
        y, x = torch.meshgrid(torch.linspace(0, 1, size[0]), torch.linspace(0, 1, size[1]), indexing="ij")
        slope = stretch((math.sin(up) * x - math.cos(up) * y)[None])
        light = F.avg_pool2d(clean.mean(0, keepdim=True)[None], 7, 1, 3, count_include_pad=False)[0]
        depth = stretch(slope ** rng.uniform(0.5, 2) + rng.uniform(0, 0.7) * smooth_field(size, rng))
        brightness_weight = rng.uniform(0, 0.5)
        depth = (1 - brightness_weight) * depth + brightness_weight * stretch(light)
        near = rng.uniform(0, 0.5)
        depth = near + (1 - near) * depth
        density = torch.exp(rng.uniform(0, self.uneven) * (2 * smooth_field(size, rng) - 1))
        optical = rng.uniform(self.thin, self.thick) * depth * density
        tint = 1 + self.tint * torch.from_numpy(rng.uniform(-1, 1, (3, 1, 1))).float()
        airlight = rng.uniform(self.dim, 1) * tint
        if self.cold:
            blue = rng.uniform(0, self.cold)
            airlight = airlight * torch.tensor([1 - blue, 1.0, 1 + blue])[:, None, None]
        if self.banks:
            optical = optical + rng.uniform(0, self.banks) * smooth_field(size, rng) ** rng.uniform(1, 3)
        transmission, airlight = torch.exp(-optical), airlight.clamp(0, 1)
        return Example(clean * transmission + airlight * (1 - transmission), clean)


@dataclass(frozen=True, kw_only=True)
class Rain:
    """Heavy rain: grey streaks of one or two directions are added to the picture.

    Args:
        name: of the degradation, in a recipe.
        shortest, longest: range of the length of a streak.
        slant: largest angle to the vertical in degrees.
        thick: largest thickness of a streak in pixels; the smallest is 0.7.
        sparse, dense: range of the number of the shortest streaks that begin at a pixel.
        faint, strong: range of the brightness that a single streak adds.

    Raises:
        ValueError: a range is empty or negative.
    """

    name: Literal["Rain"] = "Rain"
    shortest: int = 15
    longest: int = 60
    slant: float = 35.0
    thick: float = 1.6
    sparse: float = 0.01
    dense: float = 0.08
    faint: float = 0.15
    strong: float = 0.6

    def __post_init__(self) -> None:
        check_range("shortest", self.shortest, "longest", self.longest, lowest=1)
        check_range("sparse", self.sparse, "dense", self.dense, highest=1)
        check_range("faint", self.faint, "strong", self.strong, highest=1)
        check_range("0.7", 0.7, "thick", self.thick, lowest=0.7)
        if not 0 <= self.slant <= 90:
            raise ValueError(f"slant {self.slant:g}: give 0 to 90 degrees")

    def __call__(self, clean: Picture, rng: np.random.Generator) -> Example:
        size = (clean.shape[-2], clean.shape[-1])
        light = torch.zeros(1, *size)
        slant = rng.uniform(-self.slant, self.slant)
        for _ in range(int(rng.integers(1, 3))):
            length = rng.uniform(self.shortest, self.longest)
            angle = math.radians(90 + slant + rng.normal(0, 3))
            half = length / 2 * np.array([math.cos(angle), math.sin(angle)])
            streak = _line(half, rng.uniform(0.7, self.thick))
            seen = tuple(side + streak.shape[-1] - 1 for side in size)  # some streaks begin outside
            begins = rng.random(seen) < rng.uniform(self.sparse, self.dense) * self.shortest / length
            drops = torch.from_numpy(begins * rng.uniform(0.3, 1, seen)).float()[None]
            light += rng.uniform(self.faint, self.strong) * convolved(drops, streak).clamp(0, 1)
            slant = -slant
        return Example((clean + light).clamp(0, 1), clean)


@dataclass(frozen=True, kw_only=True)
class Holes:
    """White holes in the picture: strokes, scratches and boxes; the guide is their mask.

    Args:
        name: of the degradation, in a recipe.
        fewest, most: range of the number of holes.
        thinnest, thickest: range of the thickness of a stroke, in parts of the picture's shorter side.
        least_side: smaller pictures, as training samples are, get a window of the holes of a picture of this
            side, so that holes are as large as in restoration; at least one of them if `TRIES` windows do.

    Raises:
        ValueError: a range is empty or negative.
    """

    name: Literal["Holes"] = "Holes"
    fewest: int = 2
    most: int = 8
    thinnest: float = 0.01
    thickest: float = 0.12
    least_side: int = 0

    def __post_init__(self) -> None:
        check_range("0", 0, "least_side", self.least_side, highest=65536)
        check_range("fewest", self.fewest, "most", self.most, lowest=1)
        check_range("thinnest", self.thinnest, "thickest", self.thickest, lowest=1e-4, highest=1)

    def __call__(self, clean: Picture, rng: np.random.Generator) -> Example:
        size = (clean.shape[-2], clean.shape[-1])
        holes = self._holes(size, rng)
        for _ in range(TRIES if min(size) < self.least_side else 0):
            if bool(holes.any()):
                break
            holes = self._holes(size, rng)
        return Example(apply_mask(clean, holes), clean, guides=holes)

    def _holes(self, size: tuple[int, int], rng: np.random.Generator) -> Field:
        height, width = (max(length, self.least_side) for length in size)
        side = min(height, width)
        top, left = (
            int(rng.integers(m - n + 1)) if m > n else 0 for m, n in zip((height, width), size, strict=True)
        )
        y, x = np.mgrid[top : top + size[0], left : left + size[1]].astype(np.float32)
        holes = np.zeros(size, bool)
        for _ in range(int(rng.integers(self.fewest, self.most + 1))):
            place = rng.uniform(0, 1, 2) * (width, height)
            if rng.random() < 0.25:
                half = rng.uniform(self.thickest / 2, 1.5 * self.thickest, 2) * side
                holes |= (np.abs(x - place[0]) < half[0]) & (np.abs(y - place[1]) < half[1])
                continue
            thickness = side * math.exp(rng.uniform(math.log(self.thinnest), math.log(self.thickest)))
            angle = rng.uniform(0, 2 * math.pi)
            for _ in range(int(rng.integers(1, 5))):
                angle += rng.normal(0, 0.7)
                end = place + rng.uniform(0.1, 0.4) * side * np.array([math.cos(angle), math.sin(angle)])
                holes |= _distance(x, y, place, end) < max(0.5, thickness / 2)
                place = end
        return torch.from_numpy(holes).float()[None]


@dataclass(frozen=True, kw_only=True)
class Downscale:
    """A reduction by a bicubic with antialiasing, as by MATLAB's imresize.

    Args:
        name: of the degradation, in a recipe.
        factor: by which each side is reduced; the picture is cut to multiples at the right and the bottom.

    Raises:
        ValueError: the factor is not in 1 ... 16; or, when called, the picture is smaller than the factor.
    """

    name: Literal["Downscale"] = "Downscale"
    factor: int = 4

    def __post_init__(self) -> None:
        check_range("1", 1, "factor", self.factor, highest=16)

    def __call__(self, clean: Picture, rng: np.random.Generator) -> Example:
        height = clean.shape[-2] // self.factor * self.factor
        width = clean.shape[-1] // self.factor * self.factor
        if not height or not width:
            raise ValueError(f"a picture of {tuple(clean.shape[-2:])} cannot be reduced {self.factor} times")
        gt = clean[..., :height, :width]
        return Example(reduced(gt[None], self.factor)[0], gt)


def _line(half: np.ndarray, thickness: float) -> Kernel:
    """Return the picture of a line from -half to half (x, y), of brightness 1."""
    reach = math.ceil(np.abs(half).max() + thickness)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)
    return torch.from_numpy((0.5 + thickness / 2 - _distance(x, y, -half, half)).clip(0, 1)).float()


def _distance(x: np.ndarray, y: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the distance of every point to the line from `start` to `end`."""
    along = end - start
    part = ((x - start[0]) * along[0] + (y - start[1]) * along[1]) / max(float(along @ along), 1e-6)
    part = part.clip(0, 1)
    distance: np.ndarray = np.hypot(x - start[0] - part * along[0], y - start[1] - part * along[1])
    return distance


def filtered(picture: Float[Tensor, "c h w"], kernel: Kernel) -> Float[Tensor, "c h w"]:
    """Convolve a picture with a kernel; the border is repeated."""
    return convolved(F.pad(picture[None], (kernel.shape[-1] // 2,) * 4, mode="replicate")[0], kernel)


def convolved(picture: Float[Tensor, "c h w"], kernel: Kernel) -> Float[Tensor, "c inner_h inner_w"]:
    """Convolve where the kernel lies within the picture, by Fourier transform since kernels are large."""
    size = (picture.shape[-2], picture.shape[-1])
    product = torch.fft.rfft2(picture.double()) * torch.fft.rfft2(kernel.double(), s=size)
    convolved: Tensor = torch.fft.irfft2(
        product, s=size
    )  # in float64, so that it is the same with any number of threads
    return convolved[..., kernel.shape[-2] - 1 :, kernel.shape[-1] - 1 :].float()


def noisy(picture: Picture, std: float, rng: np.random.Generator) -> Picture:
    """Add white noise."""
    noise = torch.from_numpy(rng.standard_normal(picture.shape, dtype=np.float32))
    return (picture + std * noise).clamp(0, 1)


def check_range(
    low_name: str, low: float, high_name: str, high: float, lowest: float = 0, highest: float = math.inf
) -> None:
    """Raise ValueError unless lowest <= low <= high <= highest."""
    if not (lowest <= low <= high <= highest and high < math.inf):
        most = f" <= {highest:g}" if highest < math.inf else ""
        raise ValueError(
            f"{low_name} {low:g} and {high_name} {high:g}: give {lowest:g} <= {low_name} <= {high_name}{most}"
        )
