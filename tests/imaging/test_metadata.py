"""What stands beside the pixels: it survives every change of format, upright, and nothing is invented."""

import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import pyvips
import tifffile
from pictures import EVERY_8, RGB, RGB16, SMOOTH, SRGB, same
from PIL import IptcImagePlugin

from refusion.imaging import containers, tiff
from refusion.imaging.arrays import from_array
from refusion.imaging.formats import SUFFIXES, decode, encode, read, unkept, write
from refusion.imaging.metadata import Metadata
from refusion.imaging.tiff import Directory, Entry

NAMES = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".avif": "AVIF"}
NOTE = b"Maker\0" + bytes(range(200))
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" dc:rights="me"/></x:xmpmeta>'
)
IPTC = b"\x1c\x02\x74\0\x06(c) me"
MAIN = {271: "Maker", 272: "Camera 1", 306: "2020:01:02 03:04:05", 315: "Ann", 33432: "(c) Ann"}


def camera_exif(orientation: int = 1, order: str = "<") -> bytes:
    """EXIF as a camera writes it: dates, place, copyright, a maker's note, and a thumbnail."""
    text = {tag: Entry(2, len(value) + 1, value.encode() + b"\0") for tag, value in MAIN.items()}
    main = {
        **text,
        274: tiff.integer(order, orientation),
        256: tiff.integer(order, 9),
        257: tiff.integer(order, 9),
    }
    camera = {
        0x9003: Entry(2, 20, b"2020:01:02 03:04:05\0"),
        0x829A: Entry(5, 1, struct.pack(order + "2I", 1, 250)),
        0xA002: tiff.integer(order, 4000, 4),
        0xA003: tiff.integer(order, 3000, 4),
        tiff.MAKER_NOTE: Entry(7, len(NOTE), NOTE, 100),
    }
    place = {1: Entry(2, 2, b"N\0"), 2: Entry(5, 3, struct.pack(order + "6I", 48, 1, 8, 1, 21, 1))}
    inner = {tiff.EXIF: Directory(order, camera), tiff.GPS: Directory(order, place)}
    blob = tiff.exif_bytes(Directory(order, main, inner))
    # A second directory, as that of a thumbnail, linked from the first.
    first = struct.unpack_from(order + "I", blob, 4)[0]
    link = first + 2 + 12 * struct.unpack_from(order + "H", blob, first)[0]
    thumbnail = struct.pack(order + "HHHI4sI", 1, 513, 4, 1, b"thum", 0)
    return blob[:link] + struct.pack(order + "I", len(blob)) + blob[link + 4 :] + thumbnail


def source_of(suffix: str, samples: np.ndarray, exif: bytes) -> bytes:
    """A file with EXIF, written by Pillow."""
    stream = io.BytesIO()
    known = PIL.Image.Exif()
    known.load(b"Exif\0\0" + exif)
    if suffix == ".tif":
        del known[256], known[257]
    options = {".webp": {"lossless": True}, ".jpg": {"quality": 100}}.get(suffix, {})
    PIL.Image.fromarray(samples).save(
        stream, NAMES[suffix], exif=known if suffix == ".tif" else b"Exif\0\0" + exif, **options
    )
    return stream.getvalue()


def exif_of(data: bytes) -> PIL.Image.Exif:
    with PIL.Image.open(io.BytesIO(data)) as picture:
        return picture.getexif()


def check_camera(data: bytes, note: bool = True) -> None:
    exif = exif_of(data)
    assert {tag: exif.get(tag) for tag in MAIN} == MAIN
    camera, place = exif.get_ifd(tiff.EXIF), exif.get_ifd(tiff.GPS)
    assert camera[0x9003] == "2020:01:02 03:04:05"
    assert float(camera[0x829A]) == 1 / 250
    assert place[1] == "N"
    assert tuple(map(float, place[2])) == (48, 8, 21)
    assert exif.get(274, 1) == 1
    assert not exif.get_ifd(1)  # no thumbnail
    if note:
        assert camera[tiff.MAKER_NOTE] == NOTE


