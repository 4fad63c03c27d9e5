"""Files of cameras' sensors, which rawpy (LibRaw) develops: the extra `raw`."""

import importlib.util
import io
from typing import Any

import numpy as np
from jaxtyping import UInt16

from refusion.errors import ImageError
from refusion.imaging import tiff
from refusion.imaging.filetypes import RAW_MAGIC, Admit, Header
from refusion.imaging.tiff import Directory

RAW_SUFFIXES = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".k25", ".kdc", ".mef"),
    *(".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
)
"""Suffixes by which folders and patterns find camera raw files; what a file is, its content tells."""
INSTALLING = 'pip install "refusion[raw]"'
_DNG_VERSION, _PHOTOMETRIC, _COMPRESSION = 50706, 262, 259
_SENSORS = {32803, 34892}  # a colour filter array, and DNG's linear samples
_COMPRESSIONS = {32767, 32769, 34713, 65000, 65535}  # Sony, Epson, Nikon, Kodak and Pentax


def is_raw(data: bytes) -> bool:
    """Return whether a file holds the samples of a camera's sensor."""
    if RAW_MAGIC.match(data):
        return True
    reader = tiff.Reader(data)
    found = reader.directories()
    pages = [*found, *(inner for page in found for inner in reader.subfiles(page))]
    return any(_is_sensor(page) for page in pages)


def _is_sensor(page: Directory) -> bool:
    sensor = page.number(_PHOTOMETRIC, 0) in _SENSORS or page.number(_COMPRESSION, 1) in _COMPRESSIONS
    return sensor or _DNG_VERSION in page.entries


def can_develop() -> bool:
    """Return whether rawpy is installed."""
    return importlib.util.find_spec("rawpy") is not None


def develop(
    data: bytes, name: str, max_pixels: int, admit: Admit | None = None
) -> UInt16[np.ndarray, "h w 3"]:
    """Return the upright picture of a camera raw file in sRGB, 16 bit, with the camera's white balance.

    Args:
        data: a whole file.
        name: of the picture, for messages.
        max_pixels: larger pictures are refused before they are developed.
        admit: called before that, to refuse what does not fit into memory.

    Raises:
        ImageError: rawpy is not installed, LibRaw cannot read the file, or it is too large.
    """
    try:
        import rawpy
    except ImportError:
        raise ImageError(f"{name} is camera raw: {INSTALLING}, or develop it to TIFF first") from None
    try:
        with rawpy.imread(io.BytesIO(data)) as sensor:
            sizes: Any = sensor.sizes
            if sizes.width * sizes.height > max_pixels:
                raise ImageError(
                    f"{name} has {sizes.width} x {sizes.height} pixels, more than {max_pixels}: "
                    "if you trust the file, raise max_pixels (--max-pixels)"
                )
            if admit is not None:
                admit(Header(sizes.width, sizes.height, 3, 2))
            samples: UInt16[np.ndarray, "h w 3"] = sensor.postprocess(
                use_camera_wb=True, output_bps=16, output_color=rawpy.ColorSpace.sRGB
            )
    except rawpy.LibRawError as error:
        reason = error.args[0].decode() if isinstance(error.args[0], bytes) else error
        raise ImageError(
            f"{name} is camera raw that LibRaw cannot read ({reason}): develop it to TIFF first"
        ) from None
    return samples
