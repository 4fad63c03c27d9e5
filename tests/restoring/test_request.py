"""One request, one result: what may be asked, what is heard on the way, and how to stop."""

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from refusion.diffusion.sampling import StepContext, posterior
from refusion.diffusion.schedule import SCHEDULES, make_alphas
from refusion.diffusion.sde import DenoisingSDE, MeanRevertingSDE
from refusion.errors import Cancelled, ImageError, Notice, RefusionError, RefusionWarning
from refusion.imaging.arrays import from_array
from refusion.imaging.formats import write
from refusion.imaging.image import Image
from refusion.imaging.resize import Enlarge
from refusion.nn.nafnet import ConditionalNAFNet
from refusion.nn.pooling import Pool, whole_mean
from refusion.restoring import restorer
from refusion.restoring.codec import Pixels
from refusion.restoring.latent_unet import LatentUNet
from refusion.restoring.request import (
    SAMPLERS,
    Ensemble,
    Limits,
    Options,
    Progress,
    Request,
    Result,
    Sampling,
)
from refusion.restoring.restorer import Restorer
from refusion.restoring.tiling import TilingPolicy
from restorers import TILED, ask, photo, said, small_restorer

Make = Callable[..., Restorer]


class Counted(ConditionalNAFNet):
    """Counts its calls."""

    calls = 0

    def forward(
        self, x_t: Tensor, mu: Tensor, t: Tensor, embedding: Tensor | None = None, pool: Pool = whole_mean
    ) -> Tensor:
        self.calls += 1
        return super().forward(x_t, mu, t, embedding, pool)


class Decoded(Pixels):
    """Counts the pictures that are decoded."""

    count = 0

    def decode(self, state: Tensor, features: tuple[Tensor, ...], size: tuple[int, int]) -> Tensor:
        self.count += 1
        return super().decode(state, features, size)


@pytest.fixture(scope="module")
def make(sde: MeanRevertingSDE) -> Make:
    """A small network that changes every pixel, with a fresh count."""

    def build(
        codec: Pixels | LatentUNet | None = None,
        steps: int = 3,
        process: DenoisingSDE | MeanRevertingSDE = sde,
        **rest: Any,
    ) -> Restorer:
        return small_restorer(process, codec, Counted, sampling=Sampling(steps=steps), **rest)

    return build


def calls(restore: Restorer) -> int:
    assert isinstance(restore.network, Counted)
    return restore.network.calls


def denoising() -> DenoisingSDE:
    return DenoisingSDE(
        make_alphas(SCHEDULES["cosine"](torch.arange(101, dtype=torch.float64)), 0.04), 70 / 255
    )


def scene() -> tuple[Image, Image]:
    views = (photo(16, 20), photo(16, 20))
    return from_array(views[0]), from_array(np.ascontiguousarray(views[1][:, ::-1]))


# ---- what may be asked


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("step", "steps"),
        ("smapler", "sampler"),
        ("sed", "seed"),
        ("maks", "mask"),
        ("sample", "samples"),
        ("trajectroy", "trajectory"),
        ("memroy", "memory"),
        ("conditions", "condition"),
    ],
)
def test_an_unknown_option_is_one_line_with_what_is_near(make: Make, wrong: str, near: str) -> None:
    restore, lq = make(), photo()
    ways: list[Callable[..., object]] = [
        lambda **given: restore(lq, **given),
        lambda **given: restore.restore_views([lq], **given),
        lambda **given: restore.request(lq, **given),
        lambda **given: restore.restore_batch(torch.zeros(1, 3, 8, 8), **given),
    ]
    for way in ways:
        with pytest.raises(TypeError, match=rf"^unknown option {wrong}, did you mean \w+\?") as caught:
            way(**{wrong: 1})
        assert "\n" not in str(caught.value)
        assert f"did you mean {near}?" in str(caught.value)
    assert calls(restore) == 0


def test_an_option_like_none_is_told_all_there_are(make: Make) -> None:
    with pytest.raises(TypeError, match=r"^unknown option xyzzy: there are ") as caught:
        make()(photo(), xyzzy=1)  # type: ignore[call-arg]
    assert all(name in str(caught.value) for name in Options.__annotations__)