# ---- laws


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("target", NAMES)
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_exif_survives_every_change_of_format(suffix: str, target: str, order: str) -> None:
    image = decode(source_of(suffix, RGB, camera_exif(1, order)))
    data = encode(image, target)
    check_camera(data)
    again = decode(data)
    assert again.metadata.exif is not None
    check_camera(encode(again, ".png"))
    camera = exif_of(data).get_ifd(tiff.EXIF)
    assert (camera[0xA002], camera[0xA003]) == image.size


def test_bytes_of_a_coded_picture_are_no_chunk_of_webp() -> None:
    """EXIF stands before the chunk of XMP, not where another chunk has its name in its content."""
    exif, profile, xmp = b"II*\0" + bytes(9), b"a XMP here", b"<x/>"

    def chunk(kind: bytes, content: bytes) -> bytes:
        return kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)

    extended = chunk(b"VP8X", bytes([0x24, 0, 0, 0, 8, 0, 0, 7, 0, 0]))
    picture = chunk(b"ICCP", profile) + chunk(b"VP8L", b"odd XMP code")
    for last in (chunk(b"XMP ", xmp), b""):
        data = (
            b"RIFF"
            + struct.pack("<I", 4 + len(extended + picture + last))
            + b"WEBP"
            + extended
            + picture
            + last
        )
        written = b"".join(containers.webp_with(data, exif, (9, 8), False))
        assert written[30:] == picture + chunk(b"EXIF", exif) + last
        assert written[20] == 0x2C
        assert struct.unpack_from("<I", written, 4)[0] == len(written) - 8


def test_exif_of_a_tiff_is_kept() -> None:
    data = source_of(".tif", RGB, camera_exif())
    for target in NAMES:
        check_camera(encode(decode(data), target), note=False)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("target", [".png", ".jpg", ".webp", ".avif"])
def test_a_makers_note_stays_where_its_offsets_expect_it(target: str, order: str) -> None:
    exif = camera_exif(1, order)
    place = exif.index(NOTE)
    kept = encode(decode(source_of(".jpg", RGB, exif)), target)
    start = kept.index(exif[:4])
    assert kept[start + place : start + place + len(NOTE)] == NOTE


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".avif"])
@pytest.mark.parametrize("target", NAMES)
def test_nothing_is_invented(suffix: str, target: str) -> None:
    stream = io.BytesIO()
    PIL.Image.fromarray(RGB).save(stream, NAMES[suffix])
    image = decode(stream.getvalue())
    assert image.metadata == Metadata()
    data = encode(image, target)
    assert decode(data).metadata == Metadata()
    with PIL.Image.open(io.BytesIO(data)) as written:
        assert "dpi" not in written.info
        assert not written.getexif().get_ifd(tiff.EXIF)
        if target != ".tif":
            assert not dict(written.getexif())
    assert same(
        decode(data), decode(encode(from_array(np.rint(image.pixels * 255).astype(np.uint8)), target))
    )


@pytest.mark.parametrize("target", NAMES)
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("dpi", [(600, 600), (72, 144)])
def test_resolution_is_kept(suffix: str, target: str, dpi: tuple[int, int]) -> None:
    stream = io.BytesIO()
    PIL.Image.fromarray(RGB).save(stream, NAMES[suffix], dpi=dpi)
    data = encode(decode(stream.getvalue()), target)
    with PIL.Image.open(io.BytesIO(data)) as written:
        exif = written.getexif()
        told = written.info.get("dpi", (exif.get(282, 0), exif.get(283, 0)))
    np.testing.assert_allclose([float(value) for value in told], dpi, atol=0.02)
    resolution = decode(data).metadata.resolution
    assert resolution is not None
    np.testing.assert_allclose(np.multiply(resolution, 25.4), dpi, atol=0.02)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_reset_everywhere_and_resolution_turns(orientation: int) -> None:
    png = encode(replace(from_array(RGB), metadata=Metadata(None, XMP, None, (10, 20))), ".png")
    exif = camera_exif(orientation)
    chunk = b"eXIf" + exif
    png = png[:33] + struct.pack(">I", len(exif)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]
    image = decode(png)
    assert image.metadata.resolution == ((20, 10) if orientation > 4 else (10, 20))
    for target in NAMES:
        data = encode(image, target)
        check_camera(data)
        assert same(decode(data), image) or target in (".jpg", ".avif")
        assert decode(data).size == image.size
        assert b'tiff:Orientation="1"' in decode(data).metadata.xmp


