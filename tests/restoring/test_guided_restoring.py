"""Maps beside the picture: they reach the network through every codec, in tiles, for views and in batches."""

from typing import Any

import numpy as np
import pytest
import torch

from refusion.diffusion.sde import MeanRevertingSDE
from refusion.imaging.fill import harmonic_fill
from refusion.imaging.resize import Enlarge
from refusion.nn.nafnet import ConditionalNAFNet
from refusion.restoring.codec import Codec, Pixels, Pyramid
from refusion.restoring.latent_unet import LatentUNet
from refusion.restoring.request import Sampling
from refusion.restoring.restorer import Restorer
from restorers import TILED, ask, photo, small_restorer

ONE_STEP = Sampling(steps=1)


def latent() -> Codec:
    return LatentUNet(4, 8, (1, 2), unshuffle=2).requires_grad_(False).eval()


CODECS = {"pixels": lambda: Pixels(), "unshuffled": lambda: Pixels(4), "pyramid": lambda: Pyramid(16, 2)}
CODECS["latent"] = latent
every_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)


def guided(sde: MeanRevertingSDE, codec: Codec | None = None, count: int = 1, **options: Any) -> Restorer:
    codec = codec or Pixels(2)
    channels = {"guides": count, "map_channels": codec.map_channels}
    return small_restorer(sde, codec, sampling=ONE_STEP, **channels, **options)