def test_every_option_has_a_place_in_the_request(make: Make) -> None:
    mask, policy = np.zeros((13, 22), bool), TilingPolicy(patch=32)
    request = make(process=denoising(), conditions=2, conditional=False).request(
        photo(),
        steps=7,
        sampler="posterior",
        eta=0.5,
        seed=9,
        condition=(1.0, 2.0),
        sigma=0.1,
        mask=mask,
        samples=4,
        trajectory=False,
        tile=200,
        memory=2**30,
        policy=policy,
    )
    assert request.sampling == Sampling(7, "posterior", 0.5, 9)
    assert request.limits == Limits(200, 2**30, policy)
    assert (request.condition, request.sigma, request.samples) == ((1.0, 2.0), 0.1, 4)
    assert request.mask is mask
    assert [image.size for image in request.images] == [(22, 13)]


def test_what_is_not_asked_is_the_models_own(make: Make) -> None:
    restore = make(steps=4)
    assert restore.request(photo()).sampling == restore.sampling == Sampling(steps=4)
    assert restore.request(photo(), seed=3).sampling == Sampling(steps=4, seed=3)
    request = Request((from_array(photo()),), restore.sampling)
    np.testing.assert_array_equal(restore.run(request).image.pixels, restore(photo()).pixels)


def test_a_request_is_a_value_that_may_be_run_again_and_by_another_model(make: Make) -> None:
    request = make().request(photo(), seed=5, samples=2)
    first, again, elsewhere = (restore.run(request) for restore in (make(), make(), make(Pixels(1))))
    np.testing.assert_array_equal(first.image.pixels, again.image.pixels)
    np.testing.assert_array_equal(*(result.stds[0] for result in (first, again)))
    assert np.abs(elsewhere.image.pixels - first.image.pixels).max() > 1e-3
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.samples = 3  # type: ignore[misc]


def test_a_path_is_a_picture(make: Make, tmp_path: Path) -> None:
    eight = np.rint(255 * photo()).astype(np.uint8)
    path = tmp_path / "photo.png"
    write(from_array(eight), path)
    expected = make()(eight)
    for name in (path, str(path)):
        restored = make()(name)
        np.testing.assert_array_equal(restored.pixels, expected.pixels)
        assert restored.depth == 8
    left, right = make(stereo=True).request(path, eight).images
    np.testing.assert_array_equal(left.pixels, right.pixels)
    with pytest.raises(ImageError, match=r"missing\.png"):
        make()(tmp_path / "missing.png")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"samples": 0}, "samples is 0"),
        ({"samples": -3}, "samples is -3"),
        ({"samples": 2, "trajectory": True}, "trajectory.* single"),
        ({"sigma": 1.5}, r"sigma is 1\.5"),
        ({"sigma": -0.1}, r"sigma is -0\.1"),
        ({"mask": np.zeros((22, 13), bool)}, "mask is 13x22 and the picture 22x13"),
        ({"tile": 127}, "tile is 127: give at least 128"),
        ({"tile": 15, "policy": TilingPolicy(min_tile=16)}, "tile is 15: give at least 16"),
        ({"memory": 0}, "memory is 0"),
        ({"memory": -1}, "memory is -1"),
        ({"steps": 0}, "steps is 0"),
        ({"sampler": "ode2"}, "sampler 'ode2', did you mean ode-2"),
    ],
)
def test_what_no_model_can_do_is_refused_before_there_is_a_request(
    make: Make, options: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected) as caught:
        make().request(photo(), **options)
    assert "\n" not in str(caught.value)


def test_views_of_two_sizes_or_with_a_trajectory_are_no_request(make: Make) -> None:
    left, right = photo(16, 20), photo(16, 19)
    with pytest.raises(ValueError, match="left and right are 20x16 and 19x16"):
        make(stereo=True).request(left, right)
    with pytest.raises(ValueError, match=r"trajectory.* single"):
        make(stereo=True).request(left, left, trajectory=True)
    with pytest.raises(ValueError, match="mask is 19x16 and the picture 20x16"):
        make(stereo=True).request(left, left, mask=np.zeros((16, 19)))


