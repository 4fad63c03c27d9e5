"""The formats of picture files, how the first bytes of a file tell its format, and the size of a picture."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pyvips


@dataclass(frozen=True)
class Format:
    """A format of picture files: its limits, and the options with which libvips reads and writes it.

    Args:
        magic: matches the first bytes of its files.
        bits: the largest depth per sample.
        grey: whether it holds a single channel.
        alpha: whether it holds alpha.
        options: of the encoder; none if it is read only.
        fail_on: the mildest fault at which the decoder gives up.
        loader: the operation of libvips that reads it, if not every libvips has it.
    """

    magic: re.Pattern[bytes]
    bits: int
    grey: bool
    alpha: bool
    options: Mapping[str, object] = field(default_factory=dict)
    fail_on: str = "truncated"
    loader: str = ""


_PNG = Format(re.compile(rb"\x89PNG\r\n\x1a\n"), 16, True, True)
_JPEG = Format(re.compile(rb"\xff\xd8\xff"), 8, True, False, {"Q": 95, "subsample_mode": "off"})
_WEBP = Format(re.compile(rb"(?s)RIFF....WEBP"), 8, False, True, {"lossless": True, "exact": True})
TIFF = Format(
    re.compile(rb"II[*+]\0|MM\0[*+]"),
    16,
    True,
    True,
    {"compression": "deflate", "predictor": "horizontal", "resunit": "inch"},
    fail_on="error",  # "warning" refuses healthy files for odd tags
)
_AVIF = Format(
    re.compile(rb"(?s)....ftyp.{0,64}?avi[fs]"),
    12,
    False,
    True,
    {"Q": 90, "subsample_mode": "off", "effort": 3},
)  # effort 4, the default, takes six times as long for the same picture
HEIC = Format(re.compile(rb"(?s)....ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1)"), 8, False, True, {})  # read only
GIF = Format(re.compile(rb"GIF8"), 8, False, False, loader="gifload_buffer")  # written as animation
WRITTEN = {
    ".png": _PNG,
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": _WEBP,
    ".tif": TIFF,
    ".tiff": TIFF,
    ".avif": _AVIF,
}
"""Formats that are read and written, by suffix."""
READ_ONLY = {
    ".gif": GIF,
    ".bmp": Format(
        re.compile(rb"(?s)BM.{12}[\x0c\x28\x34\x38\x6c\x7c]\0\0\0"),
        8,
        False,
        False,
        loader="magickload_buffer",
    ),
    ".jp2": Format(
        re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
        16,
        True,
        True,
        loader="jp2kload_buffer",
    ),
    ".jxl": Format(
        re.compile(rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"), 16, True, True, loader="jxlload_buffer"
    ),
}
FORMATS = {**WRITTEN, **READ_ONLY, ".heic": HEIC}

RAW_MAGIC = re.compile(
    rb"FUJIFILMCCD-RAW|II[RU][OS\0]|MMOR|II\x1a\0\0\0HEAPCCDR|\0MRM|FOVb|(?s:....ftypcrx )|(?s:II\*\0....CR)"
)
"""Matches the first bytes of camera raw files that do not begin as TIFF does."""


def has_loader(form: Format) -> bool:
    """Return whether the installed libvips reads a format."""
    return not form.loader or pyvips.type_find("VipsOperation", form.loader) != 0


SUFFIXES = tuple(WRITTEN)
"""Suffixes of the files that are read and written, in lower case; upper case is accepted, too."""
READABLE = (*SUFFIXES, *(suffix for suffix, form in READ_ONLY.items() if has_loader(form)))
"""Suffixes of the files that are read, which depends on the libvips that is installed."""


def suffix_of(data: bytes) -> str | None:
    """Return the suffix of the format of which these bytes are the first; None if it is unknown."""
    return next((suffix for suffix, form in FORMATS.items() if form.magic.match(data)), None)


def is_picture(data: bytes) -> bool:
    """Return whether these are the first bytes of a picture, which may be damaged further on."""
    return suffix_of(data) is not None or RAW_MAGIC.match(data) is not None


def writable_suffix(data: bytes) -> str:
    """Return the suffix of the format of a file's first bytes; .tif for camera raw, else .png."""
    if RAW_MAGIC.match(data):
        return ".tif"
    suffix = suffix_of(data)
    return suffix if suffix in SUFFIXES else ".png"


@dataclass(frozen=True)
class Header:
    """The size of a picture before it is decoded.

    Args:
        width: in pixels.
        height: in pixels.
        channels: samples of a pixel, with alpha.
        sample_bytes: bytes of a sample.
    """

    width: int
    height: int
    channels: int
    sample_bytes: int

    @property
    def image_bytes(self) -> int:
        """Bytes of the `Image`."""
        return self.width * self.height * 4 * (3 + (self.channels in (2, 4)))

    @property
    def decoding_bytes(self) -> int:
        """Bytes that decoding takes at its peak: samples, these as floats, and the image if it is a copy."""
        samples = self.width * self.height * self.channels * (self.sample_bytes + 4)
        return samples + (0 if self.channels == 3 else self.image_bytes)


Admit = Callable[[Header], object]
"""Called before a picture is decoded; an error that it raises refuses the picture."""