def half(height: int = 13, width: int = 22) -> np.ndarray:
    maps = np.zeros((1, height, width), np.float32)
    maps[:, :, width // 2 :] = 1
    return maps


@every_codec
def test_the_states_of_guides_lie_where_the_state_of_the_picture_is(codec: Any) -> None:
    codec = codec()
    mu = codec.encode(torch.rand(2, 3, 21, 34)).mu
    left = torch.zeros(2, 1, 21, 34)
    left[..., :17] = 1
    network = ConditionalNAFNet(codec.channels, 4, (1,), 1, (1,), guides=2, map_channels=codec.map_channels)
    maps, lq = torch.cat([left, 1 - left], dim=1), torch.rand_like(mu)
    seen = codec.seen(network, mu, maps, lq)
    assert seen.shape == (2, codec.seen_channels(network), *mu.shape[2:])
    assert torch.equal(seen[:, : mu.shape[1]], mu)
    first, second = seen[:, mu.shape[1] :].split(codec.map_channels, dim=1)
    torch.testing.assert_close(first + second, torch.ones_like(first))
    third = mu.shape[-1] // 3
    assert bool((first[..., :third] > 0.99).all() and (first[..., -third:] < 0.01).all())
    network.sees_lq = True
    both = codec.seen(network, mu, maps, lq)
    assert both.shape[1] == codec.seen_channels(network)
    assert torch.equal(both, torch.cat([seen, lq], dim=1))
    network.num_guides, network.sees_lq = 0, False
    assert codec.seen(network, mu, left[:, :0], lq) is mu


def test_unshuffled_guides_lose_nothing() -> None:
    codec, maps = Pixels(2), torch.rand(1, 1, 6, 8)
    assert torch.equal(torch.pixel_shuffle(codec.encode_guides(maps), 2), maps)


@every_codec
def test_a_guide_changes_the_result_and_none_is_zero(sde: MeanRevertingSDE, codec: Any) -> None:
    restore, lq = guided(sde, codec()), photo()
    told, plain = restore(lq, guides=half()).pixels, restore(lq).pixels
    assert np.abs(told - plain).max() > 1e-3
    np.testing.assert_array_equal(restore(lq, guides=np.zeros_like(half())).pixels, plain)


def test_a_network_without_guides_refuses_one_and_one_with_them_another_number(sde: MeanRevertingSDE) -> None:
    with pytest.raises(ValueError, match=r"^1 guides: this model takes none$"):
        small_restorer(sde)(photo(), guides=half())
    with pytest.raises(ValueError, match=r"^2 guides: this model takes 1$"):
        guided(sde)(photo(), guides=half().repeat(2, 0))


def test_tiles_see_their_part_of_a_guide(sde: MeanRevertingSDE) -> None:
    restore, lq = guided(sde, Pixels()), photo(90, 100)
    maps = np.random.default_rng(1).random((1, 90, 100))
    one, other = (restore(lq, guides=maps, policy=TILED, tile=side) for side in (128, 200))
    np.testing.assert_allclose(one.pixels, other.pixels, atol=1e-5)
    assert np.abs(one.pixels - restore(lq, policy=TILED).pixels).max() > 1e-2


def test_two_views_share_a_guide_or_have_their_own(sde: MeanRevertingSDE) -> None:
    restore = guided(sde, stereo=True, downscale=1)
    left, right = photo(), photo()[:, ::-1].copy()
    shared = restore.restore_views((left, right), guides=half())
    own = restore.restore_views((left, right), guides=np.stack([half(), half()]))
    other = restore.restore_views((left, right), guides=np.stack([half(), 1 - half()]))
    np.testing.assert_array_equal(shared[1].pixels, own[1].pixels)
    assert np.abs(other[1].pixels - own[1].pixels).max() > 1e-3


def test_a_batch_takes_a_guide_for_each_picture(sde: MeanRevertingSDE) -> None:
    restore = guided(sde)
    lq = torch.from_numpy(np.stack([photo(), photo()])).permute(0, 3, 1, 2).contiguous()
    maps = torch.from_numpy(np.stack([half(), 0 * half()]))
    told, plain = restore.restore_batch(lq, maps).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(told, restore(photo(), guides=half()).pixels, atol=1e-5)
    np.testing.assert_allclose(plain, restore(photo()).pixels, atol=1e-5)


def test_guides_are_enlarged_with_their_picture(sde: MeanRevertingSDE) -> None:
    restore = guided(sde, enlarge=Enlarge(2))
    assert restore(photo(), guides=half()).size == (44, 26)


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (np.zeros((1, 13, 21)), "guide is 21x13 and the picture 22x13"),
        (np.full((1, 13, 22), 1.5), r"guide spans 1\.5 to 1\.5"),
        (np.zeros((2, 1, 13, 22)), "guides are 2x1x13x22"),
    ],
)
def test_a_wrong_guide_is_an_error_of_one_line(sde: MeanRevertingSDE, maps: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        guided(sde)(photo(), guides=maps)


# ---- models that fill holes


def filler(sde: MeanRevertingSDE, codec: Codec | None = None) -> Restorer:
    codec = codec or Pixels(2)
    network = ConditionalNAFNet(codec.channels, 4, (1,), 1, (1,), guides=1, map_channels=codec.map_channels)
    restorer = small_restorer(sde, codec, sampling=ONE_STEP)
    return Restorer(network.eval(), codec, sde, restorer.prediction, ONE_STEP, fill="harmonic")


def test_an_untrained_model_gives_the_harmonic_fill(sde: MeanRevertingSDE) -> None:
    mask = np.zeros((13, 22), np.float32)
    mask[3:9, 5:17] = 1
    filled = filler(sde)(photo(), mask=mask).pixels
    expected = harmonic_fill(torch.from_numpy(photo()).permute(2, 0, 1), torch.from_numpy(mask)[None])
    np.testing.assert_allclose(filled, expected.permute(1, 2, 0).numpy(), atol=1e-6)


def test_the_mask_is_the_guide(sde: MeanRevertingSDE) -> None:
    mask = np.zeros((13, 22), np.float32)
    mask[3:9, 5:17] = 1
    restore = filler(sde)
    told = guided(sde)
    scene = restore._scene(restore.request(photo(), mask=0.5 * mask))
    np.testing.assert_array_equal(scene.guides[0].numpy(), mask[None])
    filled = scene.tensor()[0].permute(1, 2, 0).numpy()
    seen = Restorer(told.network, told.codec, sde, told.prediction, ONE_STEP, fill="harmonic")
    made = seen(photo(), mask=mask).pixels
    expected = told(filled, guides=mask[None]).pixels
    np.testing.assert_array_equal(made[mask > 0], expected[mask > 0])
    np.testing.assert_array_equal(made[mask == 0], photo()[mask == 0])


def test_without_a_mask_there_is_nothing_to_fill(sde: MeanRevertingSDE) -> None:
    with pytest.raises(ValueError, match="a mask"):
        ask(filler(sde), photo())
