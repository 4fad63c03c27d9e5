"""A perfect network restores exactly through the whole path; a seed is a picture, in any company."""

import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

from refusion import restorer, tiling
from refusion.codec import Codec, Pixels, Pyramid
from refusion.errors import ImageError
from refusion.image import Image, from_array
from refusion.nn import ConditionalNAFNet, LatentUNet
from refusion.prediction import PREDICTIONS, Clean, Prediction
from refusion.restorer import SAMPLERS, Restorer, Sampling
from refusion.sampling import Step, posterior
from refusion.sde import MeanRevertingSDE

DARK = 0.05


class Oracle(nn.Module):
    """Knows the clean state and says it in the language of its prediction; counts its calls."""

    def __init__(self, x0: Tensor, sde: MeanRevertingSDE, prediction: Prediction) -> None:
        super().__init__()
        self.x0 = nn.Parameter(x0, requires_grad=False)
        self.sde, self.prediction = sde, prediction
        self.times: list[Tensor] = []
        self.embedded: list[list[float]] = []

    def embed(self, t: Tensor) -> Tensor:
        self.embedded.append(t.tolist())
        return t[:, None] * torch.ones(1, 7)

    def forward(self, x_t: Tensor, mu: Tensor, t: Tensor, embedding: Tensor) -> Tensor:
        assert t.shape == (len(x_t),)  # never squeezed, also of a batch of one
        assert torch.equal(embedding, t[:, None].expand(-1, 7))
        self.times.append(t)
        at, x0 = t.long(), self.x0.expand(x_t.shape)
        noise = self.sde.noise_from_clean(x_t, x0, mu, at)
        return self.prediction.target(self.sde, x0, mu, at, noise)


