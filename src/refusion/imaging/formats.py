"""Decoding and encoding of picture files: PNG, EXIF, ICC, alpha and 16 bit are handled in this module only.

A picture is upright after reading, stays in the file's own RGB or grey profile, and is written back with its
depth, profile, alpha, grey and metadata, as far as the format can store them:

    .png   .tif  .tiff   8 or 16 bit, grey, alpha, lossless
    .webp                8 bit, alpha, lossless (lossy WebP would halve the colour resolution)
    .jpg   .jpeg         8 bit, grey, quality 95, 4:4:4; alpha is flattened on white
    .avif                8 or 12 bit, alpha, quality 90, 4:4:4; 10 and 12 bit are read as 16

    .gif   .bmp   .jp2   .jxl   read only, where libvips can

CMYK becomes sRGB, palettes are expanded, floating-point samples are read as 16 bit, and of several pages or
frames the first is taken. What is not the whole of a file is a notice of the picture. libvips hangs in a
forked process whose parent has used it: spawn workers.
"""

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
from jaxtyping import Shaped

from refusion.errors import ImageError, Notice
from refusion.files import atomic
from refusion.imaging.colour import grey_as_srgb
from refusion.imaging.decoding import described, developed
from refusion.imaging.image import Image
from refusion.imaging.metadata import embed, fields, losses, placeholder
from refusion.imaging.pages import choose_page
from refusion.imaging.raw import is_raw

Raw = Shaped[np.ndarray, "h w c"]
"""Samples of 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha) channels."""


@dataclass(frozen=True)
class _Format:
    magic: re.Pattern[bytes]  # first bytes of its files
    bits: int  # largest depth per sample
    grey: bool
    alpha: bool
    options: dict[str, object]  # of the encoder
    fail_on: str = "truncated"  # the mildest fault at which the decoder gives up
    loader: str = ""  # of libvips, if not every libvips has it


_PNG = _Format(re.compile(rb"\x89PNG\r\n\x1a\n"), 16, True, True, {})
_JPEG = _Format(re.compile(rb"\xff\xd8\xff"), 8, True, False, {"Q": 95, "subsample_mode": "off"})
_WEBP = _Format(re.compile(rb"(?s)RIFF....WEBP"), 8, False, True, {"lossless": True, "exact": True})
_TIFF = _Format(
    re.compile(rb"II[*+]\0|MM\0[*+]"),
    16,
    True,
    True,
    {"compression": "deflate", "predictor": "horizontal", "resunit": "inch"},
    "error",  # "warning" refuses healthy files for odd tags
)
_AVIF = _Format(
    re.compile(rb"(?s)....ftyp.{0,64}?avi[fs]"),
    12,
    False,
    True,
    {"Q": 90, "subsample_mode": "off", "effort": 3},
)  # effort 4, the default, takes six times as long for the same picture
_HEIC = _Format(
    re.compile(rb"(?s)....ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1)"), 8, False, True, {}
)  # read only
_GIF = _Format(re.compile(rb"GIF8"), 8, False, False, {}, loader="gifload_buffer")  # written as animation
_FORMATS = {
    ".png": _PNG,
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": _WEBP,
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".avif": _AVIF,
}

