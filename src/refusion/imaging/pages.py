"""Which picture of a TIFF file is meant, whether it is whole, and what its samples are."""

from dataclasses import dataclass

from refusion.errors import ImageError
from refusion.imaging import tiff
from refusion.imaging.tiff import Directory

_SUBFILE, _OLD_SUBFILE, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _EXTRA = 254, 255, 259, 262, 277, 338
_WIDTH, _HEIGHT = 256, 257
_MAX_SIDE = 10_000_000  # libvips complains on the terminal about more than 100 million
_MAX_EXTRA = 65535  # samples of a pixel are counted in 16 bits
_STRIPS, _TILES = (273, 279), (324, 325)
_REDUCED, _MASK = 1, 4
_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}
"""Samples of a pixel that are colour, for each photometric interpretation."""
UNSPECIFIED = 0


@dataclass(frozen=True)
class Page:
    """The picture of a TIFF file.

    Args:
        number: of the page, from 0.
        subfile: number of a picture within the page, from 0; -1 for the page itself.
        pages: how many pages are pictures of their own, without previews and masks.
        extra: what the samples after the colours are: 0 unspecified, else alpha; libvips undoes
            the multiplication by alpha.
        colours: samples of a pixel that are colour; None if unknown.
        white_is_zero: whether 0 stands for white.
    """

    number: int
    subfile: int
    pages: int
    extra: tuple[int, ...]
    colours: int | None
    white_is_zero: bool


def choose_page(data: bytes, name: str) -> Page:
    """Return the page that is the picture: the first of full resolution that is no mask.

    Raises:
        ImageError: there is none, or its data are cut short.
    """
    reader = tiff.Reader(data)
    found = reader.directories()
    full = [number for number, page in enumerate(found) if not _kind(page)]
    if full:
        return _checked(data, found[full[0]], full[0], -1, len(full), name)
    for number, page in enumerate(found):
        for place, inner in enumerate(reader.subfiles(page)):
            if not _kind(inner):
                return _checked(data, inner, number, place, 1, name)
    if found:
        raise ImageError(
            f"{name} holds previews of reduced resolution only: export the picture itself as TIFF"
        )
    raise ImageError(f"{name} is damaged, cut short or of a rare kind (no directory): get another copy of it")


def _kind(page: Directory) -> int:
    """Return the bits by which a page is a preview or a mask; 0 for a picture."""
    old = {2: _REDUCED}.get(page.number(_OLD_SUBFILE, 0), 0)
    return page.number(_SUBFILE, old) & (_REDUCED | _MASK)


def _checked(data: bytes, page: Directory, number: int, subfile: int, pages: int, name: str) -> Page:
    width, height = page.number(_WIDTH, 1), page.number(_HEIGHT, 1)
    if max(width, height) > _MAX_SIDE:
        raise ImageError(
            f"{name} has {width} x {height} pixels: expected sides up to {_MAX_SIDE}; is it damaged?"
        )
    for offsets, counts in (_STRIPS, _TILES):
        for offset, count in zip(page.numbers(offsets), page.numbers(counts), strict=False):
            if offset + count > len(data):
                raise ImageError(
                    f"{name} is damaged, cut short or of a rare kind (its data end early): "
                    "get another copy or convert it"
                )
    colours = _COLOURS.get(page.number(_PHOTOMETRIC, 1))
    surplus = min(max(0, page.number(_SAMPLES, 1) - (colours or 0)), _MAX_EXTRA)
    extra = (*page.numbers(_EXTRA), *[UNSPECIFIED] * surplus)[:surplus]
    return Page(number, subfile, pages, extra, colours, page.number(_PHOTOMETRIC, 1) == 0)
