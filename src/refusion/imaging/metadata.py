"""What a picture file says beside its pixels: EXIF, XMP, IPTC and resolution; reading and writing of them.

EXIF is kept entry by entry, upright and without its thumbnail. libvips writes files without EXIF, which is
put in afterwards: libvips rewrites it, by which makers' notes are lost and tags invented.
"""

import re
import struct
import sys
from dataclasses import dataclass, replace

import pyvips

from refusion.imaging import containers, tiff
from refusion.imaging.containers import Parts, Text
from refusion.imaging.tiff import Directory, Entry

ORIENTATION, X_RESOLUTION, Y_RESOLUTION, UNIT, WIDTH, HEIGHT = 0x0112, 0x011A, 0x011B, 0x0128, 0xA002, 0xA003
_ABOUT = {269, 270, 271, 272, 285, 305, 306, 315, 316, 18246, 18249, 33432, *range(40091, 40096)}
"""Entries of the first directory that are about the picture, not about how the file holds it."""
_MAX_EXIF = {
    ".jpg": containers.MAX_APP1,
    ".jpeg": containers.MAX_APP1,
    ".avif": 60000,
}
_MAX_SEGMENT = 60000
"""Most bytes of XMP and of IPTC that libvips writes into JPEG."""
_KEYWORDS_SHOWN = 3
_IPTC_OF_TIFF, _PHOTOSHOP_OF_TIFF = 33723, 34377
_PHOTOSHOP = b"Photoshop 3.0\0"
_MM_OF_UNIT = {2: 25.4, 3: 10.0}
_XMP_ORIENTATION = re.compile(rb"""(tiff:Orientation(?:\s*=\s*["']|>\s*))[2-8]""")
_GAIN_MAP = re.compile(rb"hdrgm:|HDRGainMap|http://ns\.adobe\.com/hdr-gain-map", re.IGNORECASE)


@dataclass(frozen=True)
class Metadata:
    """What a file says beside its pixels, for an upright picture.

    Args:
        exif: as a TIFF structure of one directory, without thumbnail.
        xmp: a packet of XML.
        iptc: the records of IPTC IIM alone.
        resolution: pixels per mm, horizontally and vertically; None if the file does not say.
        texts: chunks of text in PNG.
        comments: those of JPEG.
    """

    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    resolution: tuple[float, float] | None = None
    texts: tuple[Text, ...] = ()
    comments: tuple[bytes, ...] = ()

    def stripped(self) -> "Metadata":
        """Return the resolution alone."""
        return Metadata(resolution=self.resolution)

    @property
    def directory(self) -> Directory | None:
        """The directory of EXIF."""
        return next(iter(tiff.directories(self.exif)), None) if self.exif else None


def read_metadata(data: bytes, picture: pyvips.Image, page: int = 0) -> Metadata:
    """Return what a file says.

    Args:
        data: the file.
        picture: the file, opened by libvips, before it is turned.
        page: of a TIFF file.
    """
    directory = _exif_of(data, picture, page)
    turned = picture.get_typeof("orientation") != 0 and picture.get("orientation") >= 5
    resolution = _resolution(data, directory)
    if resolution and turned:
        resolution = resolution[::-1]
    xmp = _blob(picture, "xmp-data")
    if xmp and (_GAIN_MAP.search(xmp) or picture.get_typeof("gainmap-data")):
        xmp = None  # it would promise a gain map that is not there
    return Metadata(
        exif=_kept(directory, turned),
        xmp=_XMP_ORIENTATION.sub(rb"\g<1>1", xmp) if xmp else None,
        iptc=_iptc(data, picture, page),
        resolution=resolution,
        texts=containers.png_texts(data),
        comments=containers.jpeg_comments(data),
    )


def has_gain_map(data: bytes, picture: pyvips.Image) -> bool:
    """Return whether a file holds a gain map, by which HDR displays show a brighter picture."""
    xmp = _blob(picture, "xmp-data")
    if picture.get_typeof("gainmap-data") or (xmp and _GAIN_MAP.search(xmp)):
        return True
    segments = containers.jpeg_segments(data) if data.startswith(b"\xff\xd8") else ()
    if any(content.startswith(b"urn:iso:std:iso:ts:21496") for _, content in segments):
        return True
    return data[4:8] == b"ftyp" and b"tmap" in data[:4096]


def exif_directory(data: bytes, picture: pyvips.Image, page: int = 0) -> Directory | None:
    """Return the directory of a file's EXIF, as it stands there."""
    return _exif_of(data, picture, page)


