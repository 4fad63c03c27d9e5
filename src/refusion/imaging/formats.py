"""Files and arrays <-> `Image` in [0, 1]: the only module that knows PNG, EXIF, ICC, alpha and 16 bit.

A picture is upright after reading (the EXIF turn is applied; EXIF itself is dropped), stays in the file's
own RGB or grey profile, and is written back with its depth, profile, alpha and grey, as far as the format
holds them:

    .png   .tif  .tiff   8 or 16 bit, grey, alpha, lossless
    .webp                8 bit, alpha, lossless (lossy WebP would halve the colour resolution)
    .jpg   .jpeg         8 bit, grey, quality 95, 4:4:4; alpha is flattened on white
    .avif                8 or 12 bit, alpha, quality 90, 4:4:4; 10 and 12 bit are read as 16

CMYK becomes sRGB, palettes are expanded, floating-point samples are read as 16 bit, and of several pages or
frames the first is taken. libvips hangs in a forked process whose parent has used it: spawn workers.
"""

import glob
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
import torch
from jaxtyping import Float, Float32, Shaped
from torch import Tensor

from refusion.errors import ImageError
from refusion.files import atomic

RGB = Float32[np.ndarray, "h w 3"]
Alpha = Float32[np.ndarray, "h w"]
Array = Shaped[np.ndarray, "..."]
Raw = Shaped[np.ndarray, "h w c"]
"""What a file or an array holds: 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha) channels."""


@dataclass(frozen=True, eq=False)
class Image:
    """A picture, and what it takes to write it back as it came.

    Args:
        pixels: RGB in [0, 1], contiguous; three equal channels if `grey`.
        alpha: opacity in [0, 1], or None.
        depth: bits per sample of the source, 8 or 16.
        grey: the source has one colour channel.
        icc: the profile that `pixels` are in; None stands for sRGB.
    """

    pixels: RGB
    alpha: Alpha | None
    depth: int
    grey: bool
    icc: bytes | None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def tensor(self) -> Float[Tensor, "3 h w"]:
        """The pixels, channels first."""
        return torch.from_numpy(self.pixels).permute(2, 0, 1)

    def with_pixels(self, pixels: RGB | Float[Tensor, "3 h w"]) -> "Image":
        """The same picture with other pixels, an array or a tensor on any device, clipped to [0, 1].

        Raises:
            ImageError: the shape differs, or a pixel is not finite.
        """
        if isinstance(pixels, Tensor):
            pixels = _channels_last(pixels)
        if pixels.shape != self.pixels.shape:
            raise ImageError(
                f"pixels have shape {pixels.shape}: expected {self.pixels.shape} as in the picture"
            )
        if not np.isfinite(pixels).all():
            raise ImageError(
                "pixels hold NaN or infinity: expected numbers; the network or its input is broken"
            )
        return replace(self, pixels=np.ascontiguousarray(pixels, dtype=np.float32).clip(0, 1))


def sized(*images: Image) -> str:
    """For messages: "40x30 and 40x32"."""
    return " and ".join("{}x{}".format(*image.size) for image in images)


@dataclass(frozen=True)
class _Format:
    magic: re.Pattern[bytes]  # how its files begin
    bits: int  # the most it holds per sample
    grey: bool
    alpha: bool
    options: dict[str, object]  # of the encoder
    fail_on: str = "truncated"  # the decoder's least fault that makes the picture worthless


