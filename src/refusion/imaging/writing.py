"""Writing of pictures and animations as files, and as their bytes."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
from jaxtyping import Shaped

from refusion.errors import ImageError, Notice
from refusion.files import atomic
from refusion.imaging.colour import grey_as_srgb
from refusion.imaging.containers import Parts
from refusion.imaging.filetypes import GIF, SUFFIXES, WRITTEN, Format
from refusion.imaging.image import Image
from refusion.imaging.metadata import embed, fields, losses, placeholder
from refusion.imaging.vips import last_line
from refusion.remote import Place, Remote, place

Raw = Shaped[np.ndarray, "h w c"]
"""Samples of 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha) channels."""


def write(
    image: Image, path: str | os.PathLike[str] | Remote, source: Place | None = None, dated: bool = True
) -> None:
    """Write a picture, whole or not at all; the suffix decides the format.

    Depth, grey, alpha, profile and metadata are kept as far as the format can store them, see the
    table of `refusion.imaging.formats`.

    Args:
        image: the picture.
        path: of the file, or its address in a store, as "s3://bucket/photo.png".
        source: a file whose permissions the new one gets, as a copy would, if both are of this machine.
        dated: whether it gets the source's time of change, too.

    Raises:
        ImageError: see `encode`; or the file cannot be written.
    """
    target = place(path)
    _store(target, _file(image, target.suffix, str(target)), source, dated)


def unkept(image: Image, suffix: str) -> tuple[Notice, ...]:
    """Return notices of the metadata that a format cannot hold, if there are any.

    Args:
        image: the picture.
        suffix: of the file that is written.
    """
    lost = losses(image.metadata, suffix.lower())
    texts = (
        f"{' and '.join(names)} cannot be kept in {suffix.lower()}: {holder} can hold all"
        for holder, names in lost.items()
    )
    return tuple(Notice("metadata-lost", text) for text in texts)


def encode(image: Image, suffix: str, name: str = "the picture") -> bytes:
    """Encode a picture as the bytes of a file.

    Args:
        image: the picture; depth, grey, alpha and profile are kept as far as the format can store them.
        suffix: one of `SUFFIXES`, in any case.
        name: of the picture, for messages.

    Raises:
        ImageError: the suffix is unknown, or the picture too large for the format.
    """
    return b"".join(_file(image, suffix, name))


def _file(image: Image, suffix: str, name: str) -> Parts:
    """Return the pieces of the file that `encode` returns."""
    form = WRITTEN.get(suffix.lower())
    if form is None:
        raise ImageError(f"{name} cannot be written: name it with one of the suffixes {' '.join(SUFFIXES)}")
    if image.grey and image.icc and not form.grey:
        converted = grey_as_srgb(image.pixels.mean(axis=2), image.icc)
        pixels = image.pixels if converted is None else np.repeat(converted[..., None], 3, axis=2)
        image = replace(image, icc=None, pixels=pixels)
    metadata, suffix = image.metadata, suffix.lower()
    samples = _quantized(image, form)
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
    pages = [_quantized(frame, GIF) for frame in frames]
    sizes = {page.shape[1::-1] for page in pages}
    if len(sizes) != 1:
        raise ImageError(
            f"{path} cannot be written: expected frames of one size, got {sorted(sizes) or 'none'}"
        )
    tags = {
        "page-height": (pyvips.GValue.gint_type, len(pages[0])),
        "delay": (pyvips.GValue.array_int_type, [frame_ms] * len(pages)),
    }
    _store(path, [_encoded(".gif", np.concatenate(pages), tags, GIF.options, str(path))])


def _quantized(image: Image, form: Format) -> Raw:
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
    options: Mapping[str, object],
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
        raise ImageError(f"{name} cannot be encoded ({last_line(error)}): try .png or .tif") from None
    return data


def _store(path: Place, parts: Parts, source: Place | None = None, dated: bool = True) -> None:
    try:
        if isinstance(path, Remote):
            path.write_bytes(b"".join(parts))
            return
        alike = None if isinstance(source, Remote) else source
        with atomic(path, alike, dated) as part, part.open("wb") as file:
            file.writelines(parts)
    except OSError as error:
        raise ImageError(
            f"{path} cannot be written ({error.strerror}): check its folder, room and permissions"
        ) from None