def _exif_of(data: bytes, picture: pyvips.Image, page: int) -> Directory | None:
    if data[:2] in (b"II", b"MM"):
        found = tiff.directories(data)
        if not page < len(found):
            return None
        # Before a picture may stand a preview, whose directory is about the picture, too.
        about = {tag: entry for tag, entry in found[0].entries.items() if tag in _ABOUT}
        chosen = found[page]
        return Directory(chosen.order, {**about, **chosen.entries}, {**found[0].inner, **chosen.inner})
    exif = _blob(picture, "exif-data") or b""
    found = tiff.directories(exif.removeprefix(b"Exif\0\0"))
    return found[0] if found else None


def _blob(picture: pyvips.Image, name: str) -> bytes | None:
    value: bytes | None = picture.get(name) if picture.get_typeof(name) else None
    return value or None


def _iptc(data: bytes, picture: pyvips.Image, page: int) -> bytes | None:
    """Return the records of IPTC, from among those of Photoshop, which may hold a thumbnail, too."""
    if data[:2] in (b"II", b"MM"):
        directory = _exif_of(data, picture, page)
        entry = directory.entries.get(_IPTC_OF_TIFF) if directory else None
        blocks = directory.entries.get(_PHOTOSHOP_OF_TIFF) if directory else None
        if entry is not None and entry.value.startswith(b"\x1c"):
            return entry.value
        block = blocks.value if blocks else b""
    else:
        block = (_blob(picture, "iptc-data") or b"").removeprefix(_PHOTOSHOP)
    at = 0
    while block[at : at + 4] == b"8BIM":
        kind, name = block[at + 4 : at + 6], block[at + 6 : at + 7]
        start = at + 7 + (name[0] if name else 0)
        start += (start - at) % 2
        size = int.from_bytes(block[start : start + 4], "big")
        if kind == b"\4\4":
            return block[start + 4 : start + 4 + size] or None
        at = start + 4 + size + size % 2
    return block if block.startswith(b"\x1c") else None


def _kept(directory: Directory | None, turned: bool) -> bytes | None:
    """Return the bytes of EXIF that stay true when the picture is upright and its pixels have changed."""
    if directory is None:
        return None
    entries = {tag: entry for tag, entry in directory.entries.items() if tag in _ABOUT}
    if not entries and not directory.inner:
        return None
    if ORIENTATION in directory.entries:
        entries[ORIENTATION] = tiff.integer(directory.order, 1)
    unit = directory.number(UNIT, 2)
    for tag, other in ((X_RESOLUTION, Y_RESOLUTION), (Y_RESOLUTION, X_RESOLUTION)):
        value = directory.entries.get(other if turned else tag)
        if value is not None and unit in _MM_OF_UNIT:
            entries |= {tag: value, UNIT: tiff.integer(directory.order, unit)}
    return tiff.exif_bytes(Directory(directory.order, entries, directory.inner))


def _resolution(data: bytes, directory: Directory | None) -> tuple[float, float] | None:
    """Return the stated resolution in pixels per mm: the container's, else that of EXIF."""
    stated: tuple[float, float] | None = None
    if data.startswith(b"\x89PNG"):
        content = next((content for kind, content in containers.png_chunks(data) if kind == b"pHYs"), b"")
        if len(content) == 9 and content[8] == 1:
            x, y = struct.unpack_from(">II", content)
            stated = (x / 1000, y / 1000)
    elif data.startswith(b"\xff\xd8"):
        header = next((content for kind, content in containers.jpeg_segments(data) if kind == 0xE0), b"")
        if header.startswith(b"JFIF\0") and len(header) >= 12 and header[7] in (1, 2):
            x, y = struct.unpack_from(">HH", header, 8)
            mm = _MM_OF_UNIT[header[7] + 1]
            stated = (x / mm, y / mm)
    if stated is None and directory is not None:
        mm = _MM_OF_UNIT.get(directory.number(UNIT, 2), 0.0)
        x, y = (directory.fraction(tag) or 0.0 for tag in (X_RESOLUTION, Y_RESOLUTION))
        stated = (x / mm, y / mm) if mm else None
    return stated if stated and min(stated) > 0 else None


def fields(metadata: Metadata, suffix: str) -> dict[str, bytes]:
    """Return the metadata that libvips writes, by its names."""
    most = _MAX_SEGMENT if suffix in (".jpg", ".jpeg") else sys.maxsize
    blobs = {}
    if metadata.xmp and len(metadata.xmp) <= most:
        blobs["xmp-data"] = metadata.xmp
    if metadata.iptc and len(metadata.iptc) <= most and suffix in (".jpg", ".jpeg"):
        size = len(metadata.iptc).to_bytes(4, "big")
        padding = bytes(len(metadata.iptc) % 2)
        blobs["iptc-data"] = _PHOTOSHOP + b"8BIM\4\4\0\0" + size + metadata.iptc + padding
    return blobs


