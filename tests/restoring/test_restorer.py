"""A perfect network restores exactly through the whole path; a seed is a picture, in any company."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

from refusion.diffusion.prediction import PREDICTIONS, Clean, Prediction
from refusion.diffusion.sampling import SAMPLERS, StepContext, posterior
from refusion.diffusion.sde import MeanRevertingSDE
from refusion.errors import ImageError, Report
from refusion.imaging.arrays import from_array
from refusion.imaging.image import Image
from refusion.imaging.resize import Enlarge
from refusion.nn.network import Network
from refusion.nn.pooling import Pool, whole_mean
from refusion.restoring.codec import Codec, Pixels, Pyramid
from refusion.restoring.latent_unet import LatentUNet
from refusion.restoring.request import Sampling
from refusion.restoring.restorer import Restorer
from refusion.restoring.tiling import DEFAULT_MIN_TILE, ignore
from restorers import TILED, ask, photo, said, small_restorer

DARK = 0.05


class Oracle(Network):
    """Knows the clean state and says it in the language of its prediction; counts its calls."""

    def __init__(self, x0: Tensor, sde: MeanRevertingSDE, prediction: Prediction) -> None:
        super().__init__()
        self.x0 = nn.Parameter(x0, requires_grad=False)
        self.sde, self.prediction = sde, prediction
        self.times: list[Tensor] = []
        self.embedded: list[list[float]] = []

    def embed(self, t: Tensor, condition: Tensor | None = None) -> Tensor:
        assert condition is None
        self.embedded.append(t.tolist())
        return t[:, None] * torch.ones(1, 7)

    def forward(
        self, x_t: Tensor, mu: Tensor, t: Tensor, embedding: Tensor | None = None, pool: Pool = whole_mean
    ) -> Tensor:
        assert t.shape == (len(x_t),)  # never squeezed, also of a batch of one
        assert embedding is not None
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


@pytest.fixture(scope="module")
def make(sde: MeanRevertingSDE) -> Callable[..., Restorer]:
    """A small real network in which every weight counts."""
    return lambda codec=None, **options: small_restorer(
        sde, codec, sampling=Sampling(**{"steps": 3, **options})
    )


CODECS = [Pixels(), Pixels(4), Pyramid(8, 2, DARK), Pyramid(208, 4, DARK)]


# ---- laws


@pytest.mark.parametrize("codec", CODECS, ids=["pixels", "unshuffled", "reduced", "pyramid"])
@pytest.mark.parametrize("steps", [1, 2, 5, 100])
def test_a_perfect_network_restores_exactly(sde: MeanRevertingSDE, codec: Codec, steps: int) -> None:
    lq, gt = pictures(13, 22)
    restored = oracle(codec, sde, gt)(lq, steps=steps)
    np.testing.assert_allclose(restored.pixels, gt, rtol=0, atol=3e-6)


@pytest.mark.slow
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


@pytest.mark.slow
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
    between = list[Image]()
    result = restore.run(
        restore.request(lq),
        progress=lambda step: between.append(restore(pictures(5, 30)[0], steps=1, seed=9)),
    )
    assert len(between) == 3
    np.testing.assert_array_equal(result.image.pixels, first)


def test_the_input_is_left_alone(make: Callable[..., Restorer]) -> None:
    lq, _ = pictures(8, 8)
    before = lq.copy()
    make()(lq)
    np.testing.assert_array_equal(lq, before)


# ---- samples and trajectories


def test_samples_have_the_mean_and_deviation_of_single_calls(make: Callable[..., Restorer]) -> None:
    restore, (lq, _) = make(seed=2), pictures(9, 8)
    drawn = ask(restore, lq, samples=4, steps=2)
    alone = np.stack([restore(lq, steps=2, seed=2 + i).pixels for i in range(4)])
    np.testing.assert_allclose(drawn.image.pixels, alone.mean(0), atol=1e-6)
    (std,) = drawn.stds
    np.testing.assert_allclose(std, np.sqrt(alone.var(0, ddof=1).mean(-1)), atol=1e-6)
    assert std.shape == (9, 8)
    assert std.mean() > 0.01
    assert drawn.std is std


def test_one_sample_is_the_restoration_and_has_no_deviation(make: Callable[..., Restorer]) -> None:
    restore, (lq, _) = make(), pictures(9, 8)
    one = ask(restore, lq, samples=1)
    assert (one.stds, one.std) == ((), None)
    np.testing.assert_array_equal(one.image.pixels, restore(lq).pixels)


@pytest.mark.parametrize("count", [0, -1])
def test_fewer_than_one_sample_is_an_error(make: Callable[..., Restorer], count: int) -> None:
    with pytest.raises(ValueError, match=f"samples is {count}: .* 1$"):
        ask(make(), pictures(4, 4)[0], samples=count)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_trajectory_ends_with_the_restoration(make: Callable[..., Restorer], steps: int) -> None:
    restore, (lq, _) = make(), pictures(7, 9)
    result = ask(restore, lq, steps=steps, trajectory=True)
    assert len(result.trajectory) == steps
    assert result.trajectory[-1] is result.image
    np.testing.assert_array_equal(result.image.pixels, restore(lq, steps=steps).pixels)
    assert ask(restore, lq, steps=steps).trajectory == ()


# ---- large pictures


class Spied(LatentUNet):
    """Keeps what it is asked of."""

    encoded = 0
    sides: tuple[int, ...] = ()

    def encode(self, image: Tensor) -> Any:
        self.encoded += 1
        return super().encode(image)

    def tiled(self, tile: int, smallest: int = DEFAULT_MIN_TILE, report: Report = ignore) -> Codec:
        self.sides += (tile,)
        return super().tiled(tile, smallest, report)


@pytest.fixture
def latent() -> Spied:
    torch.manual_seed(6)
    codec = Spied(4, 4, (1, 2), 2, attention=True).requires_grad_(False).eval()
    for parameter in codec.parameters():
        nn.init.normal_(parameter, std=0.2)
    return codec


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limits", "side", "gib"),
    [({"memory": 2**20}, 128, "0.0"), ({"memory": 2**40, "tile": 160}, 160, "1024.0")],
)
def test_without_memory_a_codec_works_in_tiles_and_the_picture_is_the_same(
    make: Callable[..., Restorer], latent: Spied, limits: dict[str, Any], side: int, gib: str
) -> None:
    restore, (lq, _) = make(latent), pictures(150, 300)
    batch = torch.from_numpy(lq).permute(2, 0, 1)[None]
    whole = ask(restore, lq, memory=2**40)
    assert whole.notices == ()
    for trajectory in (False, True):
        result = ask(restore, lq, trajectory=trajectory, **limits)
        np.testing.assert_allclose(result.image.pixels, whole.image.pixels, rtol=0, atol=1e-4)
        assert said(result.notices) == [("codec-tiled", "info", ["300", "150", str(side), gib])]
    restored = restore.restore_batch(batch, **limits)[0].permute(1, 2, 0)
    np.testing.assert_allclose(restored, whole.image.pixels, rtol=0, atol=1e-4)
    assert latent.sides == (side,) * 3


def test_a_codec_is_whole_where_a_tile_or_the_memory_holds_the_picture(
    make: Callable[..., Restorer], latent: Spied
) -> None:
    restore, (lq, _) = make(latent), pictures(150, 300)
    batch = torch.from_numpy(lq).permute(2, 0, 1)[None]
    enough = 3 * 150 * 300 * latent.working_bytes
    whole = ask(restore, lq, memory=2**40).image.pixels
    results = [ask(restore, lq, tile=300, memory=2**40), ask(restore, lq, memory=enough)]
    for result in results:
        np.testing.assert_array_equal(result.image.pixels, whole)
    results.append(ask(restore, pictures(20, 30)[0], tile=128, memory=1))
    assert [result.notices for result in results] == [()] * 3
    restore.restore_batch(batch, memory=enough)
    assert latent.sides == ()
    restore.restore_batch(batch.expand(2, -1, -1, -1), memory=enough)  # takes twice as much
    assert len(latent.sides) == 1


def test_samples_share_one_encoding(make: Callable[..., Restorer], latent: Spied) -> None:
    restore, (lq, _) = make(latent), pictures(20, 30)
    alone = np.stack([restore(lq, seed=i).pixels for i in range(3)])
    before = latent.encoded
    np.testing.assert_allclose(ask(restore, lq, samples=3).image.pixels, alone.mean(0), atol=1e-6)
    assert latent.encoded == before + 1


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1, 4])
def test_a_large_state_walks_in_tiles_whatever_is_free(make: Callable[..., Restorer], factor: int) -> None:
    restore, (lq, _) = make(Pixels(factor)), pictures(45 * factor, 60 * factor)
    limits: list[tuple[int, int | None]] = [(2**40, None), (2**10, None), (2**40, 128), (2**10, 160)]
    results = [ask(restore, lq, memory=memory, tile=tile, policy=TILED) for memory, tile in limits]
    for result in results[1:]:
        np.testing.assert_allclose(result.image.pixels, results[0].image.pixels, rtol=0, atol=1e-4)
    sides = []
    for result in results:
        ((key, level, (width, height, side, _)),) = said(result.notices)
        assert (key, level, width, height) == ("network-tiled", "info", "60", "45")
        sides.append(int(side))
    assert sides[1:] == [20, 128 // factor, 160 // factor]
    assert sides[0] > 1000


def test_a_batch_of_large_pictures_is_each_alone(make: Callable[..., Restorer]) -> None:
    restore = make()
    lq = torch.from_numpy(np.stack([pictures(90, 110, seed)[0] for seed in range(2)])).permute(0, 3, 1, 2)
    together = restore.restore_batch(lq, tile=128, policy=TILED)
    for i in range(2):
        alone = restore.restore_batch(lq[i : i + 1], policy=TILED)[0]
        torch.testing.assert_close(alone, together[i], rtol=0, atol=1e-5)
    assert (restore.restore_batch(lq) - together).abs().max() > 1e-5  # with means over everything


def test_where_memory_ends_on_the_way_the_picture_is_the_same(
    make: Callable[..., Restorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    restore, (lq, _) = make(), pictures(120, 180)
    expected = restore(lq, policy=TILED).pixels
    forward = restore.network.forward

    def narrow(x_t: Tensor, *args: Any, **rest: Any) -> Tensor:
        if len(x_t) == 1 and x_t.shape[-1] > 50:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(x_t, *args, **rest)

    monkeypatch.setattr(restore.network, "forward", narrow)
    result = ask(restore, lq, tile=160, policy=TILED)
    np.testing.assert_allclose(result.image.pixels, expected, rtol=0, atol=1e-4)
    assert [notice.key for notice in result.notices] == ["network-tiled", "out-of-memory"]
    assert said(result.notices[1:]) == [("out-of-memory", "info", ["40"])]  # once, not in every step


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


@pytest.mark.slow
@pytest.mark.parametrize("enlarge", [Enlarge(), Enlarge(2)], ids=["same", "enlarged"])
@pytest.mark.parametrize("codec", [Pixels(1), Pixels(2), Pyramid(16, 2)], ids=repr)
def test_a_picture_without_colour_comes_back_without(
    sde: MeanRevertingSDE, codec: Codec, enlarge: Enlarge
) -> None:
    restorer = small_restorer(sde, codec, enlarge=enlarge)
    achromatic = np.repeat(photo(channels=1), 3, axis=2)
    options: list[dict[str, Any]] = [{}, {"samples": 2}, {"trajectory": True, "steps": 3}]
    if enlarge.factor == 1:
        options.append({"mask": np.eye(13, 22, dtype=np.float32)})
    for chosen in options:
        result = ask(restorer, achromatic, **chosen)
        for image in (*result.images, *result.trajectory):
            assert not image.grey
            assert np.ptp(image.pixels, axis=2).max() == 0
    coloured = ask(restorer, photo()).image.pixels
    assert np.ptp(coloured, axis=2).max() > 0.05


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
    restored = ask(oracle(Pixels(), sde, lq), lq, steps=1).image.pixels
    np.testing.assert_allclose(restored, lq, atol=1e-6)


def test_estimates_are_clamped_where_states_have_bounds(sde: MeanRevertingSDE) -> None:
    """A network that says 7 walks as one that says 1."""
    lq, _ = pictures(4, 4)
    walks = []
    for value in (7.0, 1.0):
        says = Oracle(torch.full((1, 3, 4, 4), value), sde, Clean())
        restore = Restorer(says, Pixels(), sde, Clean())
        walks.append(ask(restore, lq, sampler="ode-1", trajectory=True).trajectory)
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

    def rule(step: StepContext) -> Tensor:
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
        ({"memory": 0}, "memory is 0: give bytes"),
        ({"sigma": 25}, "sigma is 25: 25 grey levels are 25/255"),
    ],
)
def test_a_wrong_value_is_one_line(
    make: Callable[..., Restorer], options: dict[str, Any], expected: str
) -> None:
    calls: list[Callable[..., object]] = [
        make(),
        lambda lq, **given: ask(make(), lq, samples=2, **given),
        lambda lq, **given: ask(make(), lq, trajectory=True, **given),
        lambda lq, **given: make().restore_batch(torch.from_numpy(lq).permute(2, 0, 1)[None], **given),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=expected) as caught:
            call(pictures(4, 4)[0], **options)
        assert "\n" not in str(caught.value)


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
