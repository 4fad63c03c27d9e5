"""Which picture of a container is read: never a preview or thumbnail; what is left out is told."""

import builtins
import io
import struct
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import pyvips
import tifffile
from pictures import RGB, RGB16, said, same

from refusion.errors import ImageError
from refusion.imaging.arrays import from_array
from refusion.imaging.formats import Header, decode, is_picture, read, writable_suffix

SMALL = RGB[:6, :10]


def tiff_of(*pages: tuple[np.ndarray, dict[str, Any]]) -> bytes:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        for samples, options in pages:
            writer.write(samples, photometric=options.pop("photometric", "rgb"), metadata=None, **options)
    return stream.getvalue()


# ---- pages


def test_a_preview_is_not_the_picture() -> None:
    data = tiff_of((SMALL, {"subfiletype": 1}), (RGB, {"subfiletype": 0}))
    assert same(decode(data), from_array(RGB))
    assert decode(data).notices == ()


def test_what_the_directory_of_a_preview_says_is_about_the_picture() -> None:
    tags = [(271, 2, 6, "Maker", True), (33432, 2, 7, "(c) me", True)]
    data = tiff_of((SMALL, {"subfiletype": 1, "extratags": tags}), (RGB, {"subfiletype": 0}))
    exif = decode(data).metadata.exif
    assert exif is not None
    assert b"Maker\0" in exif
    assert b"(c) me\0" in exif


def test_the_picture_among_sub_files() -> None:
    data = tiff_of((SMALL, {"subfiletype": 1, "subifds": 1}), (RGB, {"subfiletype": 0}))
    image = decode(data)
    assert same(image, from_array(RGB))
    assert image.notices == ()


def test_a_pyramid_is_one_picture() -> None:
    data = tiff_of((RGB, {"subifds": 1}), (SMALL, {"subfiletype": 1}))
    assert same(decode(data), from_array(RGB))
    assert decode(data).notices == ()


def test_a_mask_page_is_not_a_picture() -> None:
    mask = np.ones((24, 40), bool)
    data = tiff_of((mask, {"subfiletype": 4, "photometric": "minisblack"}), (RGB, {}))
    assert same(decode(data), from_array(RGB))
    assert decode(data).notices == ()


def test_previews_only_are_refused() -> None:
    assert "preview" in said(decode, tiff_of((SMALL, {"subfiletype": 1})))


@pytest.mark.parametrize("kind", ["TIFF", "WEBP", "PNG"])
def test_that_one_of_several_was_taken_is_told(kind: str) -> None:
    frames = [PIL.Image.fromarray(frame) for frame in (RGB, 255 - RGB, RGB)]
    stream = io.BytesIO()
    frames[0].save(
        stream,
        kind,
        save_all=True,
        append_images=frames[1:],
        **({"lossless": True} if kind == "WEBP" else {}),
    )
    image = decode(stream.getvalue())
    np.testing.assert_array_equal(image.pixels, from_array(RGB).pixels)
    (notice,) = image.notices
    assert notice.key == "first-frame"
    assert "3" in notice.text


# ---- samples that are neither colour nor alpha


