"""Laws of `refusion.imaging.formats` first, then what each kind of file gives, then errors in one line."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import pyvips
import tifffile
from pictures import EVERY_8, EVERY_16, GREY_PROFILE, RGB, RGB16, SMOOTH, SRGB, Y, said, same, stored

from refusion.imaging.arrays import from_array
from refusion.imaging.formats import (
    READABLE,
    SUFFIXES,
    decode,
    encode,
    is_picture,
    read,
    writable_suffix,
    write,
    write_gif,
)

# ---- laws


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_first_bytes_tell_the_format(suffix: str) -> None:
    head = encode(from_array(RGB), suffix)[:64]
    assert is_picture(head)
    known = {".jpeg": ".jpg", ".tiff": ".tif"}
    assert writable_suffix(head) == known.get(suffix, suffix)
    assert not is_picture(b"x" + head)
    assert writable_suffix(b"x" + head) == ".png"


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("every", [EVERY_8, EVERY_16], ids=["8", "16"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_sample_survives_a_round_trip(
    tmp_path: Path, suffix: str, every: np.ndarray, channels: int
) -> None:
    samples = np.stack([np.roll(every, 5 * k) for k in range(channels)], axis=2)
    path = tmp_path / f"a{suffix}"
    write(from_array(samples), path)
    assert stored(path).dtype == samples.dtype
    np.testing.assert_array_equal(stored(path).reshape(samples.shape), samples)
    again = read(path)
    assert same(again, from_array(samples))
    write(again, path)
    np.testing.assert_array_equal(stored(path).reshape(samples.shape), samples)


def test_webp_is_lossless_even_under_transparency(tmp_path: Path) -> None:
    rgba = np.dstack([RGB, np.zeros((24, 40), np.uint8)])
    write(from_array(rgba), tmp_path / "a.webp")
    np.testing.assert_array_equal(stored(tmp_path / "a.webp"), rgba)


@pytest.mark.parametrize(("value", "sample"), [(0.499, 0), (0.501, 1), (1.499, 1), (1.501, 2), (254.6, 255)])
@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_depth_is_reduced_by_rounding(tmp_path: Path, suffix: str, value: float, sample: int) -> None:
    write(from_array(np.full((8, 8), value / 255, np.float32)), tmp_path / f"a{suffix}")
    assert stored(tmp_path / f"a{suffix}").dtype == np.uint8
    assert stored(tmp_path / f"a{suffix}")[..., 0].max() == sample


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("samples", [RGB, RGB16], ids=["8", "16"])
def test_everything_read_is_in_range_contiguous_and_float32(
    tmp_path: Path, suffix: str, samples: np.ndarray
) -> None:
    write(from_array(samples), tmp_path / f"a{suffix.upper()}")
    image = read(str(tmp_path / f"a{suffix.upper()}"))
    assert image.pixels.dtype == np.float32
    assert image.pixels.flags.c_contiguous
    assert 0 <= image.pixels.min() <= image.pixels.max() <= 1
    assert image.size == (40, 24)
    assert image.pixels.shape == (24, 40, 3)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (7, 1), (3, 5)])
def test_any_size(tmp_path: Path, suffix: str, height: int, width: int) -> None:
    path = tmp_path / f"a{suffix}"
    write(from_array(np.full((height, width, 3), 200, np.uint8)), path)
    np.testing.assert_allclose(read(path).pixels, np.full((height, width, 3), 200 / 255), atol=0.01)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_every_orientation_gives_the_upright_picture(tmp_path: Path, orientation: int, suffix: str) -> None:
    # Taller than libvips's read-ahead, which would hide an out-of-order read.
    upright = np.zeros((600, 200, 3), np.uint8)
    upright[:300, :100] = 255, 0, 0
    upright[300:, 100:] = 0, 0, 255
    upright[:300, 100:] = 0, 255, 0
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    source = PIL.Image.fromarray(np.ascontiguousarray(turned))
    path = tmp_path / f"a{suffix}"
    source.save(path, exif=exif, **({"quality": 95} if suffix == ".jpg" else {"lossless": True}))

    image = read(path)
    assert image.pixels.shape == upright.shape
    assert np.abs(image.pixels - upright / 255).mean() < 0.01
    write(image, path)
    with PIL.Image.open(path) as written:
        assert written.size == (200, 600)
        assert written.getexif().get(0x0112, 1) == 1
    if suffix == ".png":
        source.getexif()[0x0112] = orientation
        assert same(from_array(source), image)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_profile_is_kept_and_pixels_stay_in_it(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    PIL.Image.fromarray(RGB).save(tmp_path / "source.png", icc_profile=SRGB)
    image = read(tmp_path / "source.png")
    np.testing.assert_array_equal(image.pixels, from_array(RGB).pixels)
    write(image, path)
    assert read(path).icc == image.icc == SRGB
    with PIL.Image.open(path) as written:
        assert written.info["icc_profile"] == SRGB


def test_a_grey_profile_is_kept_where_grey_is(tmp_path: Path) -> None:
    PIL.Image.fromarray(EVERY_8).save(tmp_path / "a.png", icc_profile=GREY_PROFILE)
    image = read(tmp_path / "a.png")
    for suffix, icc in {".tif": GREY_PROFILE, ".jpg": GREY_PROFILE, ".webp": None, ".avif": None}.items():
        write(image, tmp_path / f"b{suffix}")
        with PIL.Image.open(tmp_path / f"b{suffix}") as written:
            assert written.info.get("icc_profile") == icc, suffix


def test_a_profile_of_another_kind_is_dropped(tmp_path: Path) -> None:
    PIL.Image.fromarray(EVERY_8).save(tmp_path / "grey.jpg", icc_profile=SRGB)
    PIL.Image.fromarray(RGB).save(tmp_path / "colour.jpg", icc_profile=GREY_PROFILE)
    PIL.Image.fromarray(RGB).save(tmp_path / "garbage.jpg", icc_profile=b"garbage" * 30)
    assert [read(tmp_path / name).icc for name in ("grey.jpg", "colour.jpg", "garbage.jpg")] == [None] * 3


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".avif"])
def test_alpha_is_kept(tmp_path: Path, suffix: str) -> None:
    rgba = from_array(np.dstack([SMOOTH, 1 - Y]))
    write(rgba, tmp_path / f"a{suffix}")
    image = read(tmp_path / f"a{suffix}")
    np.testing.assert_allclose(image.alpha, rgba.alpha, atol=0.03 if suffix == ".avif" else 0.002)
    assert image.alpha.dtype == np.float32
    assert image.alpha.flags.c_contiguous


def test_jpeg_flattens_alpha_on_white(tmp_path: Path) -> None:
    black = np.zeros((16, 32, 4), np.uint8)
    black[:, 16:, 3] = 255
    write(from_array(black), tmp_path / "a.jpg")
    image = read(tmp_path / "a.jpg")
    assert image.alpha is None
    assert image.pixels[:, :16].min() == 1
    assert image.pixels[:, 16:].max() == 0


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_grey_stays_grey(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write(from_array(EVERY_8), path)
    image = read(path)
    assert image.grey
    assert image.pixels.shape == (16, 16, 3)
    assert (image.pixels == image.pixels[..., :1]).all()
    tinted = image.with_pixels(image.pixels * np.float32([0.5, 0.25, 0]))
    write(tinted, path)
    assert stored(path).shape == (16, 16, 1) or stored(path).shape == (16, 16)
    np.testing.assert_allclose(read(path).pixels, image.pixels / 4, atol=0.02)


# ---- kinds of files


@pytest.mark.parametrize("mode", ["P", "1", "L", "LA", "RGB", "RGBA"])
def test_png_modes(tmp_path: Path, mode: str) -> None:
    source = PIL.Image.fromarray(RGB).convert(mode)
    source.save(tmp_path / "a.png")
    image = read(tmp_path / "a.png")
    expected = np.asarray(source.convert("RGB"))
    np.testing.assert_array_equal(np.rint(image.pixels * 255), expected)
    assert (image.depth, image.grey, image.alpha is not None) == (8, mode in "1LA", mode in ("LA", "RGBA"))
    assert same(from_array(source), image)


def test_transparency_of_a_palette(tmp_path: Path) -> None:
    source = PIL.Image.fromarray(RGB).convert("P")
    source.save(tmp_path / "a.png", transparency=3)
    image = read(tmp_path / "a.png")
    np.testing.assert_array_equal(image.alpha == 0, np.asarray(source) == 3)
    assert same(from_array(PIL.Image.open(tmp_path / "a.png")), image)


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_becomes_srgb(tmp_path: Path, suffix: str) -> None:
    colours = [(255, 255, 255), (230, 40, 40), (40, 160, 60), (0, 0, 0)]
    source = PIL.Image.fromarray(np.repeat(np.uint8([colours]), 16, axis=0).repeat(16, axis=1)).convert(
        "CMYK"
    )
    options = {"quality": 100} if suffix == ".jpg" else {}
    source.save(tmp_path / f"a{suffix}", icc_profile=SRGB, **options)
    image = read(tmp_path / f"a{suffix}")
    white, red, green, black = image.pixels[8, 8::16]
    assert white.min() > 0.98
    assert black.max() < 0.4
    assert red[0] > 1.5 * red[1:].max()
    assert green[1] > 1.3 * green[[0, 2]].max()
    assert image.icc is None
    assert image.depth == 8
    assert image.alpha is None
    np.testing.assert_allclose(from_array(source).pixels, image.pixels, atol=0.02)


def test_cmyk_goes_through_its_own_profile(tmp_path: Path) -> None:
    # libvips's profile, made dark: the lightness table, 1024 of the last 3 x 1024 numbers of A2B, is halved.
    profile = pyvips.Operation.call("profile_load", "cmyk")
    end = 728 + 53754
    lightness = np.frombuffer(profile[end - 6144 : end - 4096], ">u2") // 2
    profile = profile[: end - 6144] + lightness.astype(">u2").tobytes() + profile[end - 4096 :]
    inks = PIL.Image.new("CMYK", (8, 8), (20, 20, 20, 20))
    plain = from_array(inks)
    inks.save(tmp_path / "a.tif", icc_profile=profile)
    inks.info["icc_profile"] = profile
    dark = read(tmp_path / "a.tif")
    assert plain.pixels.min() > 0.7
    assert dark.pixels.max() < 0.5
    assert dark.icc is None
    assert same(from_array(inks), dark)


def test_deep_cmyk_stays_deep(tmp_path: Path) -> None:
    ramp = np.repeat(EVERY_16[..., None], 4, axis=2) // 2
    pyvips.Image.new_from_array(ramp, interpretation="cmyk").write_to_file(str(tmp_path / "a.tif"))
    image = read(tmp_path / "a.tif")
    assert image.depth == 16
    assert len(np.unique(image.pixels)) > 1000


def test_floating_point_tiff(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", SMOOTH, photometric="rgb")
    image = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.pixels, SMOOTH)
    assert image.depth == 16
    tifffile.imwrite(tmp_path / "b.tif", 100 * SMOOTH, photometric="rgb")
    assert "spans 0 to 100: expected [0, 1]" in said(read, tmp_path / "b.tif")


def test_avif_depths(tmp_path: Path) -> None:
    for depth, tolerance in {8: 0.02, 16: 0.01}.items():
        write(
            from_array(SMOOTH if depth == 16 else np.rint(SMOOTH * 255).astype(np.uint8)), tmp_path / "a.avif"
        )
        image = read(tmp_path / "a.avif")
        assert image.depth == depth
        np.testing.assert_allclose(image.pixels, SMOOTH, atol=tolerance)
    write(from_array(EVERY_8), tmp_path / "a.avif")
    assert not read(tmp_path / "a.avif").grey


@pytest.mark.parametrize("bits", [10, 12])
def test_the_white_of_a_deep_avif_is_one(tmp_path: Path, bits: int) -> None:
    white = pyvips.Image.new_from_array(np.full((16, 16, 3), 65535, np.uint16), interpretation="rgb16")
    white.write_to_file(str(tmp_path / "a.avif"), bitdepth=bits, lossless=True)
    assert stored(tmp_path / "a.avif").max() < 65535
    assert read(tmp_path / "a.avif").pixels.min() == 1


def test_of_pages_and_frames_the_first(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.stack([RGB, 255 - RGB]), photometric="rgb")
    frames = [PIL.Image.fromarray(frame) for frame in (RGB, 255 - RGB)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    for name in ("a.tif", "a.webp"):
        np.testing.assert_array_equal(read(tmp_path / name).pixels[..., :3], from_array(RGB).pixels)


def test_the_content_tells_the_format_not_the_name(tmp_path: Path) -> None:
    write(from_array(RGB), tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert same(read(tmp_path / "a.jpg"), from_array(RGB))


def test_a_file_that_was_overwritten_is_read_anew(tmp_path: Path) -> None:
    for picture in (RGB, RGB[:5]):
        write(from_array(picture), tmp_path / "a.png")
        assert same(read(tmp_path / "a.png"), from_array(picture))


def test_jpeg_keeps_the_resolution_of_colour(tmp_path: Path) -> None:
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2, 0] = 255
    stripes[:, 1::2, 2] = 255
    write(from_array(stripes), tmp_path / "a.jpg")
    assert np.abs(read(tmp_path / "a.jpg").pixels - stripes / 255).mean() < 0.02


# ---- bytes instead of files


KINDS = {
    "RGB": RGB,
    "16 bit": RGB16,
    "grey": EVERY_8,
    "grey with alpha": np.dstack([EVERY_16, EVERY_16.T]),
    "RGB with alpha": np.dstack([RGB, RGB[..., 0]]),
}


@pytest.mark.parametrize("suffix", [*SUFFIXES, *(suffix.upper() for suffix in SUFFIXES)])
@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_those_of_a_file(tmp_path: Path, suffix: str, kind: str) -> None:
    image = replace(from_array(KINDS[kind]), icc=None if kind.startswith("grey") else SRGB)
    path = tmp_path / f"a{suffix}"
    write(image, path)
    assert encode(image, suffix) == path.read_bytes()
    assert same(decode(path.read_bytes()), read(path))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_bytes_that_are_no_whole_picture_are_named_as_told(suffix: str) -> None:
    data = encode(from_array(RGB), suffix)
    for content, words in {
        data[: len(data) // 2]: "is damaged, cut short",
        b"": "is empty",
        b"<html>": "is not a picture",
    }.items():
        assert said(decode, content, "upload 7").startswith(f"upload 7 {words}")
        assert said(decode, content).startswith(f"the picture {words}")
    assert decode(data, max_pixels=40 * 24).size == (40, 24)
    message = said(decode, data, "upload 7", max_pixels=40 * 24 - 1)
    assert message.startswith("upload 7 has 40 x 24 pixels, more than 959")
    assert "max_pixels" in message


def test_what_cannot_be_encoded_is_named_as_told() -> None:
    image, wide = from_array(RGB), from_array(np.zeros((1, 20000, 3), np.uint8))
    for name in ("result 7", "the picture"):
        named = () if name == "the picture" else (name,)
        for suffix in (".gif", "png", ""):
            message = said(encode, image, suffix, *named)
            assert message.startswith(f"{name} cannot be written")
            assert ".png .jpg" in message
        message = said(encode, wide, ".webp", *named)
        assert message.startswith(f"{name} cannot be encoded")
        assert "too large" in message
        assert "try .png" in message


# ---- animations


def test_gif(tmp_path: Path) -> None:
    flat = [from_array(np.full((10, 20, 3), value, np.float32)) for value in (0, 0.2, 1)]
    write_gif((frame for frame in flat), tmp_path / "a.gif", frame_ms=250)
    with PIL.Image.open(tmp_path / "a.gif") as gif:
        assert (gif.n_frames, gif.size, gif.info["duration"], gif.info["loop"]) == (3, (20, 10), 250, 0)
        for k, value in enumerate((0, 51, 255)):
            gif.seek(k)
            assert (np.asarray(gif.convert("RGB")) == value).all()
    write_gif([from_array(EVERY_8), from_array(EVERY_8[..., None].repeat(3, axis=2))], tmp_path / "a.gif")
    assert [path.name for path in tmp_path.iterdir()] == ["a.gif"]


def test_gif_errors(tmp_path: Path) -> None:
    frame, low = from_array(RGB), from_array(RGB[:5])
    assert "name an animation .gif" in said(write_gif, [frame], tmp_path / "a.png")
    assert "got none" in said(write_gif, [], tmp_path / "a.gif")
    assert "[(40, 5), (40, 24)]" in said(write_gif, [frame, low], tmp_path / "a.gif")
    assert "frame_ms is 7" in said(write_gif, [frame], tmp_path / "a.gif", frame_ms=7)


# ---- atomic writing


def raising(error: BaseException) -> Callable[..., None]:
    def replace(part: Path, target: Path) -> None:
        assert part.parent == target.parent
        assert part.stat().st_size > 0
        raise error

    return replace


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    monkeypatch.setattr(Path, "replace", raising(OSError(28, "No space left on device")))
    message = said(write, from_array(RGB), path)
    assert str(path) in message
    assert "No space left on device" in message
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_a_picture_too_large_for_the_format_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.webp"
    path.write_bytes(b"old")
    message = said(write, from_array(np.zeros((1, 20000, 3), np.uint8)), path)
    assert str(path) in message
    assert "too large" in message
    assert "try .png" in message
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.webp"]


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "replace", raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        write(from_array(RGB), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_a_written_file_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    write(from_array(RGB), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "usual").stat().st_mode


# ---- errors of reading and writing


def encoded(suffix: str) -> bytes:
    options = {".tif": {"compression": "deflate"}}.get(suffix, {})
    return pyvips.Image.new_from_array(RGB, interpretation="srgb").write_to_buffer(suffix, **options)


@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_truncated_file(tmp_path: Path, suffix: str, part: float) -> None:
    path = tmp_path / f"a{suffix}"
    data = encoded(suffix)
    path.write_bytes(data[: int(part * len(data))])
    message = said(read, path)
    assert message.startswith(f"{path} is damaged, cut short")
    assert "((" not in message, message
    assert "get another copy" in message


@pytest.mark.parametrize("layout", [{}, {"rowsperstrip": 8}, {"tile": (16, 16)}, {"compression": "zlib"}])
def test_a_truncated_tiff_whose_directory_is_first(tmp_path: Path, layout: dict[str, Any]) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", extratags=[(65000, "s", 0, "private", True)], **layout)
    assert same(read(path), from_array(RGB))
    path.write_bytes(path.read_bytes()[:-100])
    assert "cut short" in said(read, path)


@pytest.mark.parametrize(
    "content", [b"hello\n" * 20, b"\x89PN", b"GIF7", b"<svg xmlns='http://www.w3.org/2000/svg'/>"]
)
def test_not_a_picture(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    message = said(read, tmp_path / "a.png")
    assert message.startswith(f"{tmp_path / 'a.png'} is not a picture")
    assert ".png" in message


def test_no_file_a_folder_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "empty.png").touch()
    for name, words in {"no": "does not exist", "folder": "is a folder", "empty": "is empty"}.items():
        assert f"{name}.png {words}" in said(read, tmp_path / f"{name}.png")


def test_a_bomb_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyvips.Image.black(20000, 20001).write_to_file(str(tmp_path / "a.png"))

    def decode(*_: object) -> None:
        raise AssertionError("the picture was decoded")

    monkeypatch.setattr(pyvips.Image, "copy_memory", decode)
    message = said(read, tmp_path / "a.png")
    assert "20000 x 20001" in message
    assert "400000000" in message
    assert "max_pixels" in message
    monkeypatch.undo()
    write(from_array(RGB), tmp_path / "b.png")
    assert read(tmp_path / "b.png", max_pixels=40 * 24).size == (40, 24)
    said(read, tmp_path / "b.png", max_pixels=40 * 24 - 1)


@pytest.mark.parametrize("dtype", [np.uint32, np.int16, np.float64])
def test_strange_samples_in_a_tiff(tmp_path: Path, dtype: type) -> None:
    tifffile.imwrite(tmp_path / "a.tif", RGB.astype(dtype), photometric="rgb")
    assert str(tmp_path / "a.tif") in said(read, tmp_path / "a.tif")


def test_strange_channels_and_colours_in_a_tiff(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros((8, 9, 7), np.uint8), photometric="minisblack", planarconfig="contig"
    )
    assert "(8, 9, 7)" in said(read, tmp_path / "a.tif")
    lab = pyvips.Image.new_from_array(np.full((8, 8, 3), 50, np.float32), interpretation="lab")
    lab.write_to_file(str(tmp_path / "b.tif"))
    assert "lab" in said(read, tmp_path / "b.tif")


@pytest.mark.parametrize("name", ["a.gif", "a.bmp", "a", "a.png.part"])
def test_an_unknown_suffix(tmp_path: Path, name: str) -> None:
    message = said(write, from_array(RGB), tmp_path / name)
    assert name in message
    assert ".png .jpg" in message
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "a.png").mkdir()
    for place in ("missing/a.png", "file/a.png", "a.png"):
        message = said(write, from_array(RGB), tmp_path / place)
        assert message.startswith(f"{tmp_path / place} cannot be written")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.png", "file"]


def test_libvips_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for suffix in SUFFIXES:
        (tmp_path / f"a{suffix}").write_bytes(encoded(suffix)[:300])
        said(read, tmp_path / f"a{suffix}")
    PIL.Image.fromarray(EVERY_8).save(tmp_path / "a.png", icc_profile=SRGB)
    write(read(tmp_path / "a.png"), tmp_path / "a.avif")
    assert capfd.readouterr() == ("", "")


# ---- formats that are read only


@pytest.mark.parametrize("frames", [1, 3])
def test_the_first_frame_of_a_gif_is_read(tmp_path: Path, frames: int) -> None:
    levels = np.arange(0, 256, 8, dtype=np.uint8).repeat(2)[None].repeat(8, 0)
    pages = [PIL.Image.fromarray(np.roll(levels, 5 * i, axis=1)) for i in range(frames)]
    pages[0].save(tmp_path / "a.gif", save_all=True, append_images=pages[1:])
    image = read(tmp_path / "a.gif")
    np.testing.assert_array_equal(np.rint(255 * image.pixels), levels[..., None].repeat(3, 2))
    assert ".gif" in READABLE
    assert ".gif" not in SUFFIXES


def test_the_transparency_of_a_gif_is_kept(tmp_path: Path) -> None:
    page = PIL.Image.fromarray((np.indices((8, 8)).sum(0) % 4).astype(np.uint8), "P")
    page.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    page.save(tmp_path / "a.gif", transparency=0)
    alpha = read(tmp_path / "a.gif").alpha
    assert alpha is not None
    np.testing.assert_array_equal(alpha == 0, np.indices((8, 8)).sum(0) % 4 == 0)


HEADS = {
    ".bmp": b"BM" + bytes(12) + b"\x28\0\0\0" + bytes(40),
    ".jp2": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40),
    ".jxl": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40),
}
LOADERS = {".bmp": "magickload_buffer", ".jp2": "jp2kload_buffer", ".jxl": "jxlload_buffer"}


@pytest.mark.parametrize("suffix", HEADS)
def test_formats_that_libvips_may_lack_are_named(tmp_path: Path, suffix: str) -> None:
    able = pyvips.type_find("VipsOperation", LOADERS[suffix]) != 0
    assert (suffix in READABLE) == able
    (tmp_path / "a.png").write_bytes(HEADS[suffix])
    expected = "is damaged" if able else f"is a {suffix} file, which the installed libvips does not read"
    assert expected in said(read, tmp_path / "a.png")
    assert is_picture(HEADS[suffix])
    assert writable_suffix(HEADS[suffix]) == ".png"


@pytest.mark.parametrize(("suffix", "saved"), [(".bmp", {}), (".jp2", {"irreversible": False})])
def test_formats_that_libvips_reads_have_the_pixels_of_a_second_decoder(
    tmp_path: Path, suffix: str, saved: dict[str, Any]
) -> None:
    if suffix not in READABLE:
        pytest.skip(f"this libvips does not read {suffix}")
    PIL.Image.fromarray(RGB).save(tmp_path / f"a{suffix}", **saved)
    np.testing.assert_array_equal(np.rint(255 * read(tmp_path / f"a{suffix}").pixels), RGB)
