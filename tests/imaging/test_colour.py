"""Colour told elsewhere than by ICC means the same after writing: lcms against published matrices."""

import io
import struct
import zlib

import numpy as np
import PIL.Image
import pytest
import pyvips
from pictures import RGB, SRGB, said
from PIL import ImageCms

from refusion.imaging.arrays import from_array
from refusion.imaging.av1 import sequence_colour
from refusion.imaging.colour import ADOBE, Chromaticities, avif_colour, made_profile, srgb_curve
from refusion.imaging.colour import SRGB as SRGB_PRIMARIES
from refusion.imaging.formats import decode, encode

TARGETS = [".png", ".jpg", ".tif", ".webp", ".avif"]
TO_SRGB = {  # linear light to that of sRGB
    "Display P3": [[1.2249, -0.2247, 0], [-0.0420, 1.0419, 0], [-0.0197, -0.0786, 1.0979]],
    "Adobe RGB": [[1.3984, -0.3984, 0], [0, 1, 0], [0, -0.0429, 1.0429]],
    "BT.2020": [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]],
    "sRGB": np.eye(3).tolist(),
}
CODES = {"Display P3": 12, "BT.2020": 9, "sRGB": 1}
# Smooth, so that lossy formats change little, and near grey, so that all colours are in sRGB, too.
HEIGHT, WIDTH = np.mgrid[0:32, 0:48]
PASTEL = np.stack([130 + WIDTH, 140 + HEIGHT, 180 - WIDTH], axis=2).astype(np.uint8)


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


def shown(data: bytes) -> np.ndarray:
    """The sRGB numbers in [0, 1] that a colour-managed viewer shows."""
    with PIL.Image.open(io.BytesIO(data)) as picture:
        icc, picture = (
            picture.info.get("icc_profile"),
            picture.convert("RGB" if picture.mode == "RGB" else "L"),
        )
    if icc:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        target = ImageCms.createProfile("sRGB")
        picture = ImageCms.profileToProfile(picture, profile, target, 1, "RGB")
    return np.asarray(picture.convert("RGB")) / 255


def meant(samples: np.ndarray, space: str, gamma: float | None) -> np.ndarray:
    values = samples / 255
    linear = srgb_curve(values) if gamma is None else values**gamma
    linear = (linear @ np.array(TO_SRGB[space]).T).clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def png_with(samples: np.ndarray, *chunks: tuple[bytes, bytes], **options: object) -> bytes:
    stream = io.BytesIO()
    PIL.Image.fromarray(samples).save(stream, "PNG", **options)
    data = stream.getvalue()
    parts = b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    return data[:33] + parts + data[33:]


def chrm(primaries: Chromaticities) -> bytes:
    return struct.pack(">8I", *(round(value * 100000) for value in (*primaries[6:], *primaries[:6])))


def gama(gamma: float) -> bytes:
    return struct.pack(">I", round(100000 / gamma))


def avif_with(samples: np.ndarray, primaries: int, curve: int) -> bytes:
    picture = pyvips.Image.new_from_array(samples, interpretation="srgb")
    data = picture.write_to_buffer(".avif", lossless=True)
    at = data.index(b"colrnclx") + 8
    return data[:at] + struct.pack(">HH", primaries, curve) + data[at + 4 :]


def jpeg_with_exif(samples: np.ndarray, space: int, interoperability: str | None) -> bytes:
    exif = PIL.Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = space
    if interoperability:
        exif.get_ifd(0x8769)[0xA005] = {1: interoperability}
    stream = io.BytesIO()
    PIL.Image.fromarray(samples).save(stream, "JPEG", exif=exif, quality=100, subsampling=0)
    return stream.getvalue()


