"""Pictures from memory are those of the files, to the bit, in no more bytes than allowed."""

import dataclasses
from unittest import mock

import numpy as np
import pytest

from pairs import Place, texture
from refusion.data import cache as module
from refusion.data.cache import PictureCache
from refusion.imaging.formats import read


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_kept_picture_is_that_of_the_file(dtype: type[np.generic], channels: int, place: Place) -> None:
    depth = 8 * np.dtype(dtype).itemsize
    samples = np.random.default_rng(0).integers(0, 2**depth, (7, 9, channels)).astype(dtype)
    path = place("a.png", samples)
    cache = PictureCache(10**6)
    first = cache.read(path)
    with mock.patch.object(module, "read", side_effect=AssertionError("read twice")):
        second = cache.read(path)
    for field in dataclasses.fields(first):
        expected = getattr(read(path), field.name)
        for image in (first, second):
            assert np.array_equal(getattr(image, field.name), expected), field.name
    alpha = 7 * 9 * 4 if channels == 4 else 0
    assert 10**6 - cache.free == 7 * 9 * 3 * depth // 8 + alpha
    second.pixels[...] = 0
    assert cache.read(path).pixels.any()


def test_what_has_no_room_is_read_again(place: Place) -> None:
    paths = [place(f"{i}.tif", texture(i, 4, 5)) for i in range(3)]
    cache = PictureCache(2 * 4 * 5 * 3 * 2)
    with mock.patch.object(module, "read", side_effect=read) as reading:
        for _ in range(2):
            for path in paths:
                assert np.array_equal(cache.read(path).pixels, read(path).pixels)
    assert [call.args[0] for call in reading.call_args_list] == [*paths, paths[2]]


def test_pixels_between_the_steps_of_the_depth_are_not_kept(place: Place) -> None:
    path = place("a.png", np.full((2, 2, 3), 7, np.uint8))
    between = dataclasses.replace(read(path), pixels=np.full((2, 2, 3), 0.3, np.float32))
    cache = PictureCache(100)
    with mock.patch.object(module, "read", return_value=between):
        assert cache.read(path) is between
        assert cache.read(path) is between
    assert cache.free == 100
