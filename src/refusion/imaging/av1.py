"""Colour of the first picture of an AVIF file, as its coded bits tell it: the sequence header of AV1.

It counts where the file has no box nclx (AVIF 1.1, section 2.1; AV1 bitstream specification, section 5.5).
"""

from collections.abc import Iterator

from refusion.imaging.containers import boxes

_SEQUENCE_HEADER = 1
_MAX_HEADER = 4096  # bytes of the picture in which the header is looked for


def sequence_colour(data: bytes) -> tuple[int, int, bool] | None:
    """Return the numbers of primaries and curve of the first picture, and whether its range is full.

    None if they are not where they are expected, as in a picture that is put together of several.
    """
    header = next((part for kind, part in _units(_primary(data)) if kind == _SEQUENCE_HEADER), b"")
    bits = _Bits(header)
    colour = _colour(bits)
    return None if bits.left < 0 else colour


def _primary(data: bytes) -> bytes:
    """Return the first bytes of the primary item of a file; none if it is not one piece of the file."""
    meta = next((content[4:] for kind, content in boxes(data) if kind == b"meta"), b"")
    inner = dict(boxes(meta))
    primary, places = inner.get(b"pitm", b""), inner.get(b"iloc", b"")
    if not primary or not places:
        return b""
    number = int.from_bytes(primary[4:6] if primary[0] == 0 else primary[4:8], "big")
    version, wide = places[0], places[0] >= 2
    bits = _Bits(places[4:])
    offset_size, length_size, base_size, index_size = (8 * bits.take(4) for _ in range(4))
    for _ in range(bits.take(32 if wide else 16)):
        found = bits.take(32 if wide else 16)
        method = bits.take(16) & 15 if version else 0
        bits.take(16)
        base, pieces = bits.take(base_size), bits.take(16)
        if pieces:
            bits.take(index_size if version else 0)
            offset, length = bits.take(offset_size), bits.take(length_size)
            piece = (index_size if version else 0) + offset_size + length_size
            bits.take((pieces - 1) * piece)  # the others
        if bits.left < 0:
            return b""
        if found == number and method == 0 and pieces:
            start = base + offset
            return data[start : start + min(length or _MAX_HEADER, _MAX_HEADER)]
    return b""


def _units(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield kind and content of the open bitstream units, as far as each says its size."""
    at = 0
    while at + 1 < len(data) and data[at] & 2:
        kind, at = data[at] >> 3 & 15, at + 1 + (data[at] >> 2 & 1)
        size = 0
        for place in range(8):  # leb128
            byte = data[at] if at < len(data) else 0
            size, at = size | (byte & 127) << 7 * place, at + 1
            if byte < 128:
                break
        yield kind, data[at : at + size]
        at += size


class _Bits:
    """Reads unsigned numbers, the highest bit first; `left` is below 0 once there were too few bits."""

    def __init__(self, data: bytes) -> None:
        self.data, self.left = data, 8 * len(data)

    def take(self, count: int) -> int:
        start = 8 * len(self.data) - self.left
        self.left -= count
        if self.left < 0:
            return 0
        end = start + count
        value = int.from_bytes(self.data[start // 8 : (end + 7) // 8], "big")
        return value >> -end % 8 & (1 << count) - 1


def _colour(bits: _Bits) -> tuple[int, int, bool] | None:
    """Return primaries, curve and range of a sequence header; the names are those of the specification."""
    take = bits.take
    seq_profile, _, reduced = take(3), take(1), take(1)
    if reduced:
        take(5)  # seq_level_idx
    else:
        if take(1):  # timing_info_present_flag: of films
            return None
        delay = take(1)  # initial_display_delay_present_flag
        for _ in range(take(5) + 1):  # operating points
            take(12)
            take(take(5) > 7)  # seq_tier
            take(4 * take(delay))
    width_bits, height_bits = take(4) + 1, take(4) + 1
    take(width_bits + height_bits)
    take(0 if reduced else 7 * take(1))  # lengths of frame numbers
    take(3)  # superblocks, filter_intra, intra_edge_filter
    if not reduced:
        take(4)
        enable_order_hint = take(1)
        take(2 * enable_order_hint)
        screen_content_tools = take(1) or take(1)
        if screen_content_tools and not take(1):  # seq_choose_integer_mv
            take(1)
        take(3 * enable_order_hint)
    take(3)  # superres, cdef, restoration
    high_bitdepth = take(1)
    take(seq_profile == 2 and high_bitdepth)
    monochrome = seq_profile != 1 and take(1)
    primaries, curve, matrix = (take(8), take(8), take(8)) if take(1) else (2, 2, 2)
    if not monochrome and (primaries, curve, matrix) == (1, 13, 0):
        return primaries, curve, True
    return primaries, curve, bool(take(1))
