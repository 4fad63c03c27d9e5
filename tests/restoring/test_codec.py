"""What a codec takes apart it puts together again, whatever the size and whatever was encoded in between."""

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from refusion.errors import Notice, Report
from refusion.restoring.codec import Codec, Pixels, Pyramid, codec_with_tiling
from refusion.restoring.latent_unet import LatentUNet
from refusion.restoring.tiling import DEFAULT_MIN_TILE, TilingPolicy, ignore
from restorers import said

sides = st.integers(1, 40)
seeds = st.integers(0, 99)


def picture(height: int, width: int, seed: int = 0, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def there_and_back(codec: Codec, image: Tensor) -> Tensor:
    mu, features, size = codec.encode(image)
    return codec.decode(mu, features, size)


# ---- laws


@given(sides, sides, st.integers(1, 5), seeds)
@example(1, 1, 4, 0)
@example(3, 3, 4, 0)
@example(1, 37, 2, 0)
def test_pixels_come_back_exactly(height: int, width: int, factor: int, seed: int) -> None:
    image = picture(height, width, seed, batch=2)
    assert torch.equal(there_and_back(Pixels(factor), image), image)


@given(sides, sides, st.integers(1, 4), st.integers(4, 32), seeds)
@example(1, 1, 4, 4, 0)
@example(3, 3, 4, 208, 0)
@example(1, 40, 2, 8, 0)
@example(40, 1, 4, 4, 0)
def test_a_pyramid_comes_back(height: int, width: int, factor: int, longest_side: int, seed: int) -> None:
    image = picture(height, width, seed, batch=2)
    back = there_and_back(Pyramid(longest_side, factor), image)
    torch.testing.assert_close(back, image, rtol=0, atol=1e-6)


@given(sides, sides, st.integers(1, 300), st.integers(4, 32), seeds)
@example(40, 1, 3, 4, 0)
@example(1, 40, 3, 4, 0)
@example(3, 3, 1, 32, 0)
def test_a_pyramid_in_strips_is_the_whole_one(
    height: int, width: int, strip: int, longest_side: int, seed: int
) -> None:
    """Bit for bit where it encodes, and within rounding where it decodes."""
    image, codec = picture(height, width, seed, batch=2), Pyramid(longest_side, 2)
    change = 0.2 * picture(1, 1, seed + 1)[:, :1]
    whole = codec.encode(image)
    expected = codec.decode(whole.mu + change, whole.features, whole.size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("refusion.restoring.codec.MAX_WHOLE", 0)
        patch.setattr("refusion.restoring.codec.STRIP", strip)
        mu, features, size = codec.encode(image)
        decoded = codec.decode(mu + change, features, size)
    assert torch.equal(mu, whole.mu)
    torch.testing.assert_close(decoded, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("codec", [Pixels(4), Pyramid(8, 2)], ids=repr)
@pytest.mark.parametrize("size", [(9, 1), (1, 9), (20, 30)])
def test_the_layout_in_memory_changes_nothing(codec: Codec, size: tuple[int, int]) -> None:
    image = picture(*size)
    channels_last = image.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    torch.testing.assert_close(codec.encode(channels_last).mu, codec.encode(image).mu, rtol=0, atol=1e-6)


@pytest.mark.parametrize("codec", [Pixels(), Pixels(4), Pyramid(8, 2), Pyramid(64, 4)], ids=repr)
def test_nothing_is_remembered_between_calls(codec: Codec) -> None:
    """Sizes and features travel with the value: encodings of other sizes in between change nothing."""
    images = [picture(*size, seed) for seed, size in enumerate([(12, 20), (3, 3), (33, 7), (1, 1)])]
    before = dict(vars(codec))
    encoded = [codec.encode(image) for image in images]
    for image, (mu, features, size) in reversed(list(zip(images, encoded, strict=True))):
        torch.testing.assert_close(codec.decode(mu, features, size), image, rtol=0, atol=1e-6)
    assert vars(codec) == before
    assert not codec.state_dict()


@pytest.mark.parametrize("codec", [Pixels(4), Pyramid(8, 2)], ids=["pixels", "pyramid"])
def test_pictures_of_a_batch_do_not_touch(codec: Codec) -> None:
    images = picture(13, 22, batch=3)
    together = codec.encode(images)
    for i, image in enumerate(images):
        alone = codec.encode(image[None])
        assert torch.equal(together.mu[i : i + 1], alone.mu)
        assert together.size == alone.size


@given(sides, sides, seeds)
def test_states_are_in_their_bounds(height: int, width: int, seed: int) -> None:
    image = picture(height, width, seed).round()
    for codec in (Pixels(3), Pyramid(8, 2)):
        mu = codec.encode(image).mu
        assert codec.bounds is not None
        assert codec.bounds[0] <= mu.min()
        assert mu.max() <= codec.bounds[1] + 1e-6
        assert mu.shape[:2] == (1, codec.channels)


# ---- Pixels


def test_pixels_without_a_factor_are_the_picture() -> None:
    image = picture(5, 7)
    mu, features, size = Pixels().encode(image)
    assert torch.equal(mu, image)
    assert (features, size) == ((), (5, 7))


def test_a_factor_makes_squares_channels() -> None:
    image = picture(5, 6)
    mu = Pixels(2).encode(image).mu
    assert mu.shape == (1, 12, 3, 3)
    torch.testing.assert_close(mu[0, :4, 1, 2], image[0, 0, 2:4, 4:6].flatten())
    # Below the last row the border is repeated, and not zero.
    assert torch.equal(mu[0, 2, 2], image[0, 0, 4, 0::2])


# ---- Pyramid


@pytest.mark.parametrize("size", [(50, 30), (33, 64), (200, 3), (17, 17)])
def test_large_pictures_are_reduced_to_the_longest_side(size: tuple[int, int]) -> None:
    mu, (image, before), reduced = Pyramid(16, 4).encode(picture(*size))
    assert max(reduced) == 16
    assert min(reduced) == max(1, round(16 * min(size) / max(size)))
    assert image.shape[-2:] == size
    assert before.shape[-2:] == reduced
    assert mu.shape[-2:] == tuple(math.ceil(n / 4) for n in reduced)


@pytest.mark.parametrize("size", [(16, 16), (5, 16), (1, 1), (3, 3)])
def test_small_pictures_are_not_enlarged(size: tuple[int, int]) -> None:
    image = picture(*size)
    codec = Pyramid(16, 4)
    mu, (_, before), reduced = codec.encode(image)
    assert reduced == size
    light = torch.log1p(image / 0.05) / math.log1p(1 / 0.05)
    torch.testing.assert_close(mu, Pixels(4).encode(light).mu)
    torch.testing.assert_close(before, light)


@given(st.floats(-0.3, 0.3), st.floats(0.02, 0.5), seeds)
def test_equal_light_in_the_reduced_picture_multiplies_the_details(
    change: float, dark: float, seed: int
) -> None:
    """Adding to the state multiplies x + dark everywhere by one number, details as all else."""
    codec, image = Pyramid(8, 2, dark), picture(21, 34, seed)
    mu, features, size = codec.encode(image)
    changed = codec.decode(mu + change, features, size)
    gain = math.exp(change * math.log1p(1 / dark))
    torch.testing.assert_close(changed, gain * (image + dark) - dark, rtol=1e-5, atol=1e-5)


def test_the_curve_spans_the_range() -> None:
    codec = Pyramid(8, 1)
    ends = torch.tensor([0.0, 1.0])[None, None, None].expand(1, 3, 1, 2)
    torch.testing.assert_close(codec.encode(ends).mu, ends)


def test_pixels_may_do_without_bounds() -> None:
    assert Pixels(2).bounds == (0, 1)
    assert Pixels(2, bounded=False).bounds is None


# ---- tiles


WHOLE = math.isqrt(300 * 200 - 1) + 1
"""The least side of a square of no fewer pixels than 300 x 200."""


class Hungry(Pixels):
    """Says that it takes much memory, and what tiles it was asked for."""

    working_bytes = 1000
    asked: tuple[int, int] | None = None

    def tiled(self, tile: int, smallest: int = DEFAULT_MIN_TILE, report: Report = ignore) -> Codec:
        other = Hungry()
        other.asked = (tile, smallest)
        return other


def chosen(free: int, tile: int | None = None, batch: int = 1, **policy: int) -> tuple[int, int] | None:
    """Side and smallest side of the tiles for a picture of 300 x 200, None for the whole."""
    codec, notices = Hungry(), list[Notice]()
    given = picture(200, 300, batch=batch)
    found = codec_with_tiling(codec, given, free, tile, TilingPolicy(**policy), notices.append)
    assert isinstance(found, Hungry)
    assert (found is codec) == (found.asked is None)
    if found.asked is None:
        assert notices == []
    else:
        side, gib = str(found.asked[0]), f"{free / 2**30:.1f}"
        assert said(notices) == [("codec-tiled", "info", ["300", "200", side, gib])]
    return found.asked


def test_a_codec_is_tiled_where_half_of_the_free_bytes_do_not_hold_the_picture() -> None:
    enough = 2 * 1000 * WHOLE**2
    assert chosen(enough) is None
    assert chosen(enough - 2, min_tile=32) == (math.isqrt((WHOLE**2 - 1) // 2), 32)
    assert chosen(enough, batch=2, min_tile=32) == (WHOLE // 2, 32)
    assert chosen(1) == (128, 128)


def test_a_tile_that_is_given_decides_and_one_that_holds_the_picture_is_the_whole() -> None:
    assert chosen(1, tile=WHOLE) is None
    assert chosen(2**50, tile=WHOLE - 1) == (WHOLE - 1, 128)
    assert chosen(2**50, tile=150) == (150, 128)


def test_the_policy_says_how_small_and_how_large_tiles_of_a_picture_are() -> None:
    assert chosen(1, min_tile=32) == (32, 32)
    assert chosen(2**50, max_window_bytes=2000 * 64**2, min_tile=32) == (64, 32)
    assert chosen(2**50, max_window_bytes=1000 * 300 * 300) is None


# ---- errors


@given(sides, sides, st.integers(1, 5))
def test_the_size_of_a_state_is_known_before_it_is_made(height: int, width: int, factor: int) -> None:
    for codec in (Pixels(factor), Pyramid(16, factor), LatentUNet(2, 4, (1, 2), factor)):
        assert codec.encode(picture(height, width)).mu.shape[-2:] == codec.state_size(height, width)


def test_wrong_sizes_are_errors() -> None:
    with pytest.raises(ValueError, match="factor is 0: give at least 1"):
        Pixels(0)
    with pytest.raises(ValueError, match="give at least 4"):
        Pyramid(3, 4)
    with pytest.raises(ValueError, match="above 0"):
        Pyramid(16, 4, dark=0)