_READ_ONLY = {
    ".gif": _GIF,
    ".bmp": _Format(
        re.compile(rb"(?s)BM.{12}[\x0c\x28\x34\x38\x6c\x7c]\0\0\0"),
        8,
        False,
        False,
        {},
        loader="magickload_buffer",
    ),
    ".jp2": _Format(
        re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
        16,
        True,
        True,
        {},
        loader="jp2kload_buffer",
    ),
    ".jxl": _Format(
        re.compile(rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"), 16, True, True, {}, loader="jxlload_buffer"
    ),
}
_KINDS = {**_FORMATS, **_READ_ONLY, ".heic": _HEIC}


def _has_loader(form: _Format) -> bool:
    return not form.loader or pyvips.type_find("VipsOperation", form.loader) != 0


SUFFIXES = tuple(_FORMATS)
"""Suffixes of the files that are read and written, in lower case; upper case is accepted, too."""
READABLE = (*SUFFIXES, *(suffix for suffix, form in _READ_ONLY.items() if _has_loader(form)))
"""Suffixes of the files that are read, which depends on the libvips that is installed."""

_LISTED = " ".join(SUFFIXES)
MAX_PIXELS = 400_000_000
"""Default limit of the pixels of a picture that is decoded."""
MAX_SAMPLE_BYTES = 16
"""Bytes that a pixel of a file may have at most: four samples of 32 bits."""


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


def read(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS, admit: Admit | None = None) -> Image:
    """Read a picture file; the format is recognised by the first bytes, not by the name.

    Args:
        path: of a file.
        max_pixels: larger pictures are refused before they are decoded.
        admit: called before the picture is decoded, to refuse what does not fit into memory.

    Raises:
        ImageError: there is no such file, it is not a whole picture, or it is too large.
    """
    path = Path(path)
    return decode(_content(path, max_pixels), str(path), max_pixels, admit)


def decode(
    data: bytes, name: str = "the picture", max_pixels: int = MAX_PIXELS, admit: Admit | None = None
) -> Image:
    """Decode the bytes of a picture file; the format is recognised by the first of them.

    Args:
        data: a whole file.
        name: of the picture, for messages.
        max_pixels: larger pictures are refused before they are decoded.
        admit: called before the picture is decoded, to refuse what does not fit into memory.

    Raises:
        ImageError: the bytes are not a whole picture, or it is too large.
    """
    if not data:
        raise ImageError(f"{name} is empty: get a whole copy of it")
    if is_raw(data):
        return developed(data, name, max_pixels)
    suffix = _suffix(data)
    if suffix is None:
        raise ImageError(
            f"{name} is not a picture in one of the formats {' '.join(READABLE)}: convert it first"
        )
    form = _KINDS[suffix]
    if not _has_loader(form):
        raise ImageError(
            f"{name} is a {suffix} file, which the installed libvips does not read: convert it first"
        )
    page = choose_page(data, name) if form is _TIFF else None
    try:
        # From memory, because libvips caches by file name and returns the old picture of a file that was
        # overwritten. Sequential, because otherwise it decodes large pictures to a file on disk first.
        options = {"page": page.number, "subifd": page.subfile} if page else {}
        header = pyvips.Image.new_from_buffer(data, "", access="sequential", fail_on=form.fail_on, **options)
        if header.width * header.height > max_pixels:
            raise ImageError(
                f"{name} has {header.width} x {header.height} pixels, more than {max_pixels}: "
                "if you trust the file, raise max_pixels (--max-pixels)"
            )
        if admit is not None:
            sample_bytes = 1 if header.format == "uchar" else 2 if header.format == "ushort" else 4
            admit(Header(header.width, header.height, header.bands, sample_bytes))
        return described(data, header, page, name)
    except (pyvips.Error, UnicodeDecodeError) as error:  # the second if a message quotes a damaged tag
        if form is _HEIC:
            raise ImageError(
                f"{name} is HEIC, which the installed libvips cannot decode: export it as JPEG, PNG or TIFF"
            ) from None
        raise ImageError(
            f"{name} is damaged, cut short or of a rare kind ({_line(error)}): get another copy or convert it"
        ) from None


def _suffix(data: bytes) -> str | None:
    """Return the suffix of the format of which these bytes are the first; None if it is unknown."""
    return next((suffix for suffix, form in _KINDS.items() if form.magic.match(data)), None)


def is_picture(data: bytes) -> bool:
    """Return whether these are the first bytes of a picture, which may be damaged further on."""
    return _suffix(data) is not None


def writable_suffix(data: bytes) -> str:
    """Return the suffix of the format of a file's first bytes, or .png if that format is not written."""
    suffix = _suffix(data)
    return suffix if suffix in SUFFIXES else ".png"


def _content(path: Path, max_pixels: int) -> bytes:
    """Return the bytes of a regular file, of a size that a picture of so many pixels can have."""
    if path.is_dir():
        raise ImageError(f"{path} is a folder: name a picture in it")
    if path.exists() and not path.is_file():
        raise ImageError(f"{path} is a pipe, device or socket: save the picture in a file first")
    try:
        if path.stat().st_size > max(2**24, MAX_SAMPLE_BYTES * max_pixels):
            raise ImageError(
                f"{path} has {path.stat().st_size} bytes, more than any picture of {max_pixels} pixels: "
                "if you trust the file, raise max_pixels (--max-pixels)"
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{path} does not exist: check its name and folder") from None
    except OSError as error:
        raise ImageError(f"{path} cannot be read ({error.strerror}): check its permissions") from None


def write(image: Image, path: str | os.PathLike[str], source: Path | None = None, dated: bool = True) -> None:
    """Write a picture, whole or not at all; the suffix decides the format.

    Depth, grey, alpha, profile and metadata are kept as far as the format can store them: see the module's
    table.

    Args:
        image: the picture.
        path: of the file.
        source: a file whose permissions the new one gets, as a copy would.
        dated: whether it gets the source's time of change, too.

    Raises:
        ImageError: see `encode`; or the file cannot be written.
    """
    path = Path(path)
    _store(path, encode(image, path.suffix, str(path)), source, dated)


def unkept(image: Image, suffix: str) -> tuple[Notice, ...]:
    """Return a notice of the metadata that a format cannot hold, if there are any.

    Args:
        image: the picture.
        suffix: of the file that is written.
    """
    lost = losses(image.metadata, suffix.lower())
    text = f"{' and '.join(lost)} cannot be kept in {suffix.lower()}: .tif can hold all"
    return (Notice("metadata-lost", text),) if lost else ()


def encode(image: Image, suffix: str, name: str = "the picture") -> bytes:
    """Encode a picture as the bytes of a file.

    Args:
        image: the picture; depth, grey, alpha and profile are kept as far as the format can store them.
        suffix: one of `SUFFIXES`, in any case.
        name: of the picture, for messages.

    Raises:
        ImageError: the suffix is unknown, or the picture too large for the format.
    """
    form = _FORMATS.get(suffix.lower())
    if form is None:
        raise ImageError(f"{name} cannot be written: name it with one of the suffixes {_LISTED}")
    if image.grey and image.icc and not form.grey:
        converted = grey_as_srgb(image.pixels.mean(axis=2), image.icc)
        pixels = image.pixels if converted is None else np.repeat(converted[..., None], 3, axis=2)
        image = replace(image, icc=None, pixels=pixels)
    metadata, suffix = image.metadata, suffix.lower()
    samples = _samples(image, form)
    blobs = {"icc-profile-data": image.icc, **fields(metadata, suffix)}
    held = placeholder(metadata, suffix)
    if held:
        blobs["exif-data"] = held
    tags = {tag: (pyvips.GValue.blob_type, blob) for tag, blob in blobs.items() if blob}
    keep = ["icc", "xmp", "iptc", *(["exif"] if held else [])]
    options = {**form.options, "keep": ":".join(keep)}
    data = _encoded(suffix, samples, tags, options, name, metadata.resolution)
    return embed(data, metadata, suffix, image.size, samples.shape[2] in (2, 4))


def write_gif(frames: Iterable[Image], path: str | os.PathLike[str], frame_ms: int = 100) -> None:
    """Write an animation that repeats, with 256 colours a frame.

    Args:
        frames: at least one, all of one size; alpha is flattened on white.
        path: ends in .gif.
        frame_ms: duration of a frame in milliseconds, a multiple of 10, which is GIF's unit.

    Raises:
        ImageError: a wrong suffix or duration, no frames or frames of several sizes; or see `write`.
    """
    path = Path(path)
    if path.suffix.lower() != ".gif":
        raise ImageError(f"{path} cannot be written: name an animation .gif")
    if frame_ms < 10 or frame_ms % 10:
        raise ImageError(f"frame_ms is {frame_ms}: expected 10, 20, 30 ...")
    pages = [_samples(frame, _GIF) for frame in frames]
    sizes = {page.shape[1::-1] for page in pages}
    if len(sizes) != 1:
        raise ImageError(
            f"{path} cannot be written: expected frames of one size, got {sorted(sizes) or 'none'}"
        )
    tags = {
        "page-height": (pyvips.GValue.gint_type, len(pages[0])),
        "delay": (pyvips.GValue.array_int_type, [frame_ms] * len(pages)),
    }
    _store(path, _encoded(".gif", np.concatenate(pages), tags, _GIF.options, str(path)))


def _samples(image: Image, form: _Format) -> Raw:
    """Return the samples of a picture as `form` stores them; exact for pictures of 8 and 16 bit."""
    # The three channels of a restored grey picture are estimates of one value.
    colour = image.pixels.mean(axis=2, keepdims=True) if image.grey else image.pixels
    if not form.grey:
        colour = np.broadcast_to(colour, image.pixels.shape)
    if image.alpha is not None:
        alpha = image.alpha[..., None]
        colour = np.concatenate([colour, alpha], axis=2) if form.alpha else colour * alpha + (1 - alpha)
    bits = min(image.depth, form.bits)
    samples = np.empty(colour.shape, np.uint8 if bits == 8 else np.uint16)
    for row, values in zip(samples, colour, strict=True):  # without a copy of the picture in floats
        row[:] = np.rint(values * np.float32(2**bits - 1))
    # libvips takes the highest 12 of 16 bits.
    return samples if bits == 8 else samples << (16 - bits)


def _encoded(
    suffix: str,
    samples: Raw,
    tags: dict[str, Any],
    options: dict[str, object],
    name: str,
    resolution: tuple[float, float] | None = None,
) -> bytes:
    colour, deep = samples.shape[2] > 2, samples.dtype == np.uint16
    interpretation = ("rgb16" if deep else "srgb") if colour else ("grey16" if deep else "b-w")
    picture = pyvips.Image.new_from_array(samples, interpretation=interpretation)
    if resolution is not None:
        picture = picture.copy(xres=resolution[0], yres=resolution[1])
    for tag, (kind, value) in tags.items():
        picture.set_type(kind, tag, value)
    try:
        data: bytes = picture.write_to_buffer(suffix, **options)
    except pyvips.Error as error:
        raise ImageError(f"{name} cannot be encoded ({_line(error)}): try .png or .tif") from None
    return data


def _store(path: Path, data: bytes, source: Path | None = None, dated: bool = True) -> None:
    try:
        with atomic(path, source, dated) as part:
            part.write_bytes(data)
    except OSError as error:
        raise ImageError(
            f"{path} cannot be written ({error.strerror}): check its folder, room and permissions"
        ) from None


def _line(error: pyvips.Error | UnicodeDecodeError) -> str:
    """Return the last line of libvips's message, which may begin with those of earlier errors."""
    detail = error.detail if isinstance(error, pyvips.Error) else ""
    lines = [line.strip() for line in detail.splitlines() if ": " in line]  # "part of libvips: fault"
    return lines[-1] if lines else "libvips gives no reason"
