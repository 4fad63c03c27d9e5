"""Reading of picture files, and of their bytes."""

import os

import pyvips

from refusion.errors import ImageError
from refusion.imaging.decoding import described, developed
from refusion.imaging.filetypes import FORMATS, HEIC, READABLE, TIFF, Admit, Header, has_loader, suffix_of
from refusion.imaging.image import Image
from refusion.imaging.pages import choose_page
from refusion.imaging.raw import is_raw
from refusion.imaging.vips import last_line
from refusion.remote import Place, Remote, place

MAX_PIXELS = 400_000_000
"""Default limit of the pixels of a picture that is decoded."""
MAX_SAMPLE_BYTES = 16
"""Bytes that a pixel of a file may have at most: four samples of 32 bits."""


def read(
    path: str | os.PathLike[str] | Remote, max_pixels: int = MAX_PIXELS, admit: Admit | None = None
) -> Image:
    """Read a picture file; the format is recognised by the first bytes, not by the name.

    Args:
        path: of a file, or its address, as "s3://bucket/photo.jpg" or "https://...".
        max_pixels: larger pictures are refused before they are decoded.
        admit: called before the picture is decoded, to refuse what does not fit into memory.

    Raises:
        ImageError: there is no such file, it is not a whole picture, or it is too large.
    """
    found = place(path)
    return decode(_content(found, max_pixels), str(found), max_pixels, admit)


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
        return developed(data, name, max_pixels, admit)
    suffix = suffix_of(data)
    if suffix is None:
        raise ImageError(
            f"{name} is not a picture in one of the formats {' '.join(READABLE)}: convert it first"
        )
    form = FORMATS[suffix]
    if not has_loader(form):
        raise ImageError(
            f"{name} is a {suffix} file, which the installed libvips does not read: convert it first"
        )
    page = choose_page(data, name) if form is TIFF else None
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
        if form is HEIC:
            raise ImageError(
                f"{name} is HEIC, which the installed libvips cannot decode: export it as JPEG, PNG or TIFF"
            ) from None
        raise ImageError(
            f"{name} is damaged, cut short or of a rare kind ({last_line(error)}): "
            "get another copy or convert it"
        ) from None


def _content(path: Place, max_pixels: int) -> bytes:
    """Return the bytes of a regular file, of a size that a picture of so many pixels can have."""
    try:
        if path.is_dir():
            raise ImageError(f"{path} is a folder: name a picture in it")
        if not path.is_file() and path.exists():
            raise ImageError(f"{path} is a pipe, device or socket: save the picture in a file first")
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
