"""Degradations that are made, for tasks whose pairs are few or cannot be had.

Each is a value: called with a clean picture and a source of randomness it gives an example, and the
same randomness gives the same example. Lengths are in pixels, light and noise in units of the range
[0, 1]. Several values of a range are drawn evenly from it.
"""

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import BeforeValidator
from torch import Tensor

from refusion.resize import reduced

Picture = Float[Tensor, "3 h w"]
Field = Float[Tensor, "1 h w"]
Kernel = Float[Tensor, "side side"]


def _fraction(value: object) -> object:
    try:
        return float(Fraction(value)) if isinstance(value, str) and "/" in value else value
    except ZeroDivisionError:
        raise ValueError("a fraction needs another denominator than 0") from None


Level = Annotated[float, BeforeValidator(_fraction)]
"""In units of the image range [0, 1]; a recipe may write it as a fraction, 50/255."""


class Example(NamedTuple):
    """What training and measuring ask for: a degraded picture, and what it should be restored to."""

    lq: Picture
    gt: Picture
    condition: tuple[float, ...] = ()
    """Numbers that tell the network what is wanted, as lenses do."""


@runtime_checkable
class Degradation(Protocol):
    """Clean picture in [0, 1] -> example."""

    def __call__(self, clean: Picture, rng: np.random.Generator) -> Example: ...


@dataclass(frozen=True, kw_only=True)
class Haze:
    """Uneven haze by atmospheric scattering: I = J t + A (1 - t), t = exp(-density depth) (Koschmieder).

    Depth is made up: it grows along a random direction, mostly upwards, rolls smoothly, and follows
    the picture's own brightness in part, so that it has edges where objects have. The density varies
    smoothly over the picture.

    Args:
        name: what a recipe calls it.
        thin, thick: range of the optical depth at the farthest point, where the density is average.
        uneven: largest density above, and smallest below the average, as powers of e.
        dim: darkest airlight A; the brightest is 1.
        tint: largest deviation of one colour channel of A from grey.

    Raises:
        ValueError: a range is empty or negative.
    """

    name: Literal["Haze"] = "Haze"
    thin: float = 0.3
    thick: float = 2.5
    uneven: float = 1.0
    dim: float = 0.7
    tint: float = 0.04

    def __post_init__(self) -> None:
        if not 0 <= self.thin <= self.thick < math.inf:
            raise ValueError(f"thin {self.thin} and thick {self.thick}: give 0 <= thin <= thick")
        if not (0 < self.dim <= 1 and 0 <= self.uneven < math.inf and 0 <= self.tint < 1):
            values = f"dim {self.dim}, uneven {self.uneven}, tint {self.tint}"
            raise ValueError(f"{values}: give dim and tint from 0 to 1, and uneven at least 0")

    def __call__(self, clean: Picture, rng: np.random.Generator) -> Example:
        size = (clean.shape[-2], clean.shape[-1])
        up = rng.normal(0, 0.5)
        y, x = torch.meshgrid(*(torch.linspace(0, 1, n) for n in size), indexing="ij")
        slope = _unit((math.sin(up) * x - math.cos(up) * y)[None])
        light = F.avg_pool2d(clean.mean(0, keepdim=True)[None], 7, 1, 3, count_include_pad=False)[0]
        depth = _unit(slope ** rng.uniform(0.5, 2) + rng.uniform(0, 0.7) * smooth_field(size, rng))
        depth = (1 - (share := rng.uniform(0, 0.5))) * depth + share * _unit(light)
        near = rng.uniform(0, 0.5)
        depth = near + (1 - near) * depth
        density = torch.exp(rng.uniform(0, self.uneven) * (2 * smooth_field(size, rng) - 1))
        transmission = torch.exp(-rng.uniform(self.thin, self.thick) * depth * density)
        tint = 1 + self.tint * torch.from_numpy(rng.uniform(-1, 1, (3, 1, 1))).float()
        airlight = (rng.uniform(self.dim, 1) * tint).clamp(0, 1)
        return Example(clean * transmission + airlight * (1 - transmission), clean)


@dataclass(frozen=True, kw_only=True)
class Rain:
    """Heavy rain: grey streaks of one or two directions are added to the picture.

    Args:
        name: what a recipe calls it.
        shortest, longest: of a streak.
        slant: largest angle to the vertical in degrees.
        sparse, dense: streaks that begin on a pixel.
        faint, strong: what a streak adds where nothing else does.

    Raises:
        ValueError: a range is empty or negative.
    """

    name: Literal["Rain"] = "Rain"
    shortest: int = 15
    longest: int = 60
    slant: float = 35.0
    sparse: float = 0.01
    dense: float = 0.08
    faint: float = 0.15
    strong: float = 0.6

    def __post_init__(self) -> None:
        _check_range("shortest", self.shortest, "longest", self.longest, lowest=1)
        _check_range("sparse", self.sparse, "dense", self.dense, highest=1)
        _check_range("faint", self.faint, "strong", self.strong, highest=1)
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
            streak = _line(half, rng.uniform(0.7, 1.6))
            seen = tuple(side + streak.shape[-1] - 1 for side in size)  # some come in from outside
            begins = rng.random(seen) < rng.uniform(self.sparse, self.dense) * self.shortest / length
            drops = torch.from_numpy(begins * rng.uniform(0.3, 1, seen)).float()[None]
            light += rng.uniform(self.faint, self.strong) * _convolved(drops, streak).clamp(0, 1)
            slant = -slant
        return Example((clean + light).clamp(0, 1), clean)