SOURCES = {
    "cICP P3": (png_with(PASTEL, (b"cICP", bytes([12, 13, 0, 1]))), "Display P3", None),
    "cICP BT.2020, gamma 2.2": (png_with(PASTEL, (b"cICP", bytes([9, 4, 0, 1]))), "BT.2020", 2.2),
    "cICP over iCCP": (
        png_with(PASTEL, (b"cICP", bytes([12, 13, 0, 1])), icc_profile=SRGB),
        "Display P3",
        None,
    ),
    "gAMA and cHRM": (png_with(PASTEL, (b"gAMA", gama(2.2)), (b"cHRM", chrm(ADOBE))), "Adobe RGB", 2.2),
    "gAMA alone, linear": (png_with(PASTEL, (b"gAMA", gama(1))), "sRGB", 1.0),
    "gAMA of sRGB": (png_with(PASTEL, (b"gAMA", gama(2.2)), (b"cHRM", chrm(SRGB_PRIMARIES))), "sRGB", None),
    "sRGB over gAMA": (png_with(PASTEL, (b"gAMA", gama(1)), (b"sRGB", b"\0")), "sRGB", None),
    "nclx P3": (avif_with(PASTEL, 12, 13), "Display P3", None),
    "nclx BT.709": (avif_with(PASTEL, 1, 1), "sRGB", None),
    "nclx unspecified": (avif_with(PASTEL, 2, 2), "sRGB", None),
    "EXIF R03": (jpeg_with_exif(PASTEL, 65535, "R03"), "Adobe RGB", 563 / 256),
    "EXIF 2": (jpeg_with_exif(PASTEL, 2, None), "Adobe RGB", 563 / 256),
    "EXIF R98": (jpeg_with_exif(PASTEL, 1, "R98"), "sRGB", None),
    "EXIF uncalibrated": (jpeg_with_exif(PASTEL, 65535, None), "sRGB", None),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", SOURCES)
def test_a_viewer_shows_the_same_before_and_after(source: str, target: str) -> None:
    data, space, gamma = SOURCES[source]
    image = decode(data)
    assert (image.icc is None) == (space == "sRGB" and gamma is None)
    numbers = np.abs(image.pixels - PASTEL / 255)
    assert numbers.max() < (0.03 if source.startswith(("EXIF", "nclx")) else 1e-6)
    difference = np.abs(shown(encode(image, target)) - meant(PASTEL, space, gamma))
    assert difference.mean() < 0.008
    assert difference.max() < 0.04


@pytest.mark.parametrize("gamma", [1.0, 1.8, 2.2])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("told", ["gAMA", "ICC"])
def test_grey_means_the_same(target: str, gamma: float, told: str) -> None:
    grey = (60 + 3 * WIDTH).astype(np.uint8)
    icc = made_profile(SRGB_PRIMARIES, gamma, grey=True)
    data = png_with(grey, (b"gAMA", gama(gamma))) if told == "gAMA" else png_with(grey, icc_profile=icc)
    image = decode(data)
    assert image.grey
    expected = meant(np.repeat(grey[..., None], 3, axis=2), "sRGB", gamma)
    if told == "gAMA" and gamma == 2.2:
        expected = np.repeat(grey[..., None], 3, axis=2) / 255  # 1/2.2 stands for sRGB, as in browsers
    assert np.abs(shown(encode(image, target)) - expected).max() < 0.025


@pytest.mark.parametrize("primaries", ["Display P3", "Adobe RGB", "BT.2020"])
def test_made_profiles_are_valid(primaries: str) -> None:
    told = {"Display P3": (0.68, 0.32, 0.265, 0.69, 0.15, 0.06), "Adobe RGB": ADOBE[:6]}
    corners = told.get(primaries, (0.708, 0.292, 0.170, 0.797, 0.131, 0.046))
    icc = made_profile((*corners, 0.3127, 0.3290), None, grey=False)
    assert icc is not None
    assert len(icc) == int.from_bytes(icc[:4], "big")
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc)).profile
    white = np.sum([profile.red_colorant[0], profile.green_colorant[0], profile.blue_colorant[0]], axis=0)
    np.testing.assert_allclose(white, [0.9642, 1, 0.8249], atol=2e-4)  # of the profile connection space


