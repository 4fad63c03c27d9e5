"""Pictures as browsers show them. In the worker's process."""

from dataclasses import replace
from pathlib import Path

import pyvips
import torch

from refusion.files import atomic
from refusion.imaging.decoding import from_vips
from refusion.imaging.filetypes import FORMATS, suffix_of
from refusion.imaging.formats import Header, encode, read
from refusion.imaging.image import Image
from refusion.imaging.resize import fitted
from refusion.restoring.admission import Demand

LOSSLESS_PIXELS = 4_000_000
"""Pixels of the largest picture that browsers get as PNG; larger ones are JPEG of quality 95."""


def make_view(source: Path, target: Path, side: int | None, max_pixels: int) -> None:
    """Write a picture that browsers show, see `store_view`.

    Raises:
        ImageError: the source is no whole picture, or too large.
    """
    image = None if side is None else _reduced_jpeg(source, side, max_pixels)
    store_view(image or read_picture(source, max_pixels), target, side)


def store_view(image: Image, target: Path, side: int | None) -> None:
    """Write a picture as PNG, or as JPEG if it is large; upright, 8 bit, with its profile and without EXIF.

    Args:
        image: the picture.
        target: of the file; its folder is created.
        side: longest side in pixels, to which it is reduced; by default as it is.
    """
    if side is not None and max(image.size) > side:
        pixels = fitted(image.tensor()[None], side)[0].clamp(0, 1).permute(1, 2, 0).contiguous().numpy()
        alpha = image.alpha
        if alpha is not None:
            alpha = fitted(torch.from_numpy(alpha)[None, None], side)[0, 0].clamp(0, 1).contiguous().numpy()
        image = replace(image, pixels=pixels, alpha=alpha)
    width, height = image.size
    plain = replace(image, depth=8, metadata=image.metadata.stripped())
    suffix = ".png" if width * height <= LOSSLESS_PIXELS else ".jpg"
    target.parent.mkdir(exist_ok=True)
    with atomic(target) as part:
        part.write_bytes(encode(plain, suffix))


def read_picture(path: Path, max_pixels: int) -> Image:
    """Read a picture if it fits into memory.

    Raises:
        ImageError: it does not; or see `refusion.imaging.formats.read`.
    """

    def admit(header: Header) -> None:
        size = f"{path} of {header.width} x {header.height} pixels"
        Demand(header.decoding_bytes, 0).admit(size, torch.device("cpu"))

    return read(path, max_pixels, admit)


def _reduced_jpeg(path: Path, side: int, max_pixels: int) -> Image | None:
    """Return a JPEG reduced while it is decoded, to no less than `side` pixels, for little of the work.

    None if that does not apply, or fails: reading the whole of it tells why.
    """
    data = path.read_bytes()
    if suffix_of(data) != ".jpg":
        return None
    try:
        whole = pyvips.Image.new_from_buffer(data, "")
        shrink = next((s for s in (8, 4, 2) if max(whole.width, whole.height) >= s * side), 1)
        if whole.width * whole.height > max_pixels or shrink == 1:
            return None
        reduced = pyvips.Image.new_from_buffer(data, "", shrink=shrink, fail_on=FORMATS[".jpg"].fail_on)
        return from_vips(reduced.copy_memory(), str(path), data)
    except pyvips.Error:
        return None
