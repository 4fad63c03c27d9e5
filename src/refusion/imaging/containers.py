"""What stands in PNG, JPEG, WebP and AVIF files beside the coded picture: reading and adding parts."""

import struct
import zlib
from collections.abc import Iterable, Iterator

MAX_APP1 = 65527
"""Most bytes of EXIF that JPEG can hold."""
Parts = list[bytes | memoryview]
"""The bytes of a file in pieces; the large ones are views of what an encoder returned, not copies."""
Text = tuple[bytes, bytes]
"""Type and content of a chunk of text in PNG: tEXt, zTXt or iTXt."""
_NO_TEXTS = (b"XML:com.adobe.xmp\0", b"Raw profile type ")
_PLAIN_WORDS = b"placeholder of the metadata "


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and content of the chunks of a PNG file, up to the first that is cut short."""
    for kind, start, end in _chunks(data):
        yield kind, data[start + 8 : end - 4]


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start and end of the chunks of a PNG file."""
    at = 8
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            return
        yield data[at + 4 : at + 8], at, end
        at = end


def png_texts(data: bytes) -> tuple[Text, ...]:
    """Return the chunks of text in a PNG file, as they are: what is packed stays packed.

    Without XMP, and without the blocks of EXIF, IPTC and profiles that some programs write as text.
    """
    if not data.startswith(b"\x89PNG"):
        return ()
    texts = ((kind, content) for kind, content in png_chunks(data) if kind in (b"tEXt", b"zTXt", b"iTXt"))
    return tuple(text for text in texts if not text[1].startswith(_NO_TEXTS))


def png_with(data: bytes, exif: bytes | None, texts: Iterable[Text], keep_resolution: bool) -> Parts:
    """Return a PNG file with EXIF and texts, and without the chunk of a resolution that nobody stated."""
    view, parts, start = memoryview(data), Parts(), 0
    for kind, at, end in _chunks(data):
        if kind == b"IHDR":
            parts += [view[start:end], *([_chunk(b"eXIf", exif)] if exif else [])]
            parts += [_chunk(*text) for text in texts]
            start = end
        elif kind == b"pHYs" and not keep_resolution:
            parts.append(view[start:at])
            start = end
    return [*parts, view[start:]]


def _chunk(kind: bytes, content: bytes) -> bytes:
    head, check = struct.pack(">I", len(content)), struct.pack(">I", zlib.crc32(kind + content))
    return head + kind + content + check


def jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield marker and content of the segments of a JPEG file before the coded picture."""
    for marker, start, end in _segments(data):
        yield marker, data[start + 4 : end]


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of the segments of a JPEG file before the coded picture."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] not in (0xDA, 0xD9):
        if data[at + 1] == 0xFF:  # fill
            at += 1
            continue
        end = at + 2 + max(int.from_bytes(data[at + 2 : at + 4], "big"), 2)
        yield data[at + 1], at, end
        at = end


def jpeg_comments(data: bytes) -> tuple[bytes, ...]:
    """Return the comments in a JPEG file."""
    segments = jpeg_segments(data) if data.startswith(b"\xff\xd8") else ()
    return tuple(content for marker, content in segments if marker == 0xFE and content)


def jpeg_with(
    data: bytes, exif: bytes | None, comments: Iterable[bytes], dpi: tuple[float, float] | None
) -> Parts:
    """Return a JPEG file with EXIF and comments; its header JFIF has a resolution only if there is one."""
    start = 2
    if data[2:4] == b"\xff\xe0":
        start = 4 + int.from_bytes(data[4:6], "big")
    unit, x, y = 0, 1, 1
    if dpi is not None:
        unit = 1
        x, y = (min(max(round(value), 1), 65535) for value in dpi)
    header = b"\xff\xd8" + _segment(0xE0, b"JFIF\0\1\1" + struct.pack(">BHHBB", unit, x, y, 0, 0))
    if exif and len(exif) <= MAX_APP1:
        header += _segment(0xE1, b"Exif\0\0" + exif)
    applications = [end for marker, _, end in _segments(data) if 0xE0 <= marker <= 0xEF]
    middle, view = max([start, *applications]), memoryview(data)
    return [header, view[start:middle], *(_segment(0xFE, comment) for comment in comments), view[middle:]]


def _segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def webp_with(data: bytes, exif: bytes | None, size: tuple[int, int], alpha: bool) -> Parts:
    """Return a WebP file with EXIF.

    Args:
        data: a WebP file of one picture.
        exif: bytes of EXIF.
        size: width and height.
        alpha: whether the picture has alpha.
    """
    if not exif:
        return [data]
    view, start, end = memoryview(data), 12, len(data)
    head = b"VP8X" + struct.pack("<II", 10, 0x10 * alpha)
    head += b"".join((side - 1).to_bytes(3, "little") for side in size)
    if data[12:16] == b"VP8X":
        head, start = data[12:30], 30
        # EXIF stands before XMP.
        end = next((at for kind, at in _riff_chunks(data, start) if kind == b"XMP "), end)
    head = head[:8] + bytes([head[8] | 0x08]) + head[9:]
    part = b"EXIF" + struct.pack("<I", len(exif)) + exif + bytes(len(exif) % 2)
    length = 4 + len(head) + len(data) - start + len(part)
    riff = b"RIFF" + struct.pack("<I", length) + b"WEBP"
    return [riff, head, view[start:end], part, view[end:]]


def _riff_chunks(data: bytes, at: int) -> Iterator[tuple[bytes, int]]:
    """Yield type and start of the chunks of a WebP file from one that starts at `at`."""
    while at + 8 <= len(data):
        yield data[at : at + 4], at
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + length + length % 2


def avif_placeholder(size: int) -> bytes:
    """Return EXIF at least as long as `size`, which an encoder may rearrange; see `avif_with`."""
    comment = (_PLAIN_WORDS * (size // len(_PLAIN_WORDS) + 2))[: size + 64]
    entry = struct.pack("<HHII", 0x010E, 2, len(comment) + 1, 26)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4) + comment + b"\0"


def avif_with(data: bytes, exif: bytes | None) -> Parts:
    """Return an AVIF file in which EXIF stands in the place of its placeholder.

    libvips rewrites EXIF, by which makers' notes are lost and tags invented, so it never gets the true one.
    """
    comment = data.find(_PLAIN_WORDS) if exif else -1
    if exif is None or comment < 0:
        return [data]
    start = max(data.rfind(b"II*\0", 0, comment), data.rfind(b"MM\0*", 0, comment))
    end = data.rfind(_PLAIN_WORDS, comment) + len(_PLAIN_WORDS)
    assert start >= 0
    assert end - start >= len(exif)
    view = memoryview(data)
    return [view[:start], exif.ljust(end - start, b"\0"), view[end:]]


Boxes = Iterator[tuple[bytes, bytes]]
_INNER: dict[bytes, int] = {b"meta": 4, b"iprp": 0, b"ipco": 0}
_MAX_DEPTH = 3  # properties stand in meta, iprp and ipco


def avif_properties(data: bytes, depth: int = 0) -> Boxes:
    """Yield type and content of the properties of the pictures in an AVIF file.

    Args:
        data: the file, or the content of a box.
        depth: boxes around `data`; in more than three there are no properties.
    """
    for kind, content in boxes(data):
        if kind in _INNER and depth < _MAX_DEPTH:
            yield from avif_properties(content[_INNER[kind] :], depth + 1)
        elif kind in (b"colr", b"av1C", b"ispe", b"pixi", b"auxC"):
            yield kind, content


def boxes(data: bytes) -> Boxes:
    """Yield type and content of the boxes of an AVIF file, or of those in a box."""
    at = 0
    while at + 8 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        head = 8
        if length == 1:
            length, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        length = length or len(data) - at
        if length < head:
            return
        yield kind, data[at + head : at + length]
        at += length