def pictures(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A degraded picture and a clean one that differs by light alone, as a pyramid can express it."""
    rng = np.random.default_rng(seed)
    lq = rng.uniform(0.1, 0.5, (height, width, 3)).astype(np.float32)
    return lq, 1.5 * (lq + np.float32(DARK)) - np.float32(DARK)


def oracle(codec: Codec, sde: MeanRevertingSDE, gt: np.ndarray, prediction: str = "clean") -> Restorer:
    kind = PREDICTIONS[prediction]
    state = codec.encode(torch.from_numpy(gt).permute(2, 0, 1)[None]).mu
    return Restorer(Oracle(state, sde, kind), codec, sde, kind)


@pytest.fixture(scope="session")
def make(sde: MeanRevertingSDE) -> Callable[..., Restorer]:
    """A small real network in which every weight counts."""

    def build(codec: Codec | None = None, **options: Any) -> Restorer:
        codec = codec or Pixels(2)
        torch.manual_seed(0)
        network = ConditionalNAFNet(codec.channels, 4, (1,), 1, (1,))
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.2)
        return Restorer(
            network.requires_grad_(False).eval(), codec, sde, Clean(), Sampling(**{"steps": 3, **options})
        )

    return build


CODECS = [Pixels(), Pixels(4), Pyramid(8, 2, DARK), Pyramid(208, 4, DARK)]


# ---- laws


@pytest.mark.parametrize("codec", CODECS, ids=["pixels", "unshuffled", "reduced", "pyramid"])
@pytest.mark.parametrize("steps", [1, 2, 5, 100])
def test_a_perfect_network_restores_exactly(sde: MeanRevertingSDE, codec: Codec, steps: int) -> None:
    lq, gt = pictures(13, 22)
    restored = oracle(codec, sde, gt)(lq, steps=steps)
    np.testing.assert_allclose(restored.pixels, gt, rtol=0, atol=3e-6)


@pytest.mark.parametrize("options", [{"sampler": n} for n in SAMPLERS if "euler" not in n] + [{"eta": 0.0}])
def test_with_every_sampler(sde: MeanRevertingSDE, options: dict[str, Any]) -> None:
    lq, gt = pictures(9, 11)
    for steps in (1, 2, 5, 100):
        restored = oracle(Pyramid(8, 2, DARK), sde, gt)(lq, steps=steps, **options)
        np.testing.assert_allclose(restored.pixels, gt, rtol=0, atol=3e-6)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_in_every_language(sde: MeanRevertingSDE, prediction: str) -> None:
    lq, gt = pictures(9, 11)
    restored = oracle(Pixels(2), sde, gt, prediction)(lq, steps=5)
    np.testing.assert_allclose(restored.pixels, gt, rtol=0, atol=2e-4)


@given(st.integers(1, 20), st.integers(1, 20))
@example(1, 1)
@example(3, 3)
def test_at_every_size(sde: MeanRevertingSDE, height: int, width: int) -> None:
    lq, gt = pictures(height, width)
    for codec in CODECS:
        restored = oracle(codec, sde, gt)(lq, steps=2)
        np.testing.assert_allclose(restored.pixels, gt, rtol=0, atol=3e-6)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_network_is_asked_once_a_step_and_the_times_embedded_once(
    sde: MeanRevertingSDE, steps: int
) -> None:
    lq, gt = pictures(8, 8)
    restore = oracle(Pixels(2), sde, gt)
    restore(lq, steps=steps)
    network = restore.network
    assert isinstance(network, Oracle)
    asked = [time.item() for time in network.times]
    assert len(asked) == steps
    assert network.embedded == [asked]
    assert asked[0] == 100
    assert asked == sorted(asked, reverse=True)


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (1, 9), (5, 7), (16, 16)])
def test_a_real_network_takes_every_size(make: Callable[..., Restorer], size: tuple[int, int]) -> None:
    lq, _ = pictures(*size)
    for codec in (Pixels(), Pixels(4), Pyramid(8, 2)):
        restored = make(codec)(lq)
        assert restored.pixels.shape == lq.shape
        assert restored.pixels.min() >= 0
        assert restored.pixels.max() <= 1


# ---- seeds and company


@pytest.mark.parametrize("sampler", ["posterior", "sde-2", "euler-maruyama"])
def test_a_seed_is_a_picture(make: Callable[..., Restorer], sampler: str) -> None:
    restore, (lq, _) = make(sampler=sampler), pictures(12, 10)
    first = restore(lq, seed=5).pixels
    torch.manual_seed(123)
    restore(lq, seed=6)
    np.testing.assert_array_equal(restore(lq, seed=5).pixels, first)
    assert np.abs(restore(lq, seed=6).pixels - first).max() > 1e-3
    np.testing.assert_array_equal(make(sampler=sampler, seed=5)(lq).pixels, first)


@pytest.mark.parametrize("codec", [Pixels(2), Pyramid(8, 2)], ids=["pixels", "pyramid"])
def test_a_batch_is_each_alone(make: Callable[..., Restorer], codec: Codec) -> None:
    """Whatever the other pictures are."""
    restore = make(codec)
    lq = torch.from_numpy(np.stack([pictures(9, 13, seed)[0] for seed in range(4)])).permute(0, 3, 1, 2)
    together = restore.restore_batch(lq)
    others = restore.restore_batch(torch.cat([lq[2:3], lq.flip(-1)]))
    assert together.shape == lq.shape
    for i in range(4):
        alone = restore.restore_batch(lq[i : i + 1])
        torch.testing.assert_close(together[i], alone[0], rtol=0, atol=2e-6)
    torch.testing.assert_close(others[0], together[2], rtol=0, atol=2e-6)
    alone_image = restore(lq[2].permute(1, 2, 0).numpy()).pixels
    np.testing.assert_allclose(together[2].permute(1, 2, 0), alone_image, rtol=0, atol=2e-6)


def test_nothing_is_remembered_between_pictures(make: Callable[..., Restorer]) -> None:
    restore, (lq, _) = make(Pyramid(8, 2)), pictures(21, 10)
    first = restore(lq).pixels
    walk = restore.trajectory(lq)
    next(walk)
    restore(pictures(5, 30)[0], steps=1, seed=9)
    *_, last = walk
    np.testing.assert_array_equal(last.pixels, first)


def test_the_input_is_left_alone(make: Callable[..., Restorer]) -> None:
    lq, _ = pictures(8, 8)
    before = lq.copy()
    make()(lq)
    np.testing.assert_array_equal(lq, before)


# ---- samples and trajectories


def test_samples_have_the_mean_and_deviation_of_single_calls(make: Callable[..., Restorer]) -> None:
    restore, (lq, _) = make(seed=2), pictures(9, 8)
    drawn = restore.samples(lq, 4, steps=2)
    alone = np.stack([restore(lq, steps=2, seed=2 + i).pixels for i in range(4)])
    np.testing.assert_allclose(drawn.mean.pixels, alone.mean(0), atol=1e-6)
    deviation = np.sqrt(alone.var(0, ddof=1).mean(-1))
    np.testing.assert_allclose(drawn.deviation, deviation, atol=1e-6)
    assert drawn.deviation.shape == (9, 8)
    assert drawn.deviation.mean() > 0.01


@pytest.mark.parametrize("count", [1, 0, -1])
def test_fewer_than_two_samples_are_an_error(make: Callable[..., Restorer], count: int) -> None:
    with pytest.raises(ValueError, match=f"count is {count}: a deviation needs at least 2"):
        make().samples(pictures(4, 4)[0], count)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_trajectory_ends_with_the_restoration(make: Callable[..., Restorer], steps: int) -> None:
    restore, (lq, _) = make(), pictures(7, 9)
    states = list(restore.trajectory(lq, steps=steps))
    assert len(states) == steps
    np.testing.assert_array_equal(states[-1].pixels, restore(lq, steps=steps).pixels)


def test_a_trajectory_works_only_as_far_as_it_is_asked(sde: MeanRevertingSDE) -> None:
    lq, gt = pictures(8, 8)
    restore = oracle(Pixels(2), sde, gt)
    next(restore.trajectory(lq, steps=50))
    assert isinstance(restore.network, Oracle)
    assert len(restore.network.times) == 1


# ---- large pictures


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Says how many bytes are free."""
    return lambda count: monkeypatch.setattr(restorer, "free_memory", lambda device: count)


@pytest.fixture
def latent() -> LatentUNet:
    torch.manual_seed(6)
    codec = LatentUNet(4, 4, (1, 2), 2, attention=True).requires_grad_(False).eval()
    for parameter in codec.parameters():
        nn.init.normal_(parameter, std=0.2)
    return codec


@pytest.fixture
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state of more than 40 x 40 positions is always tiled."""
    for name, value in {"LARGEST_WHOLE": 1600, "PATCH": 16, "SMALLEST_OF_STATE": 20}.items():
        monkeypatch.setattr(tiling, name, value)
    monkeypatch.setattr(tiling, "PATCHES", 6)


def test_without_memory_a_codec_works_in_tiles_and_the_picture_is_the_same(
    make: Callable[..., Restorer],
    latent: LatentUNet,
    free: Callable[[int], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    restore, (lq, _) = make(latent), pictures(150, 300)
    batch = torch.from_numpy(lq).permute(2, 0, 1)[None]
    with caplog.at_level(logging.INFO, "refusion"):
        free(2**40)
        whole = restore(lq).pixels
        assert caplog.messages == []
        free(2**20)
        calls: list[Callable[..., Any]] = [
            lambda **given: restore(lq, **given).pixels,
            lambda **given: list(restore.trajectory(lq, **given))[-1].pixels,
            lambda **given: restore.restore_batch(batch, **given)[0].permute(1, 2, 0).numpy(),
        ]
        for call in calls:
            np.testing.assert_allclose(call(), whole, rtol=0, atol=1e-4)
            assert caplog.messages == ["300x150: tiles of 128 pixels, 0.0 GiB free"]
            caplog.clear()
        free(2**40)
        np.testing.assert_allclose(restore(lq, tile=160).pixels, whole, rtol=0, atol=1e-4)
        assert caplog.messages == ["300x150: tiles of 160 pixels, 1024.0 GiB free"]
        caplog.clear()
        np.testing.assert_array_equal(restore(lq, tile=300).pixels, whole)  # which is the whole
        free(3 * 150 * 300 * latent.working_bytes)
        restore(lq)
        restore(pictures(20, 30)[0], tile=128)
        assert caplog.messages == []
        restore.restore_batch(batch.expand(2, -1, -1, -1))  # takes twice as much
        assert len(caplog.messages) == 1


def test_samples_share_one_encoding(
    make: Callable[..., Restorer], latent: LatentUNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore, (lq, _) = make(latent), pictures(20, 30)
    alone = np.stack([restore(lq, seed=i).pixels for i in range(3)])
    encoded, encode = [], latent.encode
    monkeypatch.setattr(latent, "encode", lambda image: encoded.append(1) or encode(image))
    np.testing.assert_allclose(restore.samples(lq, 3).mean.pixels, alone.mean(0), atol=1e-6)
    assert len(encoded) == 1


@pytest.mark.usefixtures("small_is_large")
@pytest.mark.parametrize("factor", [1, 4])
def test_a_large_state_walks_in_tiles_whatever_is_free(
    make: Callable[..., Restorer],
    free: Callable[[int], None],
    caplog: pytest.LogCaptureFixture,
    factor: int,
) -> None:
    restore, (lq, _) = make(Pixels(factor)), pictures(45 * factor, 60 * factor)
    results = []
    with caplog.at_level(logging.INFO, "refusion"):
        for available, tile in ((2**40, None), (2**10, None), (2**40, 128), (2**10, 160)):
            free(available)
            results.append(restore(lq, tile=tile).pixels)
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=0, atol=1e-4)
    line = re.compile(r"state of 60x45: tiles of (\d+), [\d.]+ GiB free")
    sides = [int(found[1]) for found in map(line.fullmatch, caplog.messages) if found]
    assert sides[1:] == [20, 128 // factor, 160 // factor]
    assert sides[0] > 1000


@pytest.mark.usefixtures("small_is_large")
def test_a_batch_of_large_pictures_is_each_alone(make: Callable[..., Restorer]) -> None:
    restore = make()
    lq = torch.from_numpy(np.stack([pictures(90, 110, seed)[0] for seed in range(2)])).permute(0, 3, 1, 2)
    together = restore.restore_batch(lq, tile=128)
    for i in range(2):
        torch.testing.assert_close(restore.restore_batch(lq[i : i + 1])[0], together[i], rtol=0, atol=1e-5)


@pytest.mark.usefixtures("small_is_large")
def test_where_memory_ends_on_the_way_the_picture_is_the_same(
    make: Callable[..., Restorer], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    restore, (lq, _) = make(), pictures(120, 180)
    expected = restore(lq).pixels
    forward = restore.network.forward

    def narrow(x_t: Tensor, *args: Any, **rest: Any) -> Tensor:
        if len(x_t) == 1 and x_t.shape[-1] > 50:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(x_t, *args, **rest)

    monkeypatch.setattr(restore.network, "forward", narrow)
    with caplog.at_level(logging.INFO, "refusion"):
        np.testing.assert_allclose(restore(lq, tile=160).pixels, expected, rtol=0, atol=1e-4)
    assert caplog.messages[1:] == ["out of memory: going on in tiles of 40"]  # once, not in every step


@pytest.mark.parametrize("codec", [Pixels(2), Pyramid(8, 2)], ids=["pixels", "pyramid"])
def test_codecs_without_a_network_are_their_own_tiles(codec: Codec) -> None:
    assert codec.tiled(128) is codec


# ---- what travels with a picture


def test_alpha_depth_grey_and_profile_pass_through(make: Callable[..., Restorer]) -> None:
    pixels = pictures(6, 5)[0]
    alpha = np.linspace(0, 1, 30, dtype=np.float32).reshape(6, 5)
    given = Image(pixels, alpha, 16, False, b"a profile")
    restored = make()(given)
    assert (restored.depth, restored.grey, restored.icc) == (16, False, b"a profile")
    np.testing.assert_array_equal(restored.alpha, alpha)
    grey = make()(from_array(np.full((6, 5), 77, np.uint8)))
    assert (grey.grey, grey.depth, grey.alpha, grey.icc) == (True, 8, None, None)


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float", "grey", "tensor", "pil", "image"])
def test_it_takes_all_that_from_array_takes(make: Callable[..., Restorer], kind: str) -> None:
    import PIL.Image

    eight = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    given = {
        "uint8": eight,
        "uint16": eight.astype(np.uint16) * 257,
        "float": eight / 255,
        "grey": eight[..., 0],
        "tensor": torch.from_numpy(eight).permute(2, 0, 1),
        "pil": PIL.Image.fromarray(eight),
        "image": from_array(eight),
    }[kind]
    restored = make()(given)
    assert restored.size == (7, 6)
    if kind != "grey":
        np.testing.assert_allclose(restored.pixels, make()(eight).pixels, atol=1e-6)


def test_colours_keep_their_places(sde: MeanRevertingSDE) -> None:
    """Neither RGB nor rows and columns are ever swapped."""
    lq = np.zeros((4, 6, 3), np.float32)
    lq[1, 4] = 0.2, 0.4, 0.6
    restored = oracle(Pixels(), sde, lq)(lq, steps=1).pixels
    np.testing.assert_allclose(restored, lq, atol=1e-6)


def test_estimates_are_clamped_where_states_have_bounds(sde: MeanRevertingSDE) -> None:
    """A network that says 7 walks as one that says 1."""
    lq, _ = pictures(4, 4)
    walks = []
    for value in (7.0, 1.0):
        says = Oracle(torch.full((1, 3, 4, 4), value), sde, Clean())
        walks.append(list(Restorer(says, Pixels(), sde, Clean()).trajectory(lq, sampler="ode-1")))
    for far, near in zip(*walks, strict=True):
        np.testing.assert_array_equal(far.pixels, near.pixels)
    assert walks[0][0].pixels.min() < 1
    np.testing.assert_array_equal(walks[0][-1].pixels, 1)


# ---- options


def test_options_override_the_defaults(make: Callable[..., Restorer]) -> None:
    restore, (lq, _) = make(steps=2, eta=0.0, seed=1), pictures(6, 6)
    changed = restore(lq, steps=4, sampler="ode-2", eta=1.0, seed=3).pixels
    np.testing.assert_array_equal(make(steps=4, sampler="ode-2", seed=3)(lq).pixels, changed)
    assert restore.sampling == Sampling(steps=2, eta=0.0, seed=1)
    deterministic = [restore(lq, eta=0.0).pixels, make(steps=2, sampler="ode-1", seed=1)(lq).pixels]
    np.testing.assert_allclose(*deterministic, atol=1e-5)


def test_a_rule_of_ones_own_is_a_sampler(make: Callable[..., Restorer]) -> None:
    seen: list[tuple[int, int]] = []
    ours = posterior(1.0)

    def rule(step: Step) -> Tensor:
        seen.append((step.t, step.r))
        return ours(step)

    restore, (lq, _) = make(), pictures(6, 6)
    restored = restore(lq, steps=4, sampler=rule).pixels
    assert seen == [(100, 75), (75, 50), (50, 25), (25, 0)]
    np.testing.assert_array_equal(restored, restore(lq, steps=4).pixels)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"steps": 0}, "steps is 0: give at least 1"),
        ({"steps": 101}, "steps is 101: this model was trained with 100"),
        ({"steps": 1000}, "steps is 1000: this model was trained with 100"),
        ({"sampler": "ode2"}, "unknown sampler 'ode2', did you mean ode-2"),
        ({"sampler": "postrior"}, "did you mean posterior"),
        ({"sampler": "xyz"}, "there are posterior, ode-1"),
        ({"eta": 1.5}, "eta is 1.5: give 0 to 1"),
        ({"eta": -0.1}, "eta is -0.1"),
        ({"eta": 0.5, "sampler": "ode-2"}, "with the sampler 'posterior' only"),
        ({"tile": 127}, "tile is 127: give at least 128 pixels, or nothing"),
        ({"tile": -1}, "tile is -1"),
    ],
)
def test_a_wrong_value_is_one_line(
    make: Callable[..., Restorer], options: dict[str, Any], expected: str
) -> None:
    calls: list[Callable[..., object]] = [
        make(),
        lambda lq, **given: make().samples(lq, 2, **given),
        lambda lq, **given: list(make().trajectory(lq, **given)),
        lambda lq, **given: make().restore_batch(torch.from_numpy(lq).permute(2, 0, 1)[None], **given),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=expected) as caught:
            call(pictures(4, 4)[0], **options)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("wrong", "right"), [("step", "steps"), ("smapler", "sampler"), ("sed", "seed")])
def test_an_unknown_option_is_one_line_with_what_is_near(
    make: Callable[..., Restorer], wrong: str, right: str
) -> None:
    with pytest.raises(TypeError) as caught:
        make()(pictures(4, 4)[0], **{wrong: 1})
    message = str(caught.value)
    assert "\n" not in message
    assert wrong in message
    assert f"did you mean {right}?" in message


def test_a_broken_network_is_an_error_and_no_picture(make: Callable[..., Restorer]) -> None:
    restore = make()
    for parameter in restore.network.parameters():
        parameter.data.fill_(float("nan"))
    with pytest.raises(ImageError, match="NaN or infinity"):
        restore(pictures(4, 4)[0])


@pytest.mark.parametrize("wrong", ["photo.jpg", np.zeros((4, 4, 5)), np.full((4, 4), 2.0), [[["a"]]]])
def test_what_is_no_picture_is_an_error(make: Callable[..., Restorer], wrong: object) -> None:
    with pytest.raises(ImageError) as caught:
        make()(wrong)
    assert "\n" not in str(caught.value)


def test_moving_takes_all_along(make: Callable[..., Restorer]) -> None:
    moved: Sequence[Tensor] = list(make().to("meta").network.parameters())
    assert all(p.device.type == "meta" for p in moved)
    assert make().to("cpu").device == torch.device("cpu")
