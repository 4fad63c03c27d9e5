"""A mean stage takes the place of mu; texture leads from it to a sample."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from refusion.diffusion.sde import MeanRevertingSDE
from refusion.errors import Cancelled
from refusion.restoring.codec import Codec, Pixels
from refusion.restoring.latent_unet import LatentUNet
from refusion.restoring.mean import estimated_mean
from refusion.restoring.request import Sampling
from refusion.restoring.restorer import Restorer
from restorers import TILED, photo, small_restorer

THREE_STEPS = Sampling(steps=3)
NO_GUIDES = torch.zeros(1, 0, 14, 22)


def with_mean(sde: MeanRevertingSDE, codec: Codec | None = None, **network: Any) -> Restorer:
    """A restorer whose mean has weights other than its network."""
    restore = small_restorer(sde, codec, sampling=THREE_STEPS, **network)
    mean = small_restorer(sde, codec, **{**network, "sees_lq": False}).network
    torch.manual_seed(7)
    for parameter in mean.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return replace(restore, mean=mean)


def test_mu_is_the_estimate_of_the_mean(sde: MeanRevertingSDE) -> None:
    restore, lq = with_mean(sde), photo(14, 22)  # even sides, so that there is no padding
    assert restore.mean is not None
    mu, _, size = restore.codec.encode(torch.from_numpy(lq).permute(2, 0, 1)[None])
    mean = estimated_mean(restore.mean, sde, restore.codec, mu, NO_GUIDES)
    expected = mu + restore.mean(mu, mu, torch.tensor([float(sde.steps)]))
    torch.testing.assert_close(mean, expected.clamp(0, 1))
    decoded = restore.codec.decode(mean, (), size)[0].permute(1, 2, 0).clamp(0, 1)
    np.testing.assert_allclose(restore(lq, texture=0).pixels, decoded, atol=1e-6)
    without = replace(restore, mean=None)(decoded.numpy())
    np.testing.assert_allclose(restore(lq).pixels, without.pixels, atol=1e-5)


def test_texture_interpolates_from_the_mean_to_a_sample(sde: MeanRevertingSDE) -> None:
    restore = with_mean(sde)
    mean, half, full = (restore(photo(), texture=texture).pixels for texture in (0, 0.5, 1))
    np.testing.assert_allclose(half, (mean + full) / 2, atol=1e-6)
    assert np.abs(full - mean).max() > 0.01
    np.testing.assert_array_equal(restore(photo()).pixels, full)


def test_the_mean_takes_no_step(sde: MeanRevertingSDE, monkeypatch: pytest.MonkeyPatch) -> None:
    restore = with_mean(sde)
    calls = []
    restore.network.register_forward_hook(lambda *_: calls.append(1))
    progress: list[tuple[int, int]] = []
    restore.run(restore.request(photo(), texture=0), lambda at: progress.append((at.done, at.total)))
    assert (calls, progress) == ([], [(1, 1)])
    restore.run(restore.request(photo(), texture=0.1), lambda at: progress.append((at.done, at.total)))
    assert (len(calls), progress[1:]) == (3, [(1, 3), (2, 3), (3, 3)])


@pytest.mark.parametrize(
    "codec", [Pixels(), LatentUNet(4, 8, (1, 2), unshuffle=2).requires_grad_(False).eval()]
)
def test_mean_in_tiles_is_that_of_the_whole(sde: MeanRevertingSDE, codec: Codec) -> None:
    restore, lq = with_mean(sde, codec), photo(90, 100)
    one, other = (restore(lq, texture=0, policy=TILED, tile=side) for side in (128, 200))
    np.testing.assert_allclose(one.pixels, other.pixels, atol=1e-5)


def test_conditions_and_guides_reach_the_mean(sde: MeanRevertingSDE) -> None:
    restore = with_mean(sde, conditions=2, guides=1, map_channels=4)
    guides = np.ones((1, *photo().shape[:2]), np.float32)
    results = [
        restore(photo(), condition=condition, guides=given, texture=0).pixels
        for condition, given in (((0.0, 1.0), None), ((9.0, 1.0), None), ((0.0, 1.0), guides))
    ]
    for changed in results[1:]:
        assert np.abs(changed - results[0]).max() > 1e-3


def test_a_network_sees_the_degraded_picture_beside_the_mean(sde: MeanRevertingSDE) -> None:
    restore = with_mean(sde, sees_lq=True)
    seen = []
    restore.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    lq = photo(14, 22)
    restore(lq)
    mu = restore.codec.encode(torch.from_numpy(lq).permute(2, 0, 1)[None]).mu
    assert restore.mean is not None
    mean = estimated_mean(restore.mean, sde, restore.codec, mu, NO_GUIDES)
    for beside in seen:
        torch.testing.assert_close(beside, torch.cat([mean, mu], dim=1))
    assert len(seen) == 3


def test_the_degraded_picture_in_tiles_is_that_of_the_whole(sde: MeanRevertingSDE) -> None:
    restore, lq = with_mean(sde, sees_lq=True), photo(90, 100)
    one, other = (restore(lq, policy=TILED, tile=side) for side in (128, 200))
    np.testing.assert_allclose(one.pixels, other.pixels, atol=1e-5)


def test_of_the_mean_there_is_one_sample_and_it_can_be_cancelled(sde: MeanRevertingSDE) -> None:
    restore = with_mean(sde)
    with pytest.raises(ValueError, match=r"samples is 3 and texture 0"):
        restore.request(photo(), texture=0, samples=3)
    assert restore.run(restore.request(photo(), texture=0.1, samples=3)).std is not None
    with pytest.raises(Cancelled):
        restore.run(restore.request(photo(), texture=0), cancel=lambda: True)


def test_texture_needs_a_mean_and_a_share(sde: MeanRevertingSDE) -> None:
    with pytest.raises(ValueError, match=r"texture is 0\.5.*no mean"):
        small_restorer(sde)(photo(), texture=0.5)
    with pytest.raises(ValueError, match=r"texture is 1\.5"):
        Sampling(texture=1.5)