def test_primaries_that_are_no_triangle_are_no_profile() -> None:
    for primaries in ((0.3, 0.3) * 4, (0.64, 0, 0.3, 0.6, 0.15, 0.06, 0.31, 0.33), (0,) * 8):
        assert made_profile(primaries, None, grey=False) is None
        assert decode(png_with(RGB, (b"gAMA", gama(1)), (b"cHRM", chrm(primaries)))).icc is None
    assert decode(png_with(RGB, (b"gAMA", bytes(4)))).icc is None


@pytest.mark.parametrize("curve", [16, 18])
def test_hdr_is_refused(curve: int) -> None:
    assert "HDR" in said(decode, png_with(RGB, (b"cICP", bytes([9, curve, 0, 1]))))
    assert "HDR" in said(decode, avif_with(PASTEL, 9, curve))


@pytest.mark.parametrize("boxed", [True, False])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("full", [True, False])
def test_the_range_of_avif(mode: str, full: bool, boxed: bool) -> None:
    """Told by a box, or by the coded picture alone."""
    ramp = (
        np.linspace(0, 255, 256).round().astype(np.uint8).reshape(16, 16).repeat(4, axis=0).repeat(4, axis=1)
    )
    stream = io.BytesIO()
    options = {"range": "full" if full else "limited", "quality": 100}
    subsampling = "4:0:0" if mode == "L" else "4:4:4"
    source = PIL.Image.fromarray(ramp).convert("RGBA" if mode == "RGBA" else "RGB")
    source.save(stream, "AVIF", subsampling=subsampling, **options)
    data = stream.getvalue()
    assert b"colrnclx" in data
    image = decode(data if boxed else data.replace(b"colrnclx", b"freenclx"))
    np.testing.assert_allclose(image.pixels, np.repeat(ramp[..., None], 3, axis=2) / 255, atol=0.012)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("full", [True, False])
def test_the_header_of_a_film_tells_the_same(mode: str, full: bool) -> None:
    first, second = (PIL.Image.fromarray(PASTEL).convert("RGBA" if mode == "RGBA" else "RGB") for _ in "ab")
    stream = io.BytesIO()
    options = {"subsampling": "4:0:0" if mode == "L" else "4:2:0", "range": "full" if full else "limited"}
    first.save(stream, "AVIF", save_all=True, append_images=[second.rotate(180)], **options)
    assert sequence_colour(stream.getvalue()) == (1, 13, full)


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_the_coded_picture_of_avif_tells_primaries_and_curve(bits: int) -> None:
    picture = pyvips.Image.new_from_array(PASTEL, interpretation="srgb")
    data = picture.write_to_buffer(".avif", bitdepth=bits)
    assert sequence_colour(data) == (1, 13, True)
    for cut in range(len(data)):
        sequence_colour(data[:cut])  # a damaged file is refused elsewhere


@pytest.mark.parametrize("pieces", [1, 3])
def test_the_primary_item_is_found_among_many(pieces: int) -> None:
    picture = pyvips.Image.new_from_array(PASTEL, interpretation="srgb").write_to_buffer(".avif")
    header = picture[picture.index(b"\x12\0\x0a") :]
    items = [
        struct.pack(">HHH", i, 0, pieces) + struct.pack(">II", 8, len(header)) * pieces for i in range(500)
    ]
    places = b"\0\0\0\0\x44\0" + struct.pack(">H", len(items)) + b"".join(items)
    inner = box(b"pitm", struct.pack(">IH", 0, 499)) + box(b"iloc", places)
    assert sequence_colour(box(b"mdat", header) + box(b"meta", bytes(4) + inner)) == (1, 13, True)


def test_boxes_in_boxes_without_end_tell_nothing() -> None:
    inner = b""
    for _ in range(2000):
        inner = box(b"ipco", inner)
    assert avif_colour(box(b"ftyp", b"avif") + inner) is None


def test_profiles_made_for_files_are_read_back() -> None:
    image = decode(SOURCES["cICP P3"][0])
    for target in TARGETS:
        assert decode(encode(image, target)).icc == image.icc
    assert decode(encode(from_array(RGB), ".png")).icc is None
