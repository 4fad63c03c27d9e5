"""The directories of a TIFF file, which EXIF has, too: reading, writing, and adding entries to a file.

Numbers in `Entry.value` are in the byte order of the source, so that a maker's note stays as it is.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
"""Bytes of a number of each type."""
_UNITS = {**SIZES, 5: 4, 10: 4}  # what is swapped between byte orders: a fraction is two numbers
_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
MAX_DIRECTORIES, MAX_ENTRIES = 4096, 100_000
EXIF, GPS, INTEROPERABILITY, SUBFILES, MAKER_NOTE = 0x8769, 0x8825, 0xA005, 330, 0x927C
POINTERS = (EXIF, GPS, INTEROPERABILITY)


@dataclass(frozen=True)
class Entry:
    """A value in a directory.

    Args:
        kind: TIFF's number of the type.
        count: of numbers or characters.
        value: the bytes.
        offset: where they are in the source.
    """

    kind: int
    count: int
    value: bytes
    offset: int = 0


@dataclass(frozen=True)
class Directory:
    """The entries of a directory, and those of the directories that its pointers name."""

    order: str  # "<" or ">"
    entries: Mapping[int, Entry] = field(default_factory=dict)
    inner: Mapping[int, "Directory"] = field(default_factory=dict)

    def numbers(self, tag: int) -> tuple[int, ...]:
        """Return the integers of an entry; none if there is no such entry."""
        entry = self.entries.get(tag)
        if entry is None or entry.kind not in _INTEGERS:
            return ()
        return struct.unpack(f"{self.order}{entry.count}{_INTEGERS[entry.kind]}", entry.value)

    def number(self, tag: int, default: int) -> int:
        """Return the first integer of an entry."""
        return (*self.numbers(tag), default)[0]

    def fraction(self, tag: int) -> float | None:
        """Return an unsigned fraction; None if there is no such entry or it divides by zero."""
        entry = self.entries.get(tag)
        if entry is None or entry.kind != 5 or len(entry.value) < 8:
            return None
        numerator, denominator = struct.unpack_from(f"{self.order}2I", entry.value)
        return numerator / denominator if denominator else None


def directories(data: bytes) -> list[Directory]:
    """Return the directories of a classic or big TIFF file or of EXIF, as far as they can be read."""
    return Reader(data).directories()


class Reader:
    """Reads the directories of a file; what it reads in all is bounded, whatever the file says.

    Args:
        data: a classic or big TIFF file, or EXIF. Others have no directories.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.order = {b"II": "<", b"MM": ">"}.get(data[:2], "")
        self.big = data[2:4] in (b"+\0", b"\0+")
        self.entries_left = MAX_ENTRIES
        self.bytes_left = 2 * len(data) + 2**20  # values of an honest file do not overlap

    def directories(self) -> list[Directory]:
        """Return the directories of the pages, as far as they can be read."""
        return list(self.chain()) if self.order and len(self.data) >= 16 else []

    def chain(self) -> Iterator[Directory]:
        """Yield the directories that are linked, each once."""
        offset, seen = self._integer(8 if self.big else 4, "Q" if self.big else "I"), set[int]()
        while offset and offset not in seen and len(seen) < MAX_DIRECTORIES:
            seen.add(offset)
            directory, offset = self.directory(offset)
            if directory is None:
                return
            yield directory

    def subfiles(self, directory: Directory) -> list[Directory]:
        """Return the directories in the entry SubIFDs of a directory."""
        found = [self.directory(offset)[0] for offset in directory.numbers(SUBFILES)[:64]]
        return [inner for inner in found if inner is not None]

    def directory(self, offset: int, depth: int = 0) -> tuple[Directory | None, int]:
        """Return a directory and the offset of the next one; None and 0 where the file ends before."""
        head, size, word = (8, 20, "Q") if self.big else (2, 12, "I")
        count = self._integer(offset, "Q" if self.big else "H")
        end = offset + head + count * size
        if count > self.entries_left or end > len(self.data) or offset + head > len(self.data):
            return None, 0
        self.entries_left -= count
        entries = {}
        for at in range(offset + head, end, size):
            tag, kind = struct.unpack_from(f"{self.order}HH", self.data, at)
            number = self._integer(at + 4, word)
            start, room = at + (12 if self.big else 8), 8 if self.big else 4
            length = number * SIZES.get(kind, 0)
            if length > room:
                start = self._integer(start, word)
            if length and start + length <= len(self.data) and length <= self.bytes_left:
                self.bytes_left -= length
                entries[tag] = Entry(kind, number, self.data[start : start + length], start)
        found = Directory(self.order, entries)
        inner = {}
        for tag in POINTERS if depth < 2 else ():
            place = found.number(tag, 0)
            child = self.directory(place, depth + 1)[0] if place else None
            if child is not None:
                inner[tag] = child
        return Directory(self.order, entries, inner), self._integer(end, word)

    def _integer(self, offset: int, kind: str) -> int:
        if offset + struct.calcsize(f"={kind}") > len(self.data):
            return 0
        value: int = struct.unpack_from(self.order + kind, self.data, offset)[0]
        return value