@pytest.mark.parametrize("extra", [0, 1, 2])
@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("grey", [False, True])
def test_extra_samples(extra: int, deep: bool, grey: bool) -> None:
    colours = RGB16 if deep else RGB
    colours = colours[..., :1] if grey else colours
    white = 65535 if deep else 255
    more = np.full((24, 40, 1), white // 2, colours.dtype)
    kind = {"photometric": "minisblack" if grey else "rgb", "extrasamples": [extra], "planarconfig": "contig"}
    image = decode(tiff_of((np.concatenate([colours, more], axis=2), kind)))
    assert image.grey == grey
    assert image.depth == (16 if deep else 8)
    keys = [notice.key for notice in image.notices]
    plain = np.broadcast_to(colours / white, (24, 40, 3))
    if extra == 0:
        assert image.alpha is None
        assert keys == ["extra-samples"]
    else:
        np.testing.assert_allclose(image.alpha, 0.5, atol=0.003)
        assert keys == []
    undone = (plain * white / (white // 2)).clip(0, 1) if extra == 1 else plain
    np.testing.assert_allclose(image.pixels, undone, atol=(1.1 if extra == 1 else 0.1) / white)


def test_alpha_among_extra_samples_is_kept() -> None:
    five = np.concatenate([RGB, RGB[..., :2]], axis=2)
    image = decode(tiff_of((five, {"extrasamples": [2, 0], "planarconfig": "contig"})))
    assert same(image, from_array(five[..., :4]))
    assert [notice.key for notice in image.notices] == ["extra-samples"]


# ---- camera raw


def dng(sensor: np.ndarray) -> bytes:
    """A camera raw file: a thumbnail in the first directory, the sensor's samples in a sub-directory."""
    tags = [
        (50706, 1, 4, b"\1\4\0\0", True),
        (50708, 2, 5, "Cam 1", True),
        (50721, 10, 9, [1, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 1], True),
        (271, 2, 4, "Cam", True),
        (272, 2, 4, "One", True),
    ]
    pattern = [(33421, 3, 2, [2, 2], True), (33422, 1, 4, b"\0\1\1\2", True), (50717, 4, 1, 65535, True)]
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        writer.write(
            SMALL, photometric="rgb", metadata=None, subfiletype=1, subifds=1, extratags=tags, software=""
        )
        writer.write(sensor, photometric=32803, metadata=None, subfiletype=0, extratags=pattern)
    return stream.getvalue()


RAWS = {
    "DNG": dng(np.full((64, 96), 30000, np.uint16)),
    "CR2": b"II*\0\x10\0\0\0CR\2\0" + bytes(100),
    "CR3": b"\0\0\0\x18ftypcrx " + bytes(100),
    "RAF": b"FUJIFILMCCD-RAW 0201" + bytes(100),
    "ORF": b"IIRO\x08\0\0\0" + bytes(100),
    "RW2": b"IIU\0\x18\0\0\0" + bytes(100),
    "NEF": tiff_of((SMALL, {"subfiletype": 1, "subifds": 1}), (SMALL[..., 0], {"photometric": 32803})),
    "ARW": tiff_of((SMALL, {"subfiletype": 1}), (SMALL[..., 0], {"photometric": 32803})),
}


@pytest.mark.parametrize("kind", RAWS)
def test_camera_raw_is_a_picture_whose_result_is_tiff(kind: str) -> None:
    assert is_picture(RAWS[kind][:64])
    assert writable_suffix(RAWS[kind][:64]) == ".tif"


@pytest.mark.parametrize("kind", RAWS)
def test_camera_raw_without_the_extra_is_one_line(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    true_import = builtins.__import__

    def without_rawpy(name: str, *rest: Any, **more: Any) -> Any:
        if name == "rawpy":
            raise ImportError
        return true_import(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_rawpy)
    message = said(decode, RAWS[kind], "a.raw")
    assert message.startswith("a.raw is camera raw")
    assert "refusion[raw]" in message


class Sensor:
    """Stands for rawpy where it is not installed: what is asked of it, and what it answers."""

    sizes = SimpleNamespace(width=8, height=4)

    def __init__(self) -> None:
        self.asked: dict[str, object] = {}

    def __enter__(self) -> "Sensor":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def postprocess(self, **options: object) -> np.ndarray:
        self.asked = options
        return RGB16


class LibRawError(Exception):
    pass


def fake_rawpy(imread: Any) -> Any:
    return SimpleNamespace(imread=imread, LibRawError=LibRawError, ColorSpace=SimpleNamespace(sRGB="sRGB"))


def test_camera_raw_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    sensor = Sensor()
    monkeypatch.setitem(sys.modules, "rawpy", fake_rawpy(lambda _: sensor))
    image = decode(RAWS["DNG"])
    assert same(image, from_array(RGB16))
    assert sensor.asked == {"use_camera_wb": True, "output_bps": 16, "output_color": "sRGB"}
    assert image.metadata.exif is not None
    assert b"Cam\0" in image.metadata.exif
    assert "more than 31" in said(decode, RAWS["DNG"], "a.dng", 31)
    sensor.asked, sizes = {}, []

    def refuse(header: Header) -> None:
        sizes.append((header.width, header.height))
        raise ImageError("too large")

    assert said(decode, RAWS["DNG"], "a.dng", 32, refuse) == "too large"
    assert (sizes, sensor.asked) == ([(8, 4)], {})

    def fail(_: object) -> None:
        raise LibRawError(b"Unsupported file format")

    monkeypatch.setitem(sys.modules, "rawpy", fake_rawpy(fail))
    message = said(decode, RAWS["DNG"], "a.dng")
    assert "Unsupported file format" in message
    assert message.startswith("a.dng is camera raw")


def test_libraw_itself_develops_the_sensor() -> None:
    pytest.importorskip("rawpy")
    image = decode(RAWS["DNG"])
    assert image.size == (96, 64)
    assert image.depth == 16
    assert image.pixels.std() < 0.05


def test_heic_that_cannot_be_decoded_is_named() -> None:
    header = struct.pack(">I4s4sI4s4s", 24, b"ftyp", b"heic", 0, b"mif1", b"heic")
    message = said(decode, header + bytes(64), "a.heic")
    assert message.startswith("a.heic is HEIC")
    assert "JPEG" in message


# ---- healthy files with odd tags


@pytest.mark.parametrize(
    "tag",
    [
        (270, 2, 9, b"scan\0of 1", True),
        (65000, 2, 4, b"odd\0", True),
        (65001, 12, 2, [1.5, 2.5], True),
        (33432, 3, 1, 7, True),
        (34665, 4, 1, 4_000_000_000, True),
        (700, 1, 5, b"<xmp>", True),
        (315, 2, 3, b"\xff\xfe\xfd", True),
    ],
)
def test_odd_tags_do_not_cost_the_picture(tmp_path: Path, tag: tuple[Any, ...]) -> None:
    data = tiff_of((RGB, {"extratags": [tag]}))
    assert same(decode(data), from_array(RGB))
    (tmp_path / "a.tif").write_bytes(data)
    assert same(read(tmp_path / "a.tif"), from_array(RGB))


def test_a_monstrous_side_is_one_line_and_nothing_on_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(tiff_of((RGB, {})))
    at = data.index(struct.pack("<HH", 256, 4))
    data[at + 8 : at + 12] = struct.pack("<I", 1_006_633_008)
    assert "1006633008 x 24" in said(decode, bytes(data))
    assert capfd.readouterr() == ("", "")


def test_a_message_that_is_not_text_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise UnicodeDecodeError("utf-8", b"\x9f", 0, 1, "invalid start byte")

    monkeypatch.setattr(pyvips.Image, "new_from_buffer", fail)
    assert "damaged" in said(decode, tiff_of((RGB, {})))


def test_a_warning_that_is_not_text_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    assert same(decode(tiff_of((RGB, {}))), from_array(RGB))
    domain, message = (pyvips.ffi.new("char[]", text) for text in (b"VIPS", b"tag caf\xe9\xff"))
    pyvips._log_handler_cb(domain, 16, message, pyvips.ffi.NULL)
    assert capfd.readouterr() == ("", "")


def test_a_monstrous_count_of_samples_is_one_line() -> None:
    data = bytearray(tiff_of((RGB, {})))
    at = data.index(struct.pack("<HH", 277, 3))
    data[at : at + 12] = struct.pack("<HHII", 277, 4, 1, 4_000_000_000)
    assert "a.tif" in said(decode, bytes(data), "a.tif")


@pytest.mark.parametrize("layout", [{}, {"rowsperstrip": 5}, {"tile": (16, 16)}, {"compression": "zlib"}])
def test_missing_parts_are_never_filled_with_black(layout: dict[str, Any]) -> None:
    data = tiff_of((RGB, {"extratags": [(65000, 2, 4, "odd", True)], **layout}))
    intact = decode(data)
    for cut in (1, 50, 300, 1000, len(data) // 2):
        message = said(decode, data[:-cut])
        assert "cut short" in message
    assert same(decode(data), intact)
