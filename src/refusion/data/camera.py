"""Degradations of a camera: shake, noise, and the JPEG that it writes."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyvips
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from refusion.data.degradation import Example, Kernel, check_range, filtered, noisy
from refusion.data.fields import Picture
from refusion.imaging.level import Level

MOST_QUALITY = 95
"""Highest quality of a JPEG."""
GAMMA = 2.2
"""Values are light to the power 1 / GAMMA."""


@dataclass(frozen=True, kw_only=True)
class MotionBlur:
    """A shaken camera: the picture is averaged in linear light along a smooth random path.

    Args:
        name: of the degradation, in a recipe.
        shortest, longest: range of the length of the path.
        noise: largest standard deviation of the white noise that is added afterwards.
        jpeg: lowest quality of the JPEG that half of the pictures pass at last, see `compressed`; 0 for none.

    Raises:
        ValueError: a range is empty or negative.
    """

    name: Literal["MotionBlur"] = "MotionBlur"
    shortest: float = 3.0
    longest: float = 20.0
    noise: float = 0.01
    jpeg: int = 0

    def __post_init__(self) -> None:
        check_range("shortest", self.shortest, "longest", self.longest)
        if not 0 <= self.noise <= 1:
            raise ValueError(f"noise {self.noise:g}: give 0 to 1")
        check_range("0", 0, "jpeg", self.jpeg, highest=MOST_QUALITY)

    def __call__(self, clean: Picture, rng: np.random.Generator) -> Example:
        blurred = filtered(clean**GAMMA, self._path(rng)).clamp(0, 1) ** (1 / GAMMA)
        shaken = noisy(blurred, rng.uniform(0, self.noise), rng)
        if self.jpeg and rng.random() < 0.5:
            shaken = compressed(shaken, int(rng.integers(self.jpeg, MOST_QUALITY + 1)))
        return Example(shaken, clean)

    def _path(self, rng: np.random.Generator, points: int = 256) -> Kernel:
        """Return a path of constant speed and smoothly turning direction as a kernel that sums to 1."""
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
        name: of the degradation, in a recipe.
        weakest, strongest: range of the standard deviation.

    Raises:
        ValueError: the range is empty or negative.
    """

    name: Literal["GaussianNoise"] = "GaussianNoise"
    weakest: Level = 5 / 255
    strongest: Level = 50 / 255

    def __post_init__(self) -> None:
        check_range("weakest", self.weakest, "strongest", self.strongest, highest=1)

    def __call__(self, clean: Picture, rng: np.random.Generator) -> Example:
        return Example(noisy(clean, rng.uniform(self.weakest, self.strongest), rng), clean)


@dataclass(frozen=True, kw_only=True)
class SensorNoise:
    """Noise of a sensor: its variance grows with light, and the camera's processing correlates it.

    In linear light the variance is shot * light + read^2, as of photons and of the amplifier (Foi et al.
    2008). Demosaicing blurs the noise and spreads it over the colours, the camera's curve lifts it in the
    shadows, by an exponent from 1 to 2.2, and JPEG removes and smears a part of it. With the defaults
    deviation by light, correlation of neighbours and of colours are about those of PolyU (Xu et al. 2018).

    Args:
        name: of the degradation, in a recipe.
        least, most: range of `shot`, drawn evenly in its logarithm.
        read: largest standard deviation of the noise in the dark, in linear light.
        smooth: largest standard deviation in pixels of the blur of the noise.
        shared: largest part of the variance that is common to all colours.
        jpeg: lowest quality of the JPEG that all pictures pass, see `compressed`; 0 for none.

    Raises:
        ValueError: a range is empty or negative.
    """

    name: Literal["SensorNoise"] = "SensorNoise"
    least: float = 1e-4
    most: float = 3e-3
    read: float = 0.006
    smooth: float = 1.4
    shared: float = 0.9
    jpeg: int = 75

    def __post_init__(self) -> None:
        check_range("least", self.least, "most", self.most, lowest=1e-9, highest=1)
        check_range("0", 0, "read", self.read, highest=1)
        check_range("0", 0, "smooth", self.smooth, highest=8)
        check_range("0", 0, "shared", self.shared, highest=1)
        check_range("0", 0, "jpeg", self.jpeg, highest=MOST_QUALITY)

    def __call__(self, clean: Picture, rng: np.random.Generator) -> Example:
        shot = math.exp(rng.uniform(math.log(self.least), math.log(self.most)))
        read = rng.uniform(0, self.read) * math.sqrt(shot / self.most)  # both grow with the ISO
        exponent, shared = rng.uniform(1, GAMMA), rng.uniform(0, self.shared)
        height, width = clean.shape[-2:]
        own = _smooth_noise((4, height, width), rng.uniform(0, self.smooth), rng)
        noise = math.sqrt(1 - shared) * own[:3] + math.sqrt(shared) * own[3:]
        light = clean**exponent
        noisy_light = light + (shot * light + read**2).sqrt() * noise
        lq = noisy_light.clamp(0, 1) ** (1 / exponent)
        if self.jpeg:
            lq = compressed(lq, int(rng.integers(self.jpeg, MOST_QUALITY + 1)))
        return Example(lq, clean)


def compressed(picture: Picture, quality: int) -> Picture:
    """Return a picture as a JPEG of a quality, 1 to 100, holds it, with reduced colour below 90.

    JPEG correlates noise within blocks of 8 x 8 pixels, and colour noise within 16 x 16.
    """
    array = (255 * picture.clamp(0, 1)).round().byte().permute(1, 2, 0).contiguous().numpy()
    data = pyvips.Image.new_from_array(array).copy(interpretation="srgb").jpegsave_buffer(Q=quality)
    pixels = np.asarray(pyvips.Image.jpegload_buffer(data), np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _smooth_noise(shape: tuple[int, ...], std: float, rng: np.random.Generator) -> Float[Tensor, "c h w"]:
    """Return unit normal noise that is blurred by a Gaussian of a standard deviation in pixels."""
    reach = math.ceil(2.5 * std)
    channels, height, width = shape
    white = rng.standard_normal((channels, 1, height + 2 * reach, width + 2 * reach), dtype=np.float32)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1.0) / max(std, 1e-3)) ** 2)
    weights = weights / weights.square().sum().sqrt()
    rows = F.conv2d(torch.from_numpy(white), weights.reshape(1, 1, -1, 1))
    return F.conv2d(rows, weights.reshape(1, 1, 1, -1))[:, 0]