def losses(metadata: Metadata, suffix: str) -> dict[str, list[str]]:
    """Return the names of what a format cannot hold, or not as much of, by the suffix of one that can."""
    held = fields(metadata, suffix)
    lost = []
    if metadata.exif and len(metadata.exif) > _MAX_EXIF.get(suffix, sys.maxsize):
        lost.append(f"{len(metadata.exif)} bytes of EXIF")
    if metadata.xmp and "xmp-data" not in held:
        lost.append(f"{len(metadata.xmp)} bytes of XMP")
    if metadata.iptc and "iptc-data" not in held and suffix not in (".tif", ".tiff"):
        lost.append(f"{len(metadata.iptc)} bytes of IPTC")
    named: dict[str, list[str]] = {".tif": lost} if lost else {}
    if metadata.texts and suffix != ".png":
        keywords = dict.fromkeys(text.split(b"\0")[0].decode("latin-1")[:79] for _, text in metadata.texts)
        shown = ", ".join([*keywords][:_KEYWORDS_SHOWN]) + ", ..." * (len(keywords) > _KEYWORDS_SHOWN)
        named[".png"] = [f"text ({shown})"]
    if metadata.comments and suffix not in (".jpg", ".jpeg"):
        named[".jpg"] = [f"{sum(map(len, metadata.comments))} bytes of comment"]
    return named


def embed(data: bytes, metadata: Metadata, suffix: str, size: tuple[int, int], alpha: bool) -> Parts:
    """Return an encoded picture, in pieces, with EXIF and texts, and with a resolution only if there is one.

    Args:
        data: as libvips wrote it, without EXIF.
        metadata: what is to be added.
        suffix: of the format, in lower case.
        size: width and height.
        alpha: whether the picture has alpha.
    """
    stated = metadata.resolution is not None
    if suffix == ".png":
        return containers.png_with(data, _sized(metadata.directory, size), metadata.texts, stated)
    if suffix in (".jpg", ".jpeg"):
        dpi = (25.4 * metadata.resolution[0], 25.4 * metadata.resolution[1]) if metadata.resolution else None
        return containers.jpeg_with(data, _sized(metadata.directory, size), metadata.comments, dpi)
    if suffix in (".tif", ".tiff"):
        return _tiff_with(data, metadata, size)
    exif = _sized(_with_resolution(metadata), size)  # these formats hold a resolution in EXIF only
    if suffix == ".webp":
        return containers.webp_with(data, exif, size, alpha)
    return containers.avif_with(data, exif)


def placeholder(metadata: Metadata, suffix: str) -> bytes | None:
    """Return the EXIF that libvips is to write, in whose place the true one will stand; None for none."""
    exif = _sized(_with_resolution(metadata), (1, 1)) if suffix == ".avif" else None
    return containers.avif_placeholder(len(exif)) if exif and len(exif) <= _MAX_EXIF[suffix] else None


def _with_resolution(metadata: Metadata) -> Directory | None:
    directory = metadata.directory
    if metadata.resolution is None or (directory and X_RESOLUTION in directory.entries):
        return directory
    order = directory.order if directory else "<"
    x, y = (tiff.fraction(order, round(25.4 * value, 2)) for value in metadata.resolution)
    added = {X_RESOLUTION: x, Y_RESOLUTION: y, UNIT: tiff.integer(order, 2)}
    if directory is None:
        return Directory(order, added)
    return replace(directory, entries={**directory.entries, **added})


def _sized(directory: Directory | None, size: tuple[int, int]) -> bytes | None:
    """Return the bytes of EXIF for a picture of another size."""
    if directory is None:
        return None
    camera = directory.inner.get(tiff.EXIF)
    if camera is not None:
        sides = {
            tag: tiff.integer(directory.order, side, 4)
            for tag, side in zip((WIDTH, HEIGHT), size, strict=True)
            if tag in camera.entries
        }
        camera = replace(camera, entries={**camera.entries, **sides})
        directory = replace(directory, inner={**directory.inner, tiff.EXIF: camera})
    return tiff.exif_bytes(directory)


def _tiff_with(data: bytes, metadata: Metadata, size: tuple[int, int]) -> Parts:
    exif = _sized(metadata.directory, size)
    directory = tiff.directories(exif)[0] if exif else None
    entries: dict[int, Entry] = {}
    if directory is not None:
        entries = {tag: entry for tag, entry in directory.entries.items() if tag in _ABOUT}
    if metadata.iptc:
        entries[_IPTC_OF_TIFF] = Entry(7, len(metadata.iptc), metadata.iptc)
    order = directory.order if directory else "<"
    if metadata.resolution is None:  # TIFF must state one: 1 to 1 without a unit
        one = tiff.fraction(order, 1)
        entries |= {X_RESOLUTION: one, Y_RESOLUTION: one, UNIT: tiff.integer(order, 1)}
    added = Directory(order, entries, directory.inner if directory else {})
    return tiff.with_entries(data, added) if entries or added.inner else [data]