@dataclass(frozen=True, kw_only=True)
class MotionBlur:
    """A shaken camera: the picture is averaged in linear light along a smooth random path.

    Args:
        name: what a recipe calls it.
        shortest, longest: of the path.
        noise: largest deviation of white noise that is added after.

    Raises:
        ValueError: a range is empty or negative.
    """

    name: Literal["MotionBlur"] = "MotionBlur"
    shortest: float = 3.0
    longest: float = 20.0
    noise: float = 0.01

    def __post_init__(self) -> None:
        _check_range("shortest", self.shortest, "longest", self.longest)
        if not 0 <= self.noise <= 1:
            raise ValueError(f"noise {self.noise:g}: give 0 to 1")

    def __call__(self, clean: Picture, rng: np.random.Generator) -> Example:
        blurred = _filtered(clean**2.2, self._path(rng)).clamp(0, 1) ** (1 / 2.2)
        return Example(_noisy(blurred, rng.uniform(0, self.noise), rng), clean)

    def _path(self, rng: np.random.Generator, points: int = 256) -> Kernel:
        """A walk of constant speed whose direction turns smoothly; its pixels sum to 1."""
        turns = np.cumsum(rng.normal(0, rng.uniform(0, 0.3), points)) / math.sqrt(points) * 4
        angles = rng.uniform(0, 2 * math.pi) + turns
        steps = np.stack([np.cos(angles), np.sin(angles)]) * rng.uniform(self.shortest, self.longest) / points
        path = np.cumsum(steps, axis=1)
        path -= (path.min(axis=1, keepdims=True) + path.max(axis=1, keepdims=True)) / 2
        reach = math.ceil(np.abs(path).max()) + 1
        kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
        x, y = np.floor(path).astype(int) + reach
        right, down = path - np.floor(path)
        for dx, wx in ((0, 1 - right), (1, right)):
            for dy, wy in ((0, 1 - down), (1, down)):
                np.add.at(kernel, (y + dy, x + dx), wx * wy / points)
        return torch.from_numpy(kernel)


@dataclass(frozen=True, kw_only=True)
class GaussianNoise:
    """White noise.

    Args:
        name: what a recipe calls it.
        weakest, strongest: its deviation.

    Raises:
        ValueError: the range is empty or negative.
    """

    name: Literal["GaussianNoise"] = "GaussianNoise"
    weakest: Level = 5 / 255
    strongest: Level = 50 / 255

    def __post_init__(self) -> None:
        _check_range("weakest", self.weakest, "strongest", self.strongest, highest=1)

    def __call__(self, clean: Picture, rng: np.random.Generator) -> Example:
        return Example(_noisy(clean, rng.uniform(self.weakest, self.strongest), rng), clean)


@dataclass(frozen=True, kw_only=True)
class Holes:
    """Something covers the picture, as strokes, scratches and boxes; it is cut out and left white.

    Args:
        name: what a recipe calls it.
        fewest, most: number of pieces.
        thinnest, thickest: of a stroke, in parts of the picture's shorter side.

    Raises:
        ValueError: a range is empty or negative.
    """

    name: Literal["Holes"] = "Holes"
    fewest: int = 2
    most: int = 8
    thinnest: float = 0.01
    thickest: float = 0.12

    def __post_init__(self) -> None:
        _check_range("fewest", self.fewest, "most", self.most, lowest=1)
        _check_range("thinnest", self.thinnest, "thickest", self.thickest, lowest=1e-4, highest=1)

    def __call__(self, clean: Picture, rng: np.random.Generator) -> Example:
        return Example(punched(clean, self._holes(clean.shape[-2], clean.shape[-1], rng)), clean)

    def _holes(self, height: int, width: int, rng: np.random.Generator) -> Field:
        side = min(height, width)
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        holes = np.zeros((height, width), bool)
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
    """Fewer pixels by a bicubic with antialiasing, as MATLAB's imresize makes them.

    Args:
        name: what a recipe calls it.
        factor: of each side; a picture whose sides are no multiples is cut at right and bottom.
    """

    name: Literal["Downscale"] = "Downscale"
    factor: int = 4

    def __post_init__(self) -> None:
        _check_range("1", 1, "factor", self.factor, highest=16)

    def __call__(self, clean: Picture, rng: np.random.Generator) -> Example:
        height, width = (side - side % self.factor for side in clean.shape[-2:])
        if not height or not width:
            raise ValueError(f"a picture of {tuple(clean.shape[-2:])} cannot be reduced {self.factor} times")
        gt = clean[..., :height, :width]
        return Example(reduced(gt[None], self.factor)[0], gt)