@pytest.mark.parametrize(
    ("model", "views", "options", "expected"),
    [
        ({}, 2, {}, "2 pictures"),
        ({"stereo": True}, 1, {}, "1 pictures"),
        ({"conditions": 3}, 1, {}, "condition has 0 numbers"),
        ({}, 1, {"condition": (1.0,)}, "condition has 1 numbers"),
        ({}, 1, {"sigma": 0.1}, r"sigma is 0\.1"),
        ({"enlarge": Enlarge(2)}, 1, {"mask": np.zeros((13, 22))}, "mask.* 2 times"),
        ({}, 1, {"steps": 101}, "steps is 101: .* 100"),
    ],
)
def test_what_this_model_cannot_do_is_refused_before_it_works(
    make: Make, model: dict[str, Any], views: int, options: dict[str, Any], expected: str
) -> None:
    restore = make(**model)
    request = restore.request(*[photo()] * views, **options)
    for refuse in (restore.check, restore.run):
        with pytest.raises(ValueError, match=expected) as caught:
            refuse(request)
        assert "\n" not in str(caught.value)
    assert calls(restore) == 0


def test_a_sampler_of_ones_own_has_a_name_once_it_is_in_the_table(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []

    def mine(eta: float) -> Callable[[StepContext], Tensor]:
        ours = posterior(eta)

        def rule(step: StepContext) -> Tensor:
            seen.append((step.t, step.r))
            return ours(step)

        return rule

    restore, lq = make(), photo()
    with pytest.raises(ValueError, match="unknown sampler 'mine'"):
        restore.request(lq, sampler="mine")
    monkeypatch.setitem(SAMPLERS, "mine", mine)
    restored = restore(lq, sampler="mine", steps=4)
    assert seen == [(100, 75), (75, 50), (50, 25), (25, 0)]
    np.testing.assert_array_equal(restored.pixels, restore(lq, steps=4).pixels)
    assert "sampler=mine" in repr(dataclasses.replace(restore, sampling=Sampling(sampler="mine")))
    monkeypatch.undo()
    assert "mine" not in SAMPLERS


# ---- what is heard on the way


@pytest.mark.parametrize(("steps", "samples"), [(1, 1), (4, 1), (1, 3), (4, 3)])
def test_progress_is_heard_once_a_step_of_every_sample(make: Make, steps: int, samples: int) -> None:
    restore, heard = make(), list[tuple[int, int, int]]()
    restore.run(
        restore.request(photo(), steps=steps, samples=samples),
        progress=lambda step: heard.append((step.done, step.total, calls(restore))),
    )
    total = steps * samples
    assert heard == [(i, total, i) for i in range(1, total + 1)]  # after each call of the network


@pytest.mark.parametrize("sigma", [0.0, 2 / 255, 25 / 255])
def test_the_total_is_of_the_steps_that_are_walked(make: Make, sigma: float) -> None:
    """With little noise a denoiser starts near the end, and takes fewer than it was asked to."""
    restore, heard = make(process=denoising(), conditional=False), list[tuple[int, int]]()
    restore.run(
        restore.request(photo(), sigma=sigma, steps=50, samples=2),
        progress=lambda step: heard.append((step.done, step.total)),
    )
    total = calls(restore)
    assert heard == [(i, total) for i in range(1, total + 1)]
    assert total == 2 * min(50, restore.sde.initial_time(sigma))
    assert total < 100 or sigma > 2 / 255


@pytest.mark.parametrize("sampler", ["posterior", "ode-2", "euler-maruyama"])
@pytest.mark.parametrize("masked", [False, True])
def test_a_preview_is_the_trajectorys_picture_at_that_step(make: Make, sampler: str, masked: bool) -> None:
    restore, lq, mask = make(), photo(channels=4), np.zeros((13, 22), bool)
    mask[2:9, 4:] = True
    request = restore.request(lq, sampler=sampler, trajectory=True, mask=mask if masked else None)
    previews = list[Image]()
    result = restore.run(request, progress=lambda step: previews.extend(step.preview()))
    assert len(previews) == len(result.trajectory) == 3
    for preview, image in zip(previews, result.trajectory, strict=True):
        np.testing.assert_array_equal(preview.pixels, image.pixels)
        np.testing.assert_array_equal(preview.alpha, image.alpha)
    assert np.abs(previews[0].pixels - previews[-1].pixels).max() > 1e-3
    np.testing.assert_array_equal(previews[-1].pixels, result.image.pixels)


def test_a_preview_has_every_view_at_its_new_size(make: Make) -> None:
    restore, previews = make(stereo=True, enlarge=Enlarge(2)), list[tuple[Image, ...]]()
    result = restore.run(restore.request(*scene()), progress=lambda step: previews.append(step.preview()))
    assert [[image.size for image in preview] for preview in previews] == [[(40, 32)] * 2] * 3
    for last, image in zip(previews[-1], result.images, strict=True):
        np.testing.assert_array_equal(last.pixels, image.pixels)


def test_previews_of_samples_are_of_each_sample(make: Make) -> None:
    restore, lq, ends = make(), photo(), list[Image]()

    def hear(step: Progress) -> None:
        if step.done % 3 == 0:
            ends.extend(step.preview())

    restore.run(restore.request(lq, samples=3, seed=2), progress=hear)
    for i, end in enumerate(ends):
        np.testing.assert_array_equal(end.pixels, restore(lq, seed=2 + i).pixels)
    assert len(ends) == 3


@pytest.mark.parametrize("samples", [1, 3])
def test_nothing_is_decoded_that_nobody_looks_at(make: Make, samples: int) -> None:
    codec, heard = Decoded(2), list[Progress]()
    restore = make(codec)
    result = restore.run(restore.request(photo(), samples=samples), progress=heard.append)
    assert (len(heard), codec.count) == (3 * samples, samples)
    np.testing.assert_array_equal(
        result.image.pixels, ask(make(), photo(), samples=samples).image.pixels
    )  # and listening changes nothing


def test_what_listens_may_fail_and_ends_the_work(make: Make) -> None:
    restore = make()

    def hear(step: Progress) -> None:
        raise OSError("the browser has left")

    with pytest.raises(OSError, match="the browser has left"):
        restore.run(restore.request(photo()), progress=hear)
    assert calls(restore) == 1


# ---- how to stop


def test_who_cancels_at_once_costs_no_call_of_the_network(make: Make) -> None:
    restore, heard = make(), list[Progress]()
    with pytest.raises(Cancelled) as caught:
        restore.run(restore.request(photo()), progress=heard.append, cancel=lambda: True)
    assert (calls(restore), heard) == (0, [])
    assert isinstance(caught.value, RefusionError)


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_who_cancels_after_some_steps_pays_for_those(make: Make, k: int, samples: int) -> None:
    restore, heard = make(steps=4), list[int]()
    with pytest.raises(Cancelled):
        restore.run(
            restore.request(photo(), samples=samples),
            progress=lambda step: heard.append(step.done),
            cancel=lambda: len(heard) >= k,
        )
    assert calls(restore) == k
    assert heard == list(range(1, k + 1))


def test_who_cancels_between_samples_pays_for_the_first(make: Make) -> None:
    restore = make(steps=4)
    with pytest.raises(Cancelled):
        restore.run(restore.request(photo(), samples=2), cancel=lambda: calls(restore) == 4)
    assert calls(restore) == 4


def test_it_is_asked_before_every_call_and_a_no_changes_nothing(make: Make) -> None:
    restore, asked = make(steps=4), list[int]()
    request = restore.request(photo(), samples=2)
    result = restore.run(request, cancel=lambda: asked.append(calls(restore)) is not None)
    assert asked == list(range(8))
    np.testing.assert_array_equal(result.image.pixels, make(steps=4).run(request).image.pixels)


def test_after_the_last_step_it_is_too_late_to_cancel(make: Make) -> None:
    restore = make(steps=2)
    result = restore.run(restore.request(photo()), cancel=lambda: calls(restore) == 2)
    np.testing.assert_array_equal(result.image.pixels, make(steps=2)(photo()).pixels)


def test_a_restorer_works_on_after_it_was_stopped(make: Make) -> None:
    restore = make()
    with pytest.raises(Cancelled):
        restore.run(restore.request(photo(), seed=8), cancel=lambda: calls(restore) == 2)
    np.testing.assert_array_equal(restore(photo()).pixels, make()(photo()).pixels)


# ---- memory


@pytest.mark.slow
def test_a_budget_that_is_handed_in_decides_without_a_look_at_the_machine(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = list[str]()
    monkeypatch.setattr(restorer, "free_memory", lambda device: looks.append(device.type) or 2**10)
    # The policy leaves whether a state is whole to the memory.
    policy = TilingPolicy(max_whole=2**20, patch=16, max_patches=6, min_state_tile=20)
    restore, lq = make(), photo(90, 120)
    results = [ask(restore, lq, memory=memory, policy=policy) for memory in (2**40, 1)]
    restore.restore_batch(torch.from_numpy(lq).permute(2, 0, 1)[None], memory=1, policy=policy)
    assert looks == []
    assert said(results[0].notices) == []
    assert said(results[1].notices) == [("network-tiled", "info", ["60", "45", "20", "0.0"])]
    assert said(ask(restore, lq, policy=policy).notices) == said(results[1].notices)
    assert looks == ["cpu", "cpu"]  # before encoding and after


def test_the_policy_of_a_request_decides_when_tiles_begin(make: Make) -> None:
    restore, lq = make(), photo(90, 120)
    whole, tiled = (ask(restore, lq, memory=2**40, policy=policy) for policy in (TilingPolicy(), TILED))
    assert [[notice.key for notice in result.notices] for result in (whole, tiled)] == [[], ["network-tiled"]]
    assert Limits() == Limits(policy=TilingPolicy())
    assert ask(restore, lq, tile=16, policy=TilingPolicy(min_tile=16)).notices == ()


# ---- notices


def test_notices_tell_all_that_happened_in_its_order(make: Make) -> None:
    torch.manual_seed(3)
    codec = LatentUNet(12, 4, (1,), 2).requires_grad_(False).eval()
    left = photo(120, 160)
    right = np.roll(left, 3, axis=0)
    policy = TilingPolicy(max_whole=1600, patch=16, max_patches=1, min_tile=64, min_state_tile=20)
    result = ask(make(codec, stereo=True), left, right, memory=2**20, policy=policy)
    assert [(notice.key, notice.level) for notice in result.notices] == [
        ("unrectified-views", "warning"),
        ("codec-tiled", "info"),
        ("network-tiled", "info"),
    ]
    assert said(result.notices[1:2]) == [("codec-tiled", "info", ["160", "120", "64", "0.0"])]
    assert result.warnings == result.notices[:1]
    assert all(str(notice) == notice.text and "\n" not in notice.text for notice in result.notices)


@pytest.mark.parametrize("changed", [0.0, 0.9 / 255, 1.1 / 255])
def test_a_picture_in_which_nothing_changes_visibly_is_a_warning(
    sde: MeanRevertingSDE, changed: float
) -> None:
    class Says(ConditionalNAFNet):
        """Says that the clean picture is the degraded one, but for one sample."""

        def forward(self, x_t: Tensor, mu: Tensor, *args: Any, **rest: Any) -> Tensor:
            said = torch.zeros_like(mu)
            said[:, 1, 4, 7] = changed
            return said

    restore, lq = small_restorer(sde, Pixels(), Says), photo()
    result = ask(restore, lq, steps=1)
    assert [notice.key for notice in result.warnings] == (["unchanged"] if changed < 1 / 255 else [])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        restored = restore(lq, steps=1)
        (view,) = restore.restore_views([lq], steps=1)
    np.testing.assert_array_equal(restored.pixels, view.pixels)
    assert [str(warning.message) for warning in caught] == [notice.text for notice in result.warnings] * 2
    assert all(warning.category is RefusionWarning for warning in caught)


@pytest.mark.parametrize(("left", "right"), [(0.0, 0.0), (0.0, 0.5), (0.5, 0.0), (0.5, 0.5)])
def test_of_two_views_each_is_looked_at(sde: MeanRevertingSDE, left: float, right: float) -> None:
    class Says(ConditionalNAFNet):
        """Says how the clean views differ from the degraded ones."""

        def forward(self, x_t: Tensor, mu: Tensor, *args: Any, **rest: Any) -> Tensor:
            return torch.tensor([left, right])[:, None, None, None].expand_as(mu)

    result = ask(small_restorer(sde, Pixels(), Says, stereo=True), photo(), photo(), steps=1)
    assert [notice.key for notice in result.warnings] == ["unchanged"] * (left, right).count(0.0)


def test_the_short_form_warns_of_warnings_and_keeps_quiet_of_the_rest(make: Make) -> None:
    """Pytest makes every warning an error."""
    assert make()(photo(90, 120), policy=TILED).size == (120, 90)
    restore = make(process=denoising(), conditional=False)
    assert [notice.key for notice in ask(restore, photo() / 4).notices] == ["noise-estimated"]
    assert restore(photo() / 4).size == (22, 13)
    with pytest.warns(RefusionWarning, match=r"^noise of \d+\.\d/255"):
        restore(photo().round())


# ---- values in one line


def test_a_restorer_names_model_size_and_sampler(make: Make) -> None:
    restore = dataclasses.replace(make(steps=7), name="shadow-removal")
    large = dataclasses.replace(restore, network=ConditionalNAFNet(12, 32, (1, 1), 1, (1, 1)))
    millions = sum(parameter.numel() for parameter in large.network.parameters()) / 1e6
    assert millions > 0.1
    for words in ("shadow-removal", "ConditionalNAFNet", f"{millions:.1f} M", "steps=7", "posterior", "cpu"):
        assert words in repr(large)
    assert "LatentUNet" in repr(make(LatentUNet(12, 4)))
    for line in (repr(large), repr(make()), repr(make().to("meta"))):
        assert "\n" not in line
        assert len(line) < 160


def test_a_picture_names_its_size_and_kind() -> None:
    rgba = from_array(photo(channels=4))
    grey = from_array(np.full((5, 6), 77, np.uint8))
    assert repr(rgba) == "Image(22x13, RGB, 16 bit, alpha)"
    assert repr(grey) == "Image(6x5, grey, 8 bit)"


def test_a_result_names_its_pictures_and_what_there_is_to_know(make: Make) -> None:
    assert repr(ask(make(), photo())) == f"Result({from_array(photo())!r})"
    walked, drawn = ask(make(), photo(), trajectory=True), ask(make(), photo(), samples=2)
    tiled = ask(make(), photo(90, 120), policy=TILED)
    two = ask(make(stereo=True), *scene())
    for result, words in (
        (walked, ("22x13", "3 steps")),
        (drawn, ("22x13", "std")),
        (tiled, ("120x90", tiled.notices[0].text)),
    ):
        assert all(word in repr(result) for word in words)
        assert "\n" not in repr(result)
    assert repr(two).count("20x16") == 2


def test_a_result_knows_its_first_picture_and_its_warnings() -> None:
    left, right = scene()
    told = (Notice("network-tiled", "tiles of 20"), Notice("unchanged", "nothing changed", "warning"))
    result = Result((left, right), notices=told)
    assert result.image is left
    assert (result.std, result.stds, result.trajectory) == (None, (), ())
    assert result.warnings == told[1:]


# ---- samples


@given(st.integers(2, 6), st.integers(0, 99))
def test_mean_and_deviation_come_one_by_one(count: int, seed: int) -> None:
    pictures = np.random.default_rng(seed).uniform(0, 1, (count, 4, 5, 3)).astype(np.float32)
    pictures[:, 0] = pictures[0, 0]
    ensemble = Ensemble((4, 5, 3))
    for picture in pictures:
        ensemble.add(picture)
    assert ensemble.count == count
    np.testing.assert_allclose(ensemble.mean, pictures.mean(0), atol=1e-6)
    np.testing.assert_allclose(ensemble.std, np.sqrt(pictures.var(0, ddof=1).mean(-1)), atol=1e-6)
    np.testing.assert_array_equal(ensemble.mean[0], pictures[0, 0])  # of what never changes, to the bit
    assert (ensemble.std[0] == 0).all()


@pytest.mark.parametrize("options", [{"mask": np.zeros((8, 8))}, {"samples": 2}, {"trajectory": True}])
def test_a_batch_refuses_what_is_of_single_scenes(sde: MeanRevertingSDE, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="mask, guides, samples, trajectory or self-ensemble"):
        small_restorer(sde).restore_batch(torch.zeros(1, 3, 8, 8), **options)


def test_a_batch_refuses_a_sigma_that_the_model_has_no_use_for(sde: MeanRevertingSDE) -> None:
    with pytest.raises(ValueError, match=r"sigma is 0\.1"):
        small_restorer(sde).restore_batch(torch.zeros(1, 3, 8, 8), sigma=0.1)


@pytest.mark.parametrize("value", [255, -1, np.nan])
def test_a_mask_is_0_to_1(sde: MeanRevertingSDE, value: float) -> None:
    mask = np.zeros((13, 22))
    mask[3, 5] = value
    with pytest.raises(ValueError, match=r"mask spans .*0 elsewhere"):
        small_restorer(sde).request(photo(), mask=mask)
