"""The picture as a value: what it keeps, how it is shown, and what other programs see in it."""

from dataclasses import replace

import numpy as np
import pytest
from pictures import EVERY_8, RGB, RGB16, SMOOTH, SRGB, said

from refusion.imaging.arrays import from_array
from refusion.imaging.formats import decode
from refusion.imaging.image import THUMBNAIL, Image


def test_with_pixels_keeps_the_rest_and_clips() -> None:
    image = from_array(np.dstack([RGB16, RGB16[..., 0]]))
    new = image.with_pixels(2 * SMOOTH[:24, :40] - 0.5)
    assert new.alpha is image.alpha
    assert new.depth == 16
    np.testing.assert_array_equal(new.pixels, np.clip(2 * SMOOTH[:24, :40] - 0.5, 0, 1))


def test_a_picture_without_colour_gets_none() -> None:
    tinted = SMOOTH[:24, :40]
    for image in (
        from_array(np.repeat(RGB16[..., :1], 3, axis=2)),
        from_array(np.repeat(RGB[..., 1:2], 3, axis=2)),
    ):
        assert not image.grey
        new = image.with_pixels(tinted)
        np.testing.assert_allclose(new.pixels, np.repeat(tinted.mean(2, keepdims=True), 3, axis=2), atol=1e-6)
        assert (new.pixels == new.pixels[..., :1]).all()
        np.testing.assert_array_equal(image.with_pixels(image.pixels).pixels, image.pixels)
    nearly = np.repeat(RGB[..., 1:2], 3, axis=2)
    nearly[23, 39, 2] ^= 1
    np.testing.assert_array_equal(from_array(nearly).with_pixels(tinted).pixels, tinted)


def test_strange_pixels() -> None:
    image = from_array(SMOOTH)
    assert "(63, 64, 3)" in said(image.with_pixels, SMOOTH[1:])
    for value in (np.nan, np.inf):
        assert "NaN or infinity" in said(image.with_pixels, np.full_like(SMOOTH, value))


# ---- as an array


def test_the_array_of_an_image_is_its_pixels() -> None:
    image = from_array(np.dstack([RGB16, RGB16[..., 0]]))
    array = np.asarray(image)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, image.pixels)
    assert np.shares_memory(array, image.pixels)
    assert np.shares_memory(np.array(image, copy=False), image.pixels)


def test_a_copy_of_an_image_is_not_its_pixels() -> None:
    image = from_array(RGB)
    copy = np.array(image)
    copy[:] = 2
    np.testing.assert_array_equal(image.pixels, from_array(RGB).pixels)


def test_an_image_is_an_array_of_another_type() -> None:
    image = from_array(RGB)
    doubled = np.asarray(image, dtype=np.float64)
    assert doubled.dtype == np.float64
    np.testing.assert_array_equal(doubled, image.pixels.astype(np.float64))
    with pytest.raises(ValueError, match="copy"):
        np.array(image, dtype=np.float64, copy=False)


def test_numbers_of_an_image_are_those_of_its_pixels() -> None:
    image = from_array(SMOOTH)
    assert float(np.mean(image)) == float(np.mean(image.pixels))
    np.testing.assert_array_equal(np.abs(np.subtract(image, image)), 0)


# ---- as shown


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (from_array(RGB), "Image(40x24, RGB, 8 bit)"),
        (from_array(RGB16), "Image(40x24, RGB, 16 bit)"),
        (from_array(EVERY_8), "Image(16x16, grey, 8 bit)"),
        (from_array(SMOOTH[:10, :, 0]), "Image(64x10, grey, 16 bit)"),
        (from_array(np.dstack([RGB, RGB[..., 0]])), "Image(40x24, RGB, 8 bit, alpha)"),
        (from_array(np.dstack([EVERY_8, EVERY_8])), "Image(16x16, grey, 8 bit, alpha)"),
        (replace(from_array(RGB), icc=SRGB), "Image(40x24, RGB, 8 bit, ICC profile)"),
        (
            replace(from_array(np.dstack([RGB16, RGB16[..., 0]])), icc=SRGB),
            "Image(40x24, RGB, 16 bit, alpha, ICC profile)",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_image_is_said_in_one_line(image: Image, expected: str) -> None:
    assert repr(image) == expected
    assert str(image) == expected
    assert f"{[image]}" == f"[{expected}]"


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((1, 1), (1, 1)),
        ((40, 24), (40, 24)),
        ((THUMBNAIL, 300), (THUMBNAIL, 300)),
        ((THUMBNAIL + 1, THUMBNAIL + 1), (512, 512)),
        ((2048, 1024), (512, 256)),
        ((300, 1200), (128, 512)),
        ((3000, 1), (512, 1)),
    ],
)
def test_a_notebook_shows_a_png_of_at_most_512_pixels_a_side(
    size: tuple[int, int], shown: tuple[int, int]
) -> None:
    data = from_array(np.full((size[1], size[0]), 51, np.uint8))._repr_png_()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    thumbnail = decode(data)
    assert thumbnail.size == shown
    assert max(shown) <= THUMBNAIL == 512
    np.testing.assert_array_equal(thumbnail.pixels, np.float32(51 / 255))


@pytest.mark.parametrize("samples", [RGB, RGB16, EVERY_8, np.dstack([RGB, RGB[..., 0]])])
def test_a_small_picture_is_shown_as_it_is_in_8_bit(samples: np.ndarray) -> None:
    image = from_array(samples)
    thumbnail = decode(image._repr_png_())
    assert thumbnail.depth == 8
    np.testing.assert_array_equal(np.rint(thumbnail.pixels * 255), np.rint(image.pixels * 255))