def said_by_pillow(data: bytes) -> object:
    with PIL.Image.open(io.BytesIO(data)) as written:
        records = IptcImagePlugin.getiptcinfo(written)
    assert records is not None
    return records[2, 0x74]


@pytest.mark.parametrize("target", NAMES)
def test_xmp_and_iptc(target: str) -> None:
    image = replace(from_array(RGB16), icc=SRGB, metadata=Metadata(camera_exif(), XMP, IPTC))
    data = encode(image, target)
    metadata = decode(data).metadata
    assert metadata.xmp == XMP.replace(b'Orientation="6"', b'Orientation="1"')
    holds_iptc = target in (".jpg", ".tif")
    assert (metadata.iptc is not None) == holds_iptc
    assert [notice.key for notice in unkept(image, target)] == ([] if holds_iptc else ["metadata-lost"])
    assert decode(data).icc == SRGB
    if holds_iptc:
        assert metadata.iptc == IPTC
        assert said_by_pillow(data) == b"(c) me"
    stripped = replace(image, metadata=image.metadata.stripped())
    assert decode(encode(stripped, target)).metadata == Metadata()
    assert unkept(stripped, target) == ()


@pytest.mark.parametrize("target", NAMES)
@pytest.mark.parametrize("kind", ["grey", "alpha", "deep"])
def test_pixels_do_not_depend_on_metadata(target: str, kind: str) -> None:
    samples = {"grey": EVERY_8, "alpha": np.dstack([RGB, RGB[..., 0]]), "deep": RGB16}[kind]
    plain = from_array(samples)
    told = replace(plain, metadata=Metadata(camera_exif(), XMP, IPTC, (11.8, 11.8)))
    data = encode(told, target)
    assert same(decode(data), decode(encode(plain, target)))
    if kind != "deep":
        with PIL.Image.open(io.BytesIO(data)) as written:
            written.load()
    check_camera(data)


def test_a_gain_map_is_told_and_its_promise_dropped() -> None:
    xmp = b'<x:xmpmeta xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"/>'
    data = encode(replace(from_array(RGB), metadata=Metadata(None, xmp)), ".jpg")
    image = decode(data)
    assert [notice.key for notice in image.notices] == ["gain-map"]
    assert image.metadata.xmp is None


# ---- damaged and odd metadata


@pytest.mark.slow
def test_damaged_exif_never_costs_the_picture() -> None:
    exif, rng = camera_exif(6), np.random.default_rng(0)
    for number in range(24):
        damaged = bytearray(exif)
        for at in rng.integers(0, len(exif), 1 + number % 12):
            damaged[at] = rng.integers(0, 256)
        data = bytes(damaged[: rng.integers(8, len(exif))] if number % 3 == 0 else damaged)
        chunk = b"eXIf" + data
        png = encode(from_array(RGB), ".png")
        png = (
            png[:33] + struct.pack(">I", len(data)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]
        )
        image = decode(png)
        for target in (".png", ".jpg", ".webp", ".tif"):
            assert decode(encode(image, target)).size == image.size


def test_a_loop_of_directories_ends() -> None:
    loop = b"II*\0" + struct.pack("<IHHHIII", 8, 1, 330, 4, 1, 8, 8)
    assert len(tiff.directories(loop)) == 1
    pointer = b"II*\0" + struct.pack("<IHHHIII", 8, 1, tiff.EXIF, 4, 1, 8, 0)
    assert len(tiff.directories(pointer)) == 1


