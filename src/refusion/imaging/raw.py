"""Files of cameras' sensors, which rawpy (LibRaw) develops: the extra `raw`."""

import io
import re
from typing import Any

import numpy as np
from jaxtyping import UInt16

from refusion.errors import ImageError
from refusion.imaging import tiff
from refusion.imaging.tiff import Directory

_MAGIC = re.compile(
    rb"FUJIFILMCCD-RAW|II[RU][OS\0]|MMOR|II\x1a\0\0\0HEAPCCDR|\0MRM|FOVb|(?s:....ftypcrx )|(?s:II\*\0....CR)"
)
_DNG_VERSION, _PHOTOMETRIC, _COMPRESSION = 50706, 262, 259
_SENSORS = {32803, 34892}  # a colour filter array, and DNG's linear samples
_COMPRESSIONS = {32767, 32769, 34713, 65000, 65535}  # Sony, Epson, Nikon, Kodak and Pentax


def is_raw(data: bytes) -> bool:
    """Return whether a file holds the samples of a camera's sensor."""
    if _MAGIC.match(data):
        return True
    reader = tiff.Reader(data)
    found = reader.directories()
    pages = [*found, *(inner for page in found for inner in reader.subfiles(page))]
    return any(_is_sensor(page) for page in pages)


def _is_sensor(page: Directory) -> bool:
    sensor = page.number(_PHOTOMETRIC, 0) in _SENSORS or page.number(_COMPRESSION, 1) in _COMPRESSIONS
    return sensor or _DNG_VERSION in page.entries


def develop(data: bytes, name: str, max_pixels: int) -> UInt16[np.ndarray, "h w 3"]:
    """Return the upright picture of a camera raw file in sRGB, 16 bit, with the camera's white balance.

    Raises:
        ImageError: rawpy is not installed, LibRaw cannot read the file, or it is too large.
    """
    try:
        import rawpy
    except ImportError:
        raise ImageError(
            f'{name} is camera raw: pip install "refusion[raw]", or develop it to TIFF first'
        ) from None
    try:
        with rawpy.imread(io.BytesIO(data)) as sensor:
            sizes: Any = sensor.sizes
            if sizes.width * sizes.height > max_pixels:
                raise ImageError(
                    f"{name} has {sizes.width} x {sizes.height} pixels, more than {max_pixels}: "
                    "if you trust the file, raise max_pixels"
                )
            samples: UInt16[np.ndarray, "h w 3"] = sensor.postprocess(
                use_camera_wb=True, output_bps=16, output_color=rawpy.ColorSpace.sRGB
            )
    except rawpy.LibRawError as error:
        reason = error.args[0].decode() if isinstance(error.args[0], bytes) else error
        raise ImageError(
            f"{name} is camera raw that LibRaw cannot read ({reason}): develop it to TIFF first"
        ) from None
    return samples
