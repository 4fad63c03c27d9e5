"""The codec of latent Refusion: its laws, tiles that are the whole, then the published network's numbers."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from refusion.errors import Notice
from refusion.restoring.latent_unet import LatentUNet
from restorers import said

ROUNDING = 1e-4
"""Of float32 through the published shape; how much of it there is depends on the processor's kernels."""
SHAPES: dict[str, dict[str, Any]] = {
    "ours": {"latent_channels": 4, "width": 8},
    "published": {
        "latent_channels": 4,
        "width": 4,
        "multipliers": (2, 2, 3),
        "unshuffle": 1,
        "attention": True,
    },
    "one level": {"width": 8, "multipliers": (2,), "unshuffle": 2, "attention": True},
    "four levels": {"width": 2, "multipliers": (1, 2, 2, 3), "unshuffle": 1},
    "no skips": {"width": 8, "skips": 0},
    "outer skips": {"width": 4, "multipliers": (2, 2, 3), "unshuffle": 1, "skips": 1},
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


def alive(**sizes: Any) -> LatentUNet:
    """A codec whose statistics count, and that keeps far and near in balance."""
    torch.manual_seed(4)
    codec = LatentUNet(**sizes).requires_grad_(False).eval()
    for parameter in codec.parameters():
        if parameter.ndim == 4 and parameter.shape[-1] > 1:
            nn.init.normal_(parameter, std=1.5 / parameter[0].numel() ** 0.5)
    codec.latent_mean.normal_()
    codec.latent_std.uniform_(0.5, 2)
    return codec


def picture(height: int, width: int, batch: int = 1, seed: int = 5) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


# ---- laws


@shapes
@pytest.mark.parametrize("size", [(1, 1), (3, 3), (17, 23), (1, 40)])
def test_any_size_goes_in_and_comes_out(shape: dict[str, Any], size: tuple[int, int]) -> None:
    codec, image = alive(**shape), picture(*size, batch=2)
    mu, features, kept = codec.encode(image)
    padded = [side + -side % codec.multiple for side in size]
    assert mu.shape == (2, codec.channels, *(side // codec.factor for side in padded))
    assert kept == size
    back = codec.decode(mu, features, kept)
    assert back.shape == image.shape
    assert back.isfinite().all()


@pytest.mark.parametrize(("skips", "count"), [(0, 0), (1, 3), (2, 5), (None, 5)])
def test_features_are_those_of_the_levels_that_skip(skips: int | None, count: int) -> None:
    codec = alive(width=4, skips=skips)
    mu, features, size = codec.encode(picture(20, 30))
    assert len(features) == count
    before = codec.decode(mu, features, size)
    for i, feature in enumerate(features):
        others = [*features[:i], torch.zeros_like(feature), *features[i + 1 :]]
        assert (codec.decode(mu, tuple(others), size) - before).abs().max() > 1e-3, i
    assert (codec.decode(mu + 0.1, features, size) - before).abs().max() > 1e-3


def test_a_state_is_its_latent_in_the_statistics_of_pictures() -> None:
    codec, image = alive(width=4), picture(20, 30)
    latent, features = codec.latent(image)
    state = codec.encode(image).mu
    expected = 0.5 + (latent - codec.latent_mean) / codec.latent_std / 4
    torch.testing.assert_close(state, expected, rtol=0, atol=1e-6)
    rebuilt = codec.picture(latent, features, (20, 30))
    torch.testing.assert_close(codec.decode(state, features, (20, 30)), rebuilt, rtol=0, atol=1e-4)


def test_calibrated_states_have_mean_one_half_and_deviation_one_quarter() -> None:
    codec = alive(width=4)
    images = [picture(40, 56, seed=seed) for seed in range(3)]
    codec.calibrate(images)
    states = torch.cat([codec.encode(image).mu for image in images]).transpose(0, 1).flatten(1)
    torch.testing.assert_close(states.mean(1), torch.full((codec.channels,), 0.5), rtol=0, atol=1e-4)
    torch.testing.assert_close(states.std(1), torch.full((codec.channels,), 0.25), rtol=0, atol=1e-4)


@pytest.mark.parametrize("tile", [None, 32])
def test_nothing_is_remembered_between_calls(tile: int | None) -> None:
    codec = alive(width=4)
    used = codec.tiled(tile) if tile else codec
    images = [picture(*size) for size in ((40, 20), (3, 3), (17, 60))]
    before = {name: value.clone() for name, value in codec.state_dict().items()}, dict(vars(codec))
    encoded = [used.encode(image) for image in images]
    for image, (mu, features, size) in reversed(list(zip(images, encoded, strict=True))):
        alone = codec.decode(*codec.encode(image))
        torch.testing.assert_close(used.decode(mu, features, size), alone, rtol=0, atol=1e-5)
    assert vars(codec) == before[1]
    assert all(torch.equal(value, before[0][name]) for name, value in codec.state_dict().items())


def test_pictures_of_a_batch_do_not_touch() -> None:
    codec, images = alive(**SHAPES["published"]), picture(33, 22, batch=3)
    mu, features, size = codec.encode(images)
    back = codec.decode(mu, features, size)
    for i, image in enumerate(images):
        alone = codec.encode(image[None])
        torch.testing.assert_close(alone.mu[0], mu[i], rtol=0, atol=ROUNDING)
        torch.testing.assert_close(codec.decode(*alone)[0], back[i], rtol=0, atol=ROUNDING)


def test_padding_reflects_on_the_right_and_at_the_bottom() -> None:
    codec, image = alive(width=4), picture(20, 30)
    mirrored = torch.cat([image, image[..., 7:19, :].flip(-2)], dim=-2)
    mirrored = torch.cat([mirrored, mirrored[..., 27:29].flip(-1)], dim=-1)
    assert torch.equal(codec.padded(image), mirrored)
    assert torch.equal(codec.encode(mirrored).mu, codec.encode(image).mu)


# ---- tiles


@pytest.mark.slow
@shapes
@pytest.mark.parametrize("size", [(1, 1), (17, 150), (130, 101)])
def test_tiles_are_the_whole(shape: dict[str, Any], size: tuple[int, int]) -> None:
    codec, image = alive(**shape), picture(*size, batch=2)
    whole = codec.encode(image)
    expected = codec.decode(*whole)
    for tile in (40, 400):
        tiled = codec.tiled(tile)
        encoded = tiled.encode(image)
        torch.testing.assert_close(encoded.mu, whole.mu, rtol=0, atol=1e-5)
        assert encoded.size == whole.size
        torch.testing.assert_close(tiled.decode(*encoded), expected, rtol=0, atol=1e-5)


@pytest.mark.slow
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 100))
@example(16, 64, 16)
def test_tiles_are_the_whole_at_every_size(height: int, width: int, tile: int) -> None:
    codec, image = alive(width=2, multipliers=(1, 2), unshuffle=2), picture(height, width)
    tiled = codec.tiled(tile)
    expected = codec.decode(*codec.encode(image))
    torch.testing.assert_close(tiled.decode(*tiled.encode(image)), expected, rtol=0, atol=1e-5)


def test_tiles_decode_other_states() -> None:
    """As after a diffusion."""
    codec, image = alive(**SHAPES["published"]), picture(100, 90)
    tiled, whole = codec.tiled(32), codec.encode(image)
    state = torch.rand_like(whole.mu)
    expected = codec.decode(state, whole.features, whole.size)
    decoded = tiled.decode(state, tiled.encode(image).features, whole.size)
    torch.testing.assert_close(decoded, expected, rtol=0, atol=ROUNDING)


@shapes
def test_reach_covers_all_that_a_window_depends_on(shape: dict[str, Any]) -> None:
    """Down it is exact; up it ends where the deepest level's positions do."""
    codec = alive(**{**shape, "attention": False}).double()
    down, up = codec.reach
    factor, multiple = codec.factor, codec.multiple
    start = (max(down, up) // multiple + 1) * multiple
    stop = start + multiple
    image = picture(multiple, stop + start).double().requires_grad_()
    x, outer = codec.descend(image)
    made = x[..., start // factor : stop // factor]
    (gradient,) = torch.autograd.grad((made * torch.rand_like(made)).sum(), image)
    felt = gradient.abs().amax((0, 1, 2)).nonzero().flatten()
    assert felt[0] // codec.unshuffle == (start - down) // codec.unshuffle
    assert felt[-1] // codec.unshuffle == (stop + down - 1) // codec.unshuffle

    deepest = codec.rise(torch.rand_like(codec.bottom(x)[0]), codec.bottom(x)[1]).detach().requires_grad_()
    made = codec.ascend(deepest, outer)[..., start:stop]
    (gradient,) = torch.autograd.grad((made * torch.rand_like(made)).sum(), deepest)
    felt = gradient.abs().amax((0, 1, 2)).nonzero().flatten()
    assert torch.equal(felt, torch.arange((start - up) // factor, (stop + up) // factor))


def test_where_memory_ends_tiles_halve(monkeypatch: pytest.MonkeyPatch) -> None:
    codec, image, notices = alive(width=4), picture(130, 200), list[Notice]()
    expected = codec.decode(*codec.encode(image))
    descend = codec.descend

    def narrow(window: Tensor) -> Any:
        if window.shape[-1] > 170:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return descend(window)

    monkeypatch.setattr(codec, "descend", narrow)
    tiled = codec.tiled(200, 32, notices.append)
    torch.testing.assert_close(tiled.decode(*tiled.encode(image)), expected, rtol=0, atol=1e-5)
    assert said(notices) == [("out-of-memory", "info", [side]) for side in ("100", "50", "32")]
    monkeypatch.setattr(codec, "ascend", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        tiled.decode(*tiled.encode(image))


def test_outer_features_are_not_kept_whole() -> None:
    codec = alive(width=4)
    features = codec.tiled(32).encode(picture(160, 160)).features
    assert [feature.shape[1:] for feature in features] == [(3, 160, 160), (4, 20, 20), (4, 20, 20)]
    kept = sum(feature.numel() for feature in codec.encode(picture(160, 160)).features)
    assert kept > 3 * 4 * 40 * 40


# ---- errors


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"multipliers": ()}, "at least one multiplier"),
        ({"width": 0}, "width 0"),
        ({"skips": 3}, "skips is 3: give 0 to 2"),
        ({"skips": -1}, "skips is -1"),
    ],
)
def test_wrong_sizes_are_errors(wrong: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        LatentUNet(**wrong)


# ---- published numbers


@pytest.fixture(scope="module")
def golden(golden_folder: Path) -> dict[str, Tensor]:
    """Of the published class; golden/README.md names them."""
    return load_file(golden_folder / "latent_unet_small.safetensors")


@pytest.fixture(scope="module")
def published(golden: dict[str, Tensor]) -> LatentUNet:
    codec = LatentUNet(4, 8, (1, 2), unshuffle=1, attention=True).requires_grad_(False)
    state = {name.removeprefix("state/"): x for name, x in golden.items() if name.startswith("state/")}
    missing, unexpected = codec.load_state_dict(state, strict=False)
    assert sorted(missing) == ["latent_mean", "latent_std"]  # which are ours
    assert unexpected == []
    return codec


@pytest.mark.parametrize("case", range(3))
def test_published_outputs(published: LatentUNet, golden: dict[str, Tensor], case: int) -> None:
    x, latent, recon, latent2, mixed = (
        golden[f"{case}/{name}"] for name in ("x", "latent", "recon", "latent2", "decode_latent2_hidden1")
    )
    size = (x.shape[-2], x.shape[-1])
    ours, features = published.latent(x)
    torch.testing.assert_close(ours, latent, rtol=0, atol=1e-5)
    torch.testing.assert_close(published.picture(ours, features, size), recon, rtol=0, atol=1e-5)
    torch.testing.assert_close(published.picture(latent2, features, size), mixed, rtol=0, atol=1e-5)
    assert (mixed - recon).abs().max() > 1e-4


def test_published_features(published: LatentUNet, golden: dict[str, Tensor]) -> None:
    _, features = published.latent(golden["2/x"])
    assert len(features) == 5
    for i, feature in enumerate(features):
        torch.testing.assert_close(feature, golden[f"2/hidden/{i}"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "count", "parameters", "digest"),
    [
        (
            (8, 8, (4, 8, 8, 16)),
            69,
            2_007_859,
            "156ef01867bf8da505a2db9a64133aaf5090a0816f8464a12f0f79acfad9eedc",
        ),
        (
            (4, 64, (1, 2, 4)),
            55,
            6_155_139,
            "172a5ed72250d470d788b8256849ad258cef52698edece18578c550ed7e91e4a",
        ),
    ],
    ids=["dehazing", "bokeh"],
)
def test_published_names_and_shapes(shape: tuple[Any, ...], count: int, parameters: int, digest: str) -> None:
    """The digest is of the published state dict's names and shapes."""
    with torch.device("meta"):
        codec = LatentUNet(*shape, unshuffle=1, attention=True)
    state = {name: tuple(x.shape) for name, x in codec.state_dict().items()}
    assert (state.pop("latent_mean"), state.pop("latent_std")) == ((shape[0], 1, 1), (shape[0], 1, 1))
    assert (len(state), sum(p.numel() for p in codec.parameters())) == (count, parameters)
    listed = "\n".join(f"{name} {x}" for name, x in sorted(state.items()))
    assert hashlib.sha256(listed.encode()).hexdigest() == digest