def integer(order: str, value: int, kind: int = 3) -> Entry:
    """Return an entry of one integer: kind 3 is 16 bit, kind 4 is 32 bit."""
    return Entry(kind, 1, struct.pack(order + _INTEGERS[kind], value))


def fraction(order: str, value: float) -> Entry:
    """Return an entry of one unsigned fraction, exact to 1e-4."""
    scale = 1 if float(value).is_integer() else 10000
    return Entry(5, 1, struct.pack(f"{order}2I", min(round(value * scale), 2**32 - 1), scale))


def in_order(directory: Directory, order: str) -> Directory:
    """Return a directory in a byte order; the bytes of a maker's note are opaque and stay as they are."""
    if directory.order == order:
        return directory
    entries = {}
    for tag, entry in directory.entries.items():
        unit = _UNITS[entry.kind]
        pieces = [entry.value[i : i + unit][::-1] for i in range(0, len(entry.value), unit)]
        entries[tag] = Entry(entry.kind, entry.count, b"".join(pieces), entry.offset)
    inner = {tag: in_order(child, order) for tag, child in directory.inner.items()}
    return Directory(order, entries, inner)


def exif_bytes(directory: Directory) -> bytes:
    """Return a directory as the bytes of EXIF; a maker's note is put where it was, as its offsets expect."""
    note = directory.inner[EXIF].entries.get(MAKER_NOTE) if EXIF in directory.inner else None
    reserved = (note.offset, note.offset + len(note.value)) if note and 8 <= note.offset < 65536 else (0, 0)
    writer = _Writer(directory.order, 0, 8, reserved)
    at = writer.put(directory)
    mark = {"<": b"II*\0", ">": b"MM\0*"}[directory.order]
    writer.store(0, mark + struct.pack(f"{directory.order}I", at))
    return bytes(writer.data)


def with_entries(data: bytes, added: Directory) -> list[bytes | memoryview]:
    """Return a classic TIFF file of one page, in pieces, with more entries, or other values of those it has.

    The new directory is appended, so that all that is in the file stays where it is.
    """
    (page, *_) = directories(data)
    if data[2:4] not in (b"*\0", b"\0*"):
        return [data]
    added = in_order(added, page.order)
    writer = _Writer(page.order, len(data), len(data) + len(data) % 2)
    merged = Directory(page.order, {**page.entries, **added.entries}, added.inner)
    at = writer.put(merged)
    return [data[:4], struct.pack(f"{page.order}I", at), memoryview(data)[8:], bytes(writer.data)]


@dataclass
class _Writer:
    order: str
    start: int  # offset of `data` in the file
    free: int  # offset from which nothing is written yet
    reserved: tuple[int, int] = (0, 0)  # of the maker's note
    data: bytearray = field(default_factory=bytearray)

    def put(self, directory: Directory) -> int:
        """Write a directory and all in it; return its offset."""
        tags = sorted(
            {tag for tag, entry in directory.entries.items() if tag not in POINTERS and entry.kind in SIZES}
            | directory.inner.keys()
        )
        at = self._room(6 + 12 * len(tags))
        rows = [self._row(directory, tag) for tag in tags]
        self.store(at, struct.pack(f"{self.order}H", len(tags)) + b"".join(rows) + bytes(4))
        return at

    def _row(self, directory: Directory, tag: int) -> bytes:
        if tag in directory.inner:
            return struct.pack(f"{self.order}HHII", tag, 4, 1, self.put(directory.inner[tag]))
        entry = directory.entries[tag]
        head = struct.pack(f"{self.order}HHI", tag, entry.kind, entry.count)
        if len(entry.value) <= 4:
            return head + entry.value.ljust(4, b"\0")
        kept = tag == MAKER_NOTE and self.reserved[0] == entry.offset and self.reserved[1]
        at = entry.offset if kept else self._room(len(entry.value))
        self.store(at, entry.value)
        return head + struct.pack(f"{self.order}I", at)

    def _room(self, size: int) -> int:
        at = self.free
        if at < self.reserved[1] and at + size > self.reserved[0]:
            at = self.reserved[1] + self.reserved[1] % 2
        self.free = at + size + size % 2
        return at

    def store(self, at: int, value: bytes) -> None:
        """Write bytes at an offset, with zeros before it where there is nothing yet."""
        at -= self.start
        self.data.extend(bytes(max(0, at + len(value) - len(self.data))))
        self.data[at : at + len(value)] = value
