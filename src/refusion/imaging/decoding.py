"""A decoded file as an upright picture in full range, with what the file says beside its pixels."""

from dataclasses import replace

import numpy as np
import pyvips
from jaxtyping import Shaped

from refusion.errors import ImageError, Notice
from refusion.imaging.colour import avif_colour, is_monochrome, told_profile
from refusion.imaging.containers import png_chunks
from refusion.imaging.filetypes import Admit
from refusion.imaging.image import Image, make_image, white_level
from refusion.imaging.metadata import exif_directory, has_gain_map, read_metadata
from refusion.imaging.pages import UNSPECIFIED, Page
from refusion.imaging.raw import develop

Raw = Shaped[np.ndarray, "h w c"]


def described(data: bytes, header: pyvips.Image, page: Page | None, name: str) -> Image:
    """Decode a picture, and add what its file says beside the pixels."""
    number = page.number if page else 0
    picture = header.copy_memory()
    notices: list[Notice] = []
    if page:
        picture, notices = _without_extra(picture, page)
        if page.white_is_zero and picture.bands == 1 and picture.format in ("float", "double"):
            picture = (1 - picture).copy(
                interpretation=picture.interpretation
            )  # libvips inverts integers only
    image = from_vips(picture, name, data, number)
    count = page.pages if page else _frames(data, header)
    if count > 1:
        notices.append(Notice("first-frame", f"the first of {count} pages or frames was taken"))
    if has_gain_map(data, header):
        notices.append(Notice("gain-map", "its gain map for HDR displays is not kept"))
    return replace(image, metadata=read_metadata(data, header, number), notices=tuple(notices))


def _frames(data: bytes, header: pyvips.Image) -> int:
    """Return the number of pictures in a file that is no TIFF."""
    if data.startswith(b"\x89PNG"):
        kind, content = next(
            (chunk for chunk in png_chunks(data) if chunk[0] in (b"acTL", b"IDAT")), (b"", b"")
        )
        return int.from_bytes(content[:4], "big") if kind == b"acTL" else 1
    count: int = header.get("n-pages") if header.get_typeof("n-pages") else 1
    return count


def developed(data: bytes, name: str, max_pixels: int, admit: Admit | None) -> Image:
    """Develop a camera raw file; see `refusion.imaging.raw.develop`."""
    image = make_image(develop(data, name, max_pixels, admit), 65535, None, name)
    return replace(image, metadata=read_metadata(data, pyvips.Image.black(1, 1)))


def _without_extra(picture: pyvips.Image, page: Page) -> tuple[pyvips.Image, list[Notice]]:
    """Return a TIFF's picture without samples that are neither colour nor alpha."""
    colours = page.colours
    if not page.extra or colours is None or picture.bands != colours + len(page.extra):
        return picture, []
    if colours == 1 and len(page.extra) > 1:
        return picture, []  # samples of one kind, as many as there are
    has_alpha = page.extra[0] != UNSPECIFIED
    dropped = len(page.extra) - has_alpha
    if dropped:
        picture = picture[: colours + has_alpha] if colours + has_alpha > 1 else picture[0]
    channels = "1 channel that is" if dropped == 1 else f"{dropped} channels that are"
    text = f"{channels} neither colour nor alpha, as a scanner's infrared, not kept"
    return picture, [Notice("extra-samples", text)] if dropped else []


def from_vips(picture: pyvips.Image, name: str, data: bytes = b"", page: int = 0) -> Image:
    """Return the upright RGB or grey picture of a decoded file.

    Args:
        picture: as libvips decoded it.
        name: of the picture, for messages.
        data: the file, for what it tells of its colours elsewhere than in an ICC profile.
        page: of a TIFF file.
    """
    exif = exif_directory(data, picture, page) if data else None
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
    else:
        icc = told_profile(data, exif, picture.bands < 3, icc, name)
    samples = picture.numpy().reshape(picture.height, picture.width, picture.bands)
    white = white_level(samples, name)
    if picture.get_typeof("heif-primary"):
        samples, white = _heif_samples(samples, white, data, 16 - picture.get("bits-per-sample"))
    return make_image(samples, white, icc, name)


def _heif_samples(samples: Raw, white: int, data: bytes, unused: int) -> tuple[Raw, int]:
    """Return the samples of an AVIF picture in full range, and the value of white."""
    unit = 1
    if white > 255:
        # The 10 or 12 bits of AVIF are the highest of 16, so that white is less than 65535.
        white, unit = white >> unused << unused, 256
    told = avif_colour(data)
    if told and not told[2] and is_monochrome(data):
        # libheif widens a limited range only where it converts from YCbCr. Black is 16, white 235 of 255.
        level = (samples[..., :3].astype(np.float32) - 16 * unit) * np.float32(white / (219 * unit))
        wide = np.rint(level.clip(0, white)).astype(samples.dtype)
        samples = np.concatenate([wide, samples[..., 3:]], axis=2)
    return samples, white