_PNG = _Format(re.compile(rb"\x89PNG\r\n\x1a\n"), 16, True, True, {})
_JPEG = _Format(re.compile(rb"\xff\xd8\xff"), 8, True, False, {"Q": 95, "subsample_mode": "off"})
_WEBP = _Format(re.compile(rb"(?s)RIFF....WEBP"), 8, False, True, {"lossless": True, "exact": True})
_TIFF = _Format(
    re.compile(rb"II[*+]\0|MM\0[*+]"),
    16,
    True,
    True,
    {"compression": "deflate", "predictor": "horizontal"},
    "warning",  # at less, libvips fills what is missing with black
)
_AVIF = _Format(
    re.compile(rb"(?s)....ftyp.{0,64}?avi[fs]"),
    12,
    False,
    True,
    {"Q": 90, "subsample_mode": "off", "effort": 3},
)  # effort 4, the default, takes six times as long for the same picture
_GIF = _Format(re.compile(rb"GIF8"), 8, False, False, {})  # written only
_FORMATS = {
    ".png": _PNG,
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": _WEBP,
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".avif": _AVIF,
}

SUFFIXES = tuple(_FORMATS)
"""Of the files that are read and written, in lower case; any case is understood."""

_LISTED = " ".join(SUFFIXES)

# ---- reading


def read(path: str | os.PathLike[str], max_pixels: int = 400_000_000) -> Image:
    """The picture in a file; its first bytes tell the format, not its name.

    Args:
        path: of a file.
        max_pixels: larger pictures are refused before they are decoded.

    Raises:
        ImageError: there is no such file, it is no whole picture, or too large.
    """
    path = Path(path)
    data = _content(path)
    form = next((known for known in _FORMATS.values() if known.magic.match(data)), None)
    if form is None:
        raise ImageError(f"{path} is not a picture in one of the formats {_LISTED}: convert it first")
    try:
        # From memory, because libvips's cache goes by name and returns the old picture of a file that was
        # overwritten. Sequential, because else it decodes large pictures to a file on disk first.
        header = pyvips.Image.new_from_buffer(data, "", access="sequential", fail_on=form.fail_on)
        if header.width * header.height > max_pixels:
            raise ImageError(
                f"{path} has {header.width} x {header.height} pixels, more than {max_pixels}: "
                "if you trust the file, raise max_pixels"
            )
        return _decoded(header.copy_memory(), str(path))
    except pyvips.Error as error:
        raise ImageError(
            f"{path} is damaged, cut short or of a rare kind ({_line(error)}): get another copy or convert it"
        ) from None


def _content(path: Path) -> bytes:
    if path.is_dir():
        raise ImageError(f"{path} is a folder: name a picture in it")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{path} does not exist: check its name and folder") from None
    except OSError as error:
        raise ImageError(f"{path} cannot be read ({error.strerror}): check its permissions") from None
    if not data:
        raise ImageError(f"{path} is empty: get a whole copy of it")
    return data


def _decoded(picture: pyvips.Image, name: str) -> Image:
    """The upright RGB or grey picture of a decoded file."""
    picture = picture.autorot()
    icc = picture.get("icc-profile-data") if picture.get_typeof("icc-profile-data") else None
    sixteen = picture.format == "ushort"
    if picture.interpretation == "cmyk":
        picture = picture.icc_transform(
            "srgb",
            embedded=True,
            input_profile="cmyk",  # libvips's own, for files without one
            black_point_compensation=True,
            depth=16 if sixteen else 8,
        )
        icc = None
    elif picture.interpretation not in ("b-w", "grey16", "srgb", "rgb", "rgb16", "scrgb", "multiband"):
        raise ImageError(
            f"{name} is in {picture.interpretation} colours: convert it to RGB, grey or CMYK first"
        )
    samples = picture.numpy()
    white = _white(samples, name)
    if picture.get_typeof("heif-primary") and white > 255:
        # The 10 or 12 bits of AVIF come at the top of 16, so that white is less than 65535.
        unused = 16 - picture.get("bits-per-sample")
        white = white >> unused << unused
    return _image(samples, white, icc, name)


# ---- arrays