def punched(picture: Picture, holes: Field) -> Picture:
    """The picture with white holes, gt m + (1 - m) with m = 1 - holes, as published models expect it.

    Args:
        holes: 1 in a hole, 0 elsewhere.
    """
    return picture * (1 - holes) + holes


def painted(picture: Picture, colour: str, tolerance: float = 0.12) -> Field:
    """Holes where a picture was painted over with a colour, one pixel wider for soft edges.

    Args:
        colour: as "#ff00ff", six hexadecimal digits.
        tolerance: largest difference of a channel; JPEG changes a painted colour a little.

    Raises:
        ValueError: another notation.
    """
    digits = colour.removeprefix("#")
    if not re.fullmatch("[0-9a-fA-F]{6}", digits):
        raise ValueError(f"colour is {colour!r}: give six hexadecimal digits, as #ff00ff")
    wanted = torch.tensor(list(bytes.fromhex(digits)))[:, None, None] / 255
    same = ((picture - wanted).abs().amax(0, keepdim=True) <= tolerance).float()
    return F.max_pool2d(same, 3, 1, 1)


def estimated_noise(picture: Picture) -> float:
    """The deviation of white noise in a picture, from the median of its finest diagonal differences.

    Donoho & Johnstone (1994) with Haar's wavelet, over all colours. Fine texture counts as noise.
    """
    height, width = (side - side % 2 for side in picture.shape[-2:])
    a, b, c, d = (picture[..., i:height:2, j:width:2] for i in (0, 1) for j in (0, 1))
    return float(((a - b - c + d) / 2).abs().median()) / 0.6745 if a.numel() and d.numel() else 0.0


def smooth_field(size: tuple[int, int], rng: np.random.Generator) -> Field:
    """A smooth random field from 0 to 1: noise of two to four octaves, each half as strong as the last."""
    field = torch.zeros(1, 1, *size)
    coarse = int(rng.integers(2, 5))
    for octave in range(int(rng.integers(2, 5))):
        grid = coarse * 2**octave
        noise = torch.from_numpy(rng.normal(size=(1, 1, grid, grid))).float()
        field += F.interpolate(noise, size, mode="bicubic", align_corners=True) / 2**octave
    return _unit(field[0])


def _unit(field: Field) -> Field:
    """Stretched to 0 ... 1; all 0 if it is flat."""
    low, high = field.aminmax()
    return (field - low) / (high - low).clamp(min=1e-6)


def _line(half: np.ndarray, thickness: float) -> Kernel:
    """A line from -half to half (x, y), of height 1."""
    reach = math.ceil(np.abs(half).max() + thickness)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)
    return torch.from_numpy((0.5 + thickness / 2 - _distance(x, y, -half, half)).clip(0, 1)).float()


def _distance(x: np.ndarray, y: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Of every point to the line between two."""
    along = end - start
    part = ((x - start[0]) * along[0] + (y - start[1]) * along[1]) / max(float(along @ along), 1e-6)
    part = part.clip(0, 1)
    distance: np.ndarray = np.hypot(x - start[0] - part * along[0], y - start[1] - part * along[1])
    return distance


def _filtered(picture: Float[Tensor, "c h w"], kernel: Kernel) -> Float[Tensor, "c h w"]:
    """Convolved; the border is repeated."""
    return _convolved(F.pad(picture[None], (kernel.shape[-1] // 2,) * 4, mode="replicate")[0], kernel)


def _convolved(picture: Float[Tensor, "c h w"], kernel: Kernel) -> Float[Tensor, "c inner_h inner_w"]:
    """Where the kernel lies within the picture; by Fourier's transform, since kernels are large."""
    size = (picture.shape[-2], picture.shape[-1])
    product = torch.fft.rfft2(picture.double()) * torch.fft.rfft2(kernel.double(), s=size)
    convolved: Tensor = torch.fft.irfft2(product, s=size)  # in double: the same with any number of threads
    return convolved[..., kernel.shape[-2] - 1 :, kernel.shape[-1] - 1 :].float()


def _noisy(picture: Picture, std: float, rng: np.random.Generator) -> Picture:
    noise = torch.from_numpy(rng.standard_normal(picture.shape, dtype=np.float32))
    return (picture + std * noise).clamp(0, 1)


def _check_range(
    low_name: str, low: float, high_name: str, high: float, lowest: float = 0, highest: float = math.inf
) -> None:
    if not (lowest <= low <= high <= highest and high < math.inf):
        most = f" <= {highest:g}" if highest < math.inf else ""
        raise ValueError(
            f"{low_name} {low:g} and {high_name} {high:g}: give {lowest:g} <= {low_name} <= {high_name}{most}"
        )