def test_a_directory_that_claims_the_file_again_and_again_is_bounded() -> None:
    """Every entry names the whole file as its value, and every directory the next two bytes of itself."""
    count = 20000
    row = struct.pack("<HHII", 65000, 7, 200_000, 8)
    hostile = b"II*\0" + struct.pack("<IH", 8, count) + row * count + bytes(8)
    reader = tiff.Reader(hostile)
    assert len(reader.directories()) == 1
    assert reader.bytes_left >= 0
    overlapping = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 3) * 300_000
    reader = tiff.Reader(overlapping)
    reader.directories()
    assert reader.entries_left >= 0


@pytest.mark.parametrize("length", [59900, 60100, 90000])
@pytest.mark.parametrize("target", NAMES)
def test_long_xmp_and_iptc_are_kept_or_told(target: str, length: int) -> None:
    xmp, iptc = (start.ljust(length, b" ") for start in (b"<x:xmpmeta/>", IPTC))
    for metadata in (Metadata(None, xmp), Metadata(None, None, iptc)):
        image = replace(from_array(RGB), metadata=metadata)
        kept = decode(encode(image, target)).metadata == metadata
        assert [notice.key for notice in unkept(image, target)] == ([] if kept else ["metadata-lost"])
        if target == ".tif" or (target == ".jpg" and length < 60000):
            assert kept


def test_a_gain_map_by_libultrahdr_or_iso_is_told() -> None:
    light = pyvips.Image.new_from_array(3 * SMOOTH, interpretation="scrgb")
    (notice,) = decode(light.uhdrsave_buffer()).notices
    assert notice.key == "gain-map"
    plain = encode(from_array(RGB), ".jpg")
    iso = b"urn:iso:std:iso:ts:21496:-1\0\0\0\0\0"
    marked = plain[:2] + b"\xff\xe2" + struct.pack(">H", len(iso) + 2) + iso + plain[2:]
    assert [notice.key for notice in decode(marked).notices] == ["gain-map"]
    assert decode(plain).notices == ()


@pytest.mark.parametrize("length", [59900, 65500, 70000])
@pytest.mark.parametrize("target", NAMES)
def test_long_exif_is_kept_or_told(target: str, length: int) -> None:
    long = Directory("<", {270: Entry(2, length + 1, b"a" * length + b"\0")})
    image = replace(from_array(RGB), metadata=Metadata(tiff.exif_bytes(long)))
    kept = decode(encode(image, target)).metadata.exif is not None
    assert [notice.key for notice in unkept(image, target)] == ([] if kept else ["metadata-lost"])
    assert kept or target in (".jpg", ".avif")
    if kept:
        assert len(exif_of(encode(image, target))[270]) == length
    assert kept or length > 60000


def test_tifffile_reads_what_was_added(tmp_path: Path) -> None:
    image = replace(from_array(RGB16), metadata=Metadata(camera_exif(1, ">"), XMP, None, (11.811, 11.811)))
    write(image, tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert len(file.pages) == 1
        np.testing.assert_array_equal(file.asarray(), RGB16)
        assert file.pages[0].tags["Model"].value == "Camera 1"
        assert file.pages[0].tags["ExifTag"].value["DateTimeOriginal"] == "2020:01:02 03:04:05"


# ---- permissions and time


def test_a_file_gets_the_state_of_its_source(tmp_path: Path) -> None:
    import os

    source = tmp_path / "source.png"
    write(from_array(RGB), source)
    source.chmod(0o640)
    os.utime(source, (1_000_000_000, 1_000_000_000))
    for suffix in SUFFIXES:
        write(read(source), tmp_path / f"dated{suffix}", source)
        write(read(source), tmp_path / f"now{suffix}", source, dated=False)
        dated, now = ((tmp_path / f"{name}{suffix}").stat() for name in ("dated", "now"))
        assert dated.st_mode == now.st_mode == source.stat().st_mode
        assert dated.st_mtime == 1_000_000_000 != now.st_mtime


def test_libvips_alone_would_invent_exif() -> None:
    """The reason for `imaging.metadata`: if this fails, libvips can be trusted with EXIF."""
    data = pyvips.Image.new_from_array(RGB, interpretation="srgb").write_to_buffer(".jpg")
    assert exif_of(data).get_ifd(tiff.EXIF)