def from_array(array: Any) -> Image:
    """The picture in an array, a PIL picture or a tensor; an `Image` is passed through.

    Args:
        array: of shape (h, w), or (h, w, c) with 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha)
            channels, of uint8, uint16, bool, or floats in [0, 1] that count as 16 bit; a torch tensor of
            the same, but (c, h, w); a PIL picture of any mode but LAB, turned as its EXIF says.

    Raises:
        ImageError: another shape or type, floats outside [0, 1], or NaN.
    """
    if isinstance(array, Image):
        return array
    # Whoever has a PIL picture has imported PIL.
    if "PIL.Image" in sys.modules and isinstance(array, sys.modules["PIL.Image"].Image):
        return _from_pil(array)
    samples = _channels_last(array) if hasattr(array, "detach") else np.asarray(array)
    return _image(samples, _white(samples, "the array"), None, "the array")


def _white(samples: Array, name: str) -> int:
    """The sample that stands for 1."""
    kind, size = samples.dtype.kind, samples.dtype.itemsize
    if kind in "bf":
        return 1
    if kind == "u" and size <= 2:
        return 255 if size == 1 else 65535
    raise ImageError(f"{name} has {samples.dtype} samples: expected uint8, uint16, bool, or floats in [0, 1]")


def _image(samples: Array, white: int, icc: bytes | None, name: str) -> Image:
    """The one way into an `Image`."""
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
        # Files with a profile of the other kind exist, and other programs refuse to read them.
        icc=icc if icc and icc[16:20] == (b"GRAY" if grey else b"RGB ") else None,
    )


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
        return _decoded(inks, name)
    if picture.mode == "I" and samples.min() >= 0 and samples.max() <= 65535:
        samples = samples.astype(np.uint16)  # PIL widens some 16-bit files to 32
    return _image(samples, _white(samples, name), icc, name)


def _channels_last(tensor: Any) -> Array:
    if tensor.ndim != 3 or tensor.shape[0] > 4:
        raise ImageError(
            f"the tensor has shape {tuple(tensor.shape)}: expected (c, h, w) with c = 1, 2, 3 or 4"
        )
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor.float()  # numpy has no bfloat16
    samples: Array = np.moveaxis(tensor.numpy(), 0, 2)
    return samples


# ---- writing


def write(image: Image, path: str | os.PathLike[str]) -> None:
    """Write a picture, whole or not at all; the suffix decides the format.

    Depth, grey, alpha and profile are kept as far as the format holds them: see the table of the module.

    Raises:
        ImageError: an unknown suffix, too large a picture for the format, or a place of no access.
    """
    path = Path(path)
    form = _FORMATS.get(path.suffix.lower())
    if form is None:
        raise ImageError(f"{path} cannot be written: name it with one of the suffixes {_LISTED}")
    # A grey profile is dropped by libvips where grey becomes RGB.
    tags = {"icc-profile-data": (pyvips.GValue.blob_type, image.icc)} if image.icc else {}
    _store(path, _encoded(path, _samples(image, form), tags, form.options))


def write_gif(frames: Iterable[Any], path: str | os.PathLike[str], frame_ms: int = 100) -> None:
    """Write an endless animation, 256 colours a frame.

    Args:
        frames: at least one, all of one size: what `from_array` takes; alpha is flattened on white.
        path: ends in .gif.
        frame_ms: how long each is shown, in whole hundredths of a second, as GIF counts.

    Raises:
        ImageError: another suffix or time, no or unequal frames, or what `from_array` and `write` raise.
    """
    path = Path(path)
    if path.suffix.lower() != ".gif":
        raise ImageError(f"{path} cannot be written: name an animation .gif")
    if frame_ms < 10 or frame_ms % 10:
        raise ImageError(f"frame_ms is {frame_ms}: expected 10, 20, 30 ...")
    pages = [_samples(from_array(frame), _GIF) for frame in frames]
    sizes = {page.shape[1::-1] for page in pages}
    if len(sizes) != 1:
        raise ImageError(
            f"{path} cannot be written: expected frames of one size, got {sorted(sizes) or 'none'}"
        )
    tags = {
        "page-height": (pyvips.GValue.gint_type, len(pages[0])),
        "delay": (pyvips.GValue.array_int_type, [frame_ms] * len(pages)),
    }
    _store(path, _encoded(path, np.concatenate(pages), tags, _GIF.options))


