"""Pictures of all kinds, and what is asked of them, for the tests in this folder."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pyvips
from PIL import ImageCms

from refusion.errors import ImageError
from refusion.imaging.image import Image

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (24, 40, 3), dtype=np.uint8)
RGB16 = RNG.integers(0, 65536, (24, 40, 3), dtype=np.uint16)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY_PROFILE = SRGB[:16] + b"GRAY" + SRGB[20:]
EVERY_8 = np.arange(256, dtype=np.uint8).reshape(16, 16)
EVERY_16 = np.arange(65536, dtype=np.uint16).reshape(256, 256)
Y, X = np.mgrid[0:64, 0:64] / 63
SMOOTH = np.stack([X, Y, 1 - X], axis=2).astype(np.float32)


def same(a: Image, b: Image) -> bool:
    alphas = a.alpha is b.alpha is None or np.array_equal(a.alpha, b.alpha)
    kinds = (a.depth, a.grey, a.icc) == (b.depth, b.grey, b.icc)
    return np.array_equal(a.pixels, b.pixels) and alphas and kinds


def stored(path: Path) -> np.ndarray:
    """The samples in a file, asked of libvips itself."""
    return pyvips.Image.new_from_buffer(path.read_bytes(), "").numpy()


def said(call: Callable[..., object], *args: object, **kwargs: object) -> str:
    """The one line of the error that `call` raises."""
    with pytest.raises(ImageError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message, message
    assert len(message) < 400, message
    assert caught.value.__cause__ is None  # nor is libvips's traceback shown
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return message
