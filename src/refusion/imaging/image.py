"""The picture as a value: pixels in [0, 1], and the properties of the file that it came from."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyvips
import torch
from jaxtyping import Float, Float32, Shaped
from torch import Tensor

from refusion.errors import ImageError, Notice
from refusion.imaging.metadata import Metadata

RGB = Float32[np.ndarray, "h w 3"]
Alpha = Float32[np.ndarray, "h w"]
Array = Shaped[np.ndarray, "..."]
THUMBNAIL = 512
"""Longest side in pixels of the thumbnail that a notebook shows."""


@dataclass(frozen=True, eq=False)
class Image:
    """A picture, and the properties of its source that are kept when it is written.

    Args:
        pixels: RGB in [0, 1], contiguous; three equal channels if `grey`.
        alpha: opacity in [0, 1], or None.
        depth: bits per sample of the source, 8 or 16.
        grey: whether the source has one colour channel.
        icc: the colour profile of `pixels`; None for sRGB.
        metadata: what the file says beside its pixels.
        notices: what of the file is not in the picture.
    """

    pixels: RGB
    alpha: Alpha | None
    depth: int
    grey: bool
    icc: bytes | None
    metadata: Metadata = Metadata()
    notices: tuple[Notice, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def tensor(self) -> Float[Tensor, "3 h w"]:
        """Return the pixels, channels first."""
        return torch.from_numpy(self.pixels).permute(2, 0, 1)

    def with_pixels(self, pixels: RGB | Float[Tensor, "3 h w"], owned: bool = False) -> "Image":
        """Return the picture with other pixels, an array or a tensor on any device, clipped to [0, 1].

        Where the picture has three equal channels, so has the new one: the mean of the three.

        Args:
            pixels: the other pixels.
            owned: whether they are in [0, 1] and may become those of the new picture, without a copy.

        Raises:
            ImageError: the shape differs, or a pixel is not finite.
        """
        if isinstance(pixels, Tensor):
            pixels = channels_last(pixels)
        if pixels.shape != self.pixels.shape:
            raise ImageError(
                f"pixels have shape {pixels.shape}: expected {self.pixels.shape} as in the picture"
            )
        if not np.isfinite([pixels.min(), pixels.max()]).all():
            raise ImageError(
                "pixels hold NaN or infinity: expected numbers; the network or its input is broken"
            )
        clipped = np.ascontiguousarray(pixels, dtype=np.float32)
        if not owned:
            clipped = clipped.clip(0, 1)
        if not self.grey and self._is_achromatic():
            for start in range(0, len(clipped), 256):  # rows, for little memory
                rows = clipped[start : start + 256]
                # float64, so that three equal channels stay what they are.
                rows[...] = np.add.reduce([rows[..., k, None] for k in range(3)], dtype=np.float64) / 3
        return replace(self, pixels=clipped)

    def _is_achromatic(self) -> bool:
        """Return whether all pixels have three equal channels."""
        red, green, blue = (self.pixels[..., channel] for channel in range(3))
        return np.array_equal(red, green) and np.array_equal(red, blue)

    def __repr__(self) -> str:
        width, height = self.size
        colour = "grey" if self.grey else "RGB"
        alpha = "" if self.alpha is None else ", alpha"
        profile = "" if self.icc is None else ", ICC profile"
        return f"Image({width}x{height}, {colour}, {self.depth} bit{alpha}{profile})"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Return the pixels, (h, w, 3) in [0, 1], for `numpy.asarray`."""
        return np.array(self.pixels, dtype, copy=copy)

    def _repr_png_(self) -> bytes:
        """Return a thumbnail as PNG, for notebooks."""
        picture = pyvips.Image.new_from_array(
            np.rint(self.pixels * 255).astype(np.uint8), interpretation="srgb"
        )
        scale = min(1.0, THUMBNAIL / max(self.size))
        data: bytes = picture.resize(scale).write_to_buffer(".png")
        return data


def format_sizes(*images: Image) -> str:
    """Return the sizes of pictures for a message, as "40x30 and 40x32"."""
    return " and ".join("{}x{}".format(*image.size) for image in images)


def white_level(samples: Array, name: str) -> int:
    """Return the value of a sample that stands for white.

    Args:
        samples: of uint8, uint16, bool or floats.
        name: of the picture, for messages.

    Raises:
        ImageError: the samples have another type.
    """
    kind, size = samples.dtype.kind, samples.dtype.itemsize
    if kind in "bf":
        return 1
    if kind == "u" and size <= 2:
        return 255 if size == 1 else 65535
    raise ImageError(f"{name} has {samples.dtype} samples: expected uint8, uint16, bool, or floats in [0, 1]")


def make_image(samples: Array, white: int, icc: bytes | None, name: str) -> Image:
    """Check samples and return them as an `Image`.

    Args:
        samples: see `refusion.imaging.arrays.from_array`.
        white: value of a sample that stands for white.
        icc: the colour profile, None for sRGB.
        name: of the picture, for messages.

    Raises:
        ImageError: the samples have another shape, are outside [0, white], or hold NaN.
    """
    if samples.ndim == 2:
        samples = samples[..., None]
    if samples.ndim != 3 or samples.shape[2] not in (1, 2, 3, 4) or samples.size == 0:
        raise ImageError(
            f"{name} has shape {samples.shape}: expected one (h, w) or (h, w, c) with c = 1, 2, 3 or 4"
        )
    low, high = float(samples.min()), float(samples.max())
    if not (low >= 0 and high <= white):  # also false for NaN
        raise ImageError(
            f"{name} spans {low:g} to {high:g}: expected [0, {white}] without NaN; scale or clip it first"
        )

    values = samples.astype(np.float32)
    values /= white
    channels = values.shape[2]
    grey, alpha = channels < 3, channels in (2, 4)
    return Image(
        pixels=np.repeat(values[..., :1], 3, axis=2) if grey else np.ascontiguousarray(values[..., :3]),
        alpha=np.ascontiguousarray(values[..., -1]) if alpha else None,
        depth=16 if samples.dtype.itemsize > 1 else 8,
        grey=grey,
        # Some files have a grey profile and RGB samples, or the reverse; other programs refuse to read these.
        icc=icc if icc and icc[16:20] == (b"GRAY" if grey else b"RGB ") else None,
    )


def channels_last(tensor: Any) -> Array:
    """Return a tensor (c, h, w) as an array (h, w, c)."""
    if tensor.ndim != 3 or tensor.shape[0] > 4:
        raise ImageError(
            f"the tensor has shape {tuple(tensor.shape)}: expected (c, h, w) with c = 1, 2, 3 or 4"
        )
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor.float()  # numpy has no bfloat16
    samples: Array = np.moveaxis(tensor.numpy(), 0, 2)
    return samples