def _samples(image: Image, form: _Format) -> Raw:
    """The picture as `form` holds it: the inverse of `_image`, for every sample of 8 and 16 bit."""
    # The channels of a restored grey picture are three estimates of one value.
    colour = image.pixels.mean(axis=2, keepdims=True) if image.grey else image.pixels
    if not form.grey:
        colour = np.broadcast_to(colour, image.pixels.shape)
    if image.alpha is not None:
        alpha = image.alpha[..., None]
        colour = np.concatenate([colour, alpha], axis=2) if form.alpha else colour * alpha + (1 - alpha)
    bits = min(image.depth, form.bits)
    samples = np.rint(colour * np.float32(2**bits - 1))
    # libvips takes 12 bits from the top of 16.
    return samples.astype(np.uint8) if bits == 8 else samples.astype(np.uint16) << (16 - bits)


def _encoded(path: Path, samples: Raw, tags: dict[str, Any], options: dict[str, object]) -> bytes:
    colour, deep = samples.shape[2] > 2, samples.dtype == np.uint16
    interpretation = ("rgb16" if deep else "srgb") if colour else ("grey16" if deep else "b-w")
    picture = pyvips.Image.new_from_array(samples, interpretation=interpretation)
    for name, (kind, value) in tags.items():
        picture.set_type(kind, name, value)
    try:
        data: bytes = picture.write_to_buffer(path.suffix.lower(), **options)
    except pyvips.Error as error:
        raise ImageError(f"{path} cannot be encoded ({_line(error)}): try .png or .tif") from None
    return data


def _store(path: Path, data: bytes) -> None:
    try:
        with atomic(path) as part:
            part.write_bytes(data)
    except OSError as error:
        raise ImageError(
            f"{path} cannot be written ({error.strerror}): check its folder, room and permissions"
        ) from None


# ---- finding


def find(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The pictures that are meant by files, folders and patterns, each once.

    A file is taken whatever its name. A folder, with those in it, gives what ends in one of `SUFFIXES` and is
    not hidden, 2.png before 10.png. A pattern (`*`, `?`, `[abc]`, `**`) gives the same of all it matches, for
    shells that leave it to us, as on Windows.

    Raises:
        ImageError: one of `paths` gives nothing.
    """
    return list(dict.fromkeys(found for path in paths for found in _found(Path(path))))


def _found(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        pictures = _inside(path)
    elif glob.has_magic(str(path)):
        matches = [Path(match) for match in glob.glob(str(path), recursive=True)]  # noqa: PTH207 - Path.glob knows no absolute patterns
        pictures = [picture for match in matches for picture in _inside(match)]
    else:
        raise ImageError(f"{path} does not exist: check its name and folder")
    if not pictures:
        raise ImageError(f"{path} gives no pictures: expected files that end in one of {_LISTED}")
    return sorted(pictures, key=_natural)


def _inside(place: Path) -> list[Path]:
    """The pictures in a folder; of a file, itself."""
    inside = [
        path for path in place.rglob("*") if not any(p[0] == "." for p in path.relative_to(place).parts)
    ]
    return [path for path in [place, *inside] if path.suffix.lower() in SUFFIXES and path.is_file()]


def _natural(path: Path) -> tuple[list[list[str | int]], Path]:
    """Sorts numbers by value; every odd piece of the split is one."""
    pieces = [re.split(r"([0-9]+)", part.casefold()) for part in path.parts]
    return [[int(piece) if i % 2 else piece for i, piece in enumerate(part)] for part in pieces], path


# ---- messages


def _line(error: pyvips.Error) -> str:
    """What happened last: libvips's text has many lines or none, the first often of an earlier error."""
    lines = [line.strip() for line in error.detail.splitlines() if ": " in line]  # "part of libvips: fault"
    return lines[-1] if lines else "libvips gives no reason"
