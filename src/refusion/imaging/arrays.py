"""Conversion of arrays, tensors and PIL pictures to `Image`."""

import sys
from os import PathLike
from typing import Any

import numpy as np
import pyvips

from refusion.errors import ImageError
from refusion.imaging.decoding import from_vips
from refusion.imaging.formats import MAX_PIXELS, read
from refusion.imaging.image import Image, channels_last, make_image, white_level

ImageLike = object
"""An `Image`, the path of a file, an array, a tensor or a PIL picture."""


def as_image(picture: ImageLike, max_pixels: int = MAX_PIXELS) -> Image:
    """Return a picture of any kind as an `Image`: a path is read, all else goes to `from_array`.

    Args:
        picture: of any kind.
        max_pixels: larger files are refused before they are decoded.

    Raises:
        ImageError: see `refusion.imaging.formats.read` and `from_array`.
    """
    return read(picture, max_pixels) if isinstance(picture, str | PathLike) else from_array(picture)


def from_array(array: Any) -> Image:
    """Return an array, a tensor or a PIL picture as an `Image`; an `Image` is returned as it is.

    Args:
        array: of shape (h, w), or (h, w, c) with 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha)
            channels, of uint8, uint16, bool, or floats in [0, 1] that count as 16 bit; a torch tensor of
            the same types and shape (c, h, w); a PIL picture of any mode but LAB, turned as its EXIF says.

    Raises:
        ImageError: another shape or type, floats outside [0, 1], or NaN.
    """
    if isinstance(array, Image):
        return array
    # If the array is a PIL picture, PIL is imported already.
    if "PIL.Image" in sys.modules and isinstance(array, sys.modules["PIL.Image"].Image):
        return _from_pil(array)
    samples = channels_last(array) if hasattr(array, "detach") else np.asarray(array)
    return make_image(samples, white_level(samples, "the array"), None, "the array")


_PIL_CONVERSIONS = {
    "P": "RGB",
    "PA": "RGBA",
    "La": "LA",
    "RGBa": "RGBA",
    "RGBX": "RGB",
    "YCbCr": "RGB",
    "HSV": "RGB",
}


def _from_pil(picture: Any) -> Image:
    from PIL import ImageOps

    picture = ImageOps.exif_transpose(picture)
    icc, name = picture.info.get("icc_profile"), f"the PIL picture of mode {picture.mode}"
    if picture.mode in ("1", "L", "P", "RGB") and "transparency" in picture.info:
        picture = picture.convert("LA" if picture.mode in ("1", "L") else "RGBA")
    picture = picture.convert(_PIL_CONVERSIONS.get(picture.mode, picture.mode))
    samples = np.asarray(picture)
    if picture.mode == "LAB":
        raise ImageError(f"{name} cannot be used: convert it to RGB first")
    if picture.mode == "CMYK":
        inks = pyvips.Image.new_from_array(samples, interpretation="cmyk").copy()
        if icc:
            inks.set_type(pyvips.GValue.blob_type, "icc-profile-data", icc)
        return from_vips(inks, name)
    if picture.mode == "I" and samples.min() >= 0 and samples.max() <= 65535:
        samples = samples.astype(np.uint16)  # PIL widens some 16-bit files to 32
    return make_image(samples, white_level(samples, name), icc, name)
