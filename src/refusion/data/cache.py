"""Decoded pictures in memory: decoding a file takes longer than all else that a training sample needs."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from refusion.imaging.formats import MAX_PIXELS, Admit, read
from refusion.imaging.image import RGB, Array, Image


class _Kept(NamedTuple):
    """A picture with pixels of no bytes, and the samples of its file: a quarter of the bytes, or half."""

    image: Image
    samples: Array
    white: int

    def pixels(self) -> RGB:
        pixels = self.samples.astype(np.float32)
        pixels /= self.white
        return pixels


class PictureCache:
    """Reads picture files, and keeps what it has read as long as there is room.

    None makes room for another: in an epoch of random order each picture is as likely to be the next one.
    What is returned is equal to what is read from the file, to the bit.

    Args:
        max_bytes: of the samples and alpha that are kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self.free = max_bytes
        self._kept: dict[Path, _Kept] = {}

    def read(self, path: Path, max_pixels: int = MAX_PIXELS, admit: Admit | None = None) -> Image:
        """Return the picture of a file.

        Raises:
            ImageError: see `refusion.imaging.formats.read`.
        """
        kept = self._kept.get(path)
        if kept is not None:
            return replace(kept.image, pixels=kept.pixels())
        image = read(path, max_pixels, admit)
        needed = image.pixels.size * image.depth // 8
        if image.alpha is not None:
            needed += image.alpha.nbytes
        if needed <= self.free and (kept := _compact(image)) is not None:
            self.free -= needed
            self._kept[path] = kept
        return image


def _compact(image: Image) -> _Kept | None:
    """Return a picture with the samples of its file; None if its pixels are no multiples of 1 / white."""
    white = 2**image.depth - 1
    samples = np.rint(image.pixels * white).astype(np.uint8 if image.depth == 8 else np.uint16)
    nothing = np.broadcast_to(np.float32(0), image.pixels.shape)
    kept = _Kept(replace(image, pixels=nothing), samples, white)
    return kept if np.array_equal(kept.pixels(), image.pixels) else None
