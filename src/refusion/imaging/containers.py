"""What stands in PNG, JPEG, WebP and AVIF files beside the coded picture: reading and adding parts."""

import struct
import zlib
from collections.abc import Callable, Iterator

MAX_APP1 = 65527
"""Most bytes of EXIF that JPEG can hold."""
_PLAIN_WORDS = b"placeholder of the metadata "


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and content of the chunks of a PNG file, up to the first that is cut short."""
    at = 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if at + 12 + length > len(data):
            return
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += 12 + length


def png_with(data: bytes, exif: bytes | None, keep_resolution: bool) -> bytes:
    """Return a PNG file with EXIF, and without the chunk of a resolution that nobody stated."""
    written = [data[:8]]
    for number, (kind, content) in enumerate(png_chunks(data)):
        if kind != b"pHYs" or keep_resolution:
            written.append(_chunk(kind, content))
        if number == 0 and exif:
            written.append(_chunk(b"eXIf", exif))
    return b"".join(written)


def _chunk(kind: bytes, content: bytes) -> bytes:
    head, check = struct.pack(">I", len(content)), struct.pack(">I", zlib.crc32(kind + content))
    return head + kind + content + check


def jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield marker and content of the segments of a JPEG file before the coded picture."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] not in (0xDA, 0xD9):
        if data[at + 1] == 0xFF:  # fill
            at += 1
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        yield data[at + 1], data[at + 4 : at + 2 + length]
        at += 2 + max(length, 2)


def jpeg_with(data: bytes, exif: bytes | None, dpi: tuple[float, float] | None) -> bytes:
    """Return a JPEG file with EXIF, and with a header JFIF that states a resolution only if there is one."""
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
    return header + data[start:]


def _segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def webp_with(data: bytes, exif: bytes | None, size: tuple[int, int], alpha: bool) -> bytes:
    """Return a WebP file with EXIF.

    Args:
        data: a WebP file of one picture.
        exif: bytes of EXIF.
        size: width and height.
        alpha: whether the picture has alpha.
    """
    if not exif:
        return data
    body = data[12:]
    if body[:4] != b"VP8X":
        sides = b"".join((side - 1).to_bytes(3, "little") for side in size)
        body = b"VP8X" + struct.pack("<II", 10, 0x10 * alpha) + sides + body
    flags = bytes([body[8] | 0x08])
    part = b"EXIF" + struct.pack("<I", len(exif)) + exif + bytes(len(exif) % 2)
    # EXIF stands before XMP.
    at = body.find(b"XMP ", 18) if body[8] & 0x04 else len(body)
    at = at if at >= 0 else len(body)
    body = body[:8] + flags + body[9:at] + part + body[at:]
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def avif_placeholder(size: int) -> bytes:
    """Return EXIF at least as long as `size`, which an encoder may rearrange; see `avif_with`."""
    comment = (_PLAIN_WORDS * (size // len(_PLAIN_WORDS) + 2))[: size + 64]
    entry = struct.pack("<HHII", 0x010E, 2, len(comment) + 1, 26)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4) + comment + b"\0"


def avif_with(data: bytes, exif: bytes | None) -> bytes:
    """Return an AVIF file in which EXIF stands in the place of its placeholder.

    libvips rewrites EXIF, by which makers' notes are lost and tags invented, so it never gets the true one.
    """
    comment = data.find(_PLAIN_WORDS) if exif else -1
    if exif is None or comment < 0:
        return data
    start = max(data.rfind(b"II*\0", 0, comment), data.rfind(b"MM\0*", 0, comment))
    end = data.rfind(_PLAIN_WORDS, comment) + len(_PLAIN_WORDS)
    assert start >= 0
    assert end - start >= len(exif)
    return data[:start] + exif.ljust(end - start, b"\0") + data[end:]


Boxes = Iterator[tuple[bytes, bytes]]
_INNER: dict[bytes, int] = {b"meta": 4, b"iprp": 0, b"ipco": 0}


def avif_properties(data: bytes) -> Boxes:
    """Yield type and content of the properties of the pictures in an AVIF file."""
    walk: Callable[[bytes], Boxes] = _boxes
    for kind, content in walk(data):
        if kind in _INNER:
            yield from avif_properties(content[_INNER[kind] :])
        elif kind in (b"colr", b"av1C", b"ispe", b"pixi", b"auxC"):
            yield kind, content


def _boxes(data: bytes) -> Boxes:
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
