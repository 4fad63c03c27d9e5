"""Two views of a scene: both are restored, with what each shows of the other; and which files they are."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from torch import nn

from refusion import tiling
from refusion.bulk import plan_views
from refusion.codec import Codec, Pixels
from refusion.errors import ImageError
from refusion.image import from_array, write
from refusion.nn import ConditionalNAFNet
from refusion.prediction import Clean
from refusion.resize import Enlarge
from refusion.restorer import SAMPLERS, Restorer, Sampling
from refusion.sde import MeanRevertingSDE

Make = Callable[..., Restorer]


@pytest.fixture(scope="module")
def make(sde: MeanRevertingSDE) -> Make:
    """A small network in which every weight counts; `attentive=False` leaves what views tell each other
    as it starts."""

    def build(
        stereo: bool = True, attentive: bool = True, enlarge: Enlarge = Enlarge(), codec: Codec | None = None
    ) -> Restorer:
        codec = codec or Pixels(2)
        torch.manual_seed(0)
        network = ConditionalNAFNet(codec.channels, 4, (1,), 1, (1,), stereo=stereo)
        for name, parameter in network.named_parameters():
            if attentive or ".fusion." not in name:
                nn.init.normal_(parameter, std=0.2)
        network.requires_grad_(False).eval()
        return Restorer(network, codec, sde, Clean(), Sampling(steps=2), enlarge)

    return build


def scene(height: int = 32, width: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Two views of a textured picture; what the left one shows is three columns further left in the right."""
    whole = skimage.data.astronaut()[100 : 100 + height, 100 : 103 + width] / np.float32(255)
    return whole[:, :-3], whole[:, 3:]


# ---- restoring


def test_both_views_are_restored_and_keep_their_places(make: Make) -> None:
    left, right = scene()
    results = make().views([left, right])
    assert [result.size for result in results] == [(40, 32)] * 2
    assert np.abs(results[0].pixels - results[1].pixels).max() > 0.01
    again = make().views((from_array(left), from_array(right)))
    for result, same in zip(results, again, strict=True):
        np.testing.assert_array_equal(result.pixels, same.pixels)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_each_view_looks_at_the_other(make: Make, sampler: str) -> None:
    left, right = scene()
    before = make().views([left, right], sampler=sampler)
    changed = make().views([left, 1 - right], sampler=sampler)[0], make().views([1 - left, right])[1]
    assert np.abs(changed[0].pixels - before[0].pixels).max() > 1e-3
    assert np.abs(changed[1].pixels - before[1].pixels).max() > 1e-3


def test_before_they_have_learnt_to_look_each_is_restored_alone(make: Make) -> None:
    left, right = scene()
    together = make(attentive=False).views([left, right])
    changed = make(attentive=False).views([left, 1 - right])
    np.testing.assert_allclose(changed[0].pixels, together[0].pixels, rtol=0, atol=1e-6)
    assert np.abs(changed[1].pixels - together[1].pixels).max() > 0.01


def test_both_are_given_the_same_noise(make: Make) -> None:
    """So that what is alike stays alike."""
    left, _ = scene()
    one, other = make(attentive=False).views([left, left], seed=3)
    np.testing.assert_allclose(one.pixels, other.pixels, rtol=0, atol=1e-6)


def test_a_batch_holds_left_and_right_one_after_the_other(make: Make) -> None:
    left, right = scene()
    lq = torch.from_numpy(np.stack([right, left, left, right])).permute(0, 3, 1, 2)
    together = make().restore_batch(lq)
    for i, views in ((0, [right, left]), (2, [left, right])):
        for k, result in enumerate(make().views(views)):
            torch.testing.assert_close(together[i + k], result.tensor(), rtol=0, atol=1e-5)


def test_large_views_are_restored_in_bands(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in {"PATCHES": 1, "PATCH": 32, "LARGEST_WHOLE": 1600, "SMALLEST_OF_STATE": 20}.items():
        monkeypatch.setattr(tiling, name, value)
    left, right = scene(120, 100)
    with caplog.at_level(logging.INFO, "refusion"):
        wide, banded = (make().views([left, right], tile=tile) for tile in (2000, 128))
    assert [message.split(",")[0] for message in caplog.messages] == [
        "state of 50x60: tiles of 1000",
        "state of 50x60: tiles of 64",
    ]
    for a, b in zip(wide, banded, strict=True):
        np.testing.assert_allclose(a.pixels, b.pixels, rtol=0, atol=1e-4)


# ---- more pixels


@pytest.mark.parametrize("mode", ["bicubic", "nearest"])
def test_enlarged_views_are_restored_at_their_new_size(make: Make, mode: Any) -> None:
    left, right = scene(16, 20)
    enlarge = Enlarge(3, mode)
    results = make(enlarge=enlarge).views([left, right])
    assert [result.size for result in results] == [(60, 48)] * 2
    larger = [
        enlarge(torch.from_numpy(z).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy() for z in scene(16, 20)
    ]
    for result, expected in zip(results, make().views(larger), strict=True):
        np.testing.assert_allclose(result.pixels, expected.pixels, rtol=0, atol=1e-6)


def test_one_picture_is_enlarged_with_its_alpha_whatever_is_asked_of_it(make: Make) -> None:
    rng = np.random.default_rng(0)
    source = from_array(rng.uniform(0.2, 0.8, (6, 8, 4)))
    restore = make(stereo=False, enlarge=Enlarge(2))
    results = [restore(source), *restore.trajectory(source), restore.samples(source, 2).mean]
    for result in results:
        assert result.size == (16, 12)
        assert result.alpha is not None
        assert result.alpha.shape == (12, 16)
    assert restore.samples(source, 2).deviation.shape == (12, 16)
    assert restore.prepared(source).size == (16, 12)
    (enlarged,) = restore.restore_batch(source.tensor()[None])
    np.testing.assert_allclose(enlarged.permute(1, 2, 0), results[0].pixels, atol=1e-6)


def test_without_a_factor_a_picture_enters_as_it_is(make: Make) -> None:
    source = from_array(scene()[0])
    assert make().prepared(source) is source


# ---- errors


@pytest.mark.parametrize("count", [0, 1, 3])
def test_one_picture_is_an_error_for_a_model_of_two(make: Make, count: int) -> None:
    with pytest.raises(ValueError, match=f"^{count} given: .* the left and the right view of a scene$"):
        make().views([scene()[0]] * count)


def test_a_model_of_two_is_never_given_one_by_another_way(make: Make) -> None:
    left, _ = scene()
    calls: list[Callable[[], object]] = [
        lambda: make()(left),
        lambda: make().samples(left, 2),
        lambda: list(make().trajectory(left)),
        lambda: make().restore_batch(torch.zeros(3, 3, 8, 8)),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"left and (the )?right view of") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_two_pictures_are_an_error_for_a_model_of_one(make: Make) -> None:
    with pytest.raises(ValueError, match=r"^2 given: this model takes one picture at a time$"):
        make(stereo=False).views(scene())


def test_views_of_two_sizes_are_an_error_that_names_them(make: Make) -> None:
    left, right = scene()
    with pytest.raises(ValueError, match=r"^left and right are 40x32 and 39x32: give views of one size$"):
        make().views([left, right[:, 1:]])


@pytest.mark.parametrize("lower", [-3, 0, 1, 2, 5])
@pytest.mark.parametrize("factor", [1, 2])
def test_views_that_are_not_rectified_are_a_warning(
    make: Make, caplog: pytest.LogCaptureFixture, lower: int, factor: int
) -> None:
    """Pixels are those of the given pictures, also where they are enlarged."""
    whole = skimage.data.astronaut()[100:196, 100:228] / np.float32(255)
    left, right = whole[8:-8], whole[8 - lower : 88 - lower]
    with caplog.at_level(logging.WARNING, "refusion"):
        make(enlarge=Enlarge(factor)).views([left, right])
    expected = [f"right is {lower:+.1f} pixels lower than left: rectify them for good results"]
    assert caplog.messages == (expected if abs(lower) > 1 else [])


# ---- files


def photos(folder: Path, *names: str) -> Path:
    for name in names:
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        write(from_array(np.full((2, 2, 3), 0.5)), place)
    return folder


def test_two_files_are_one_scene_whatever_their_names(tmp_path: Path) -> None:
    photos(tmp_path, "l.png", "r.jpg")
    l_in, r_in, out = tmp_path / "l.png", tmp_path / "r.jpg", tmp_path / "out"
    made = plan_views([str(l_in), str(r_in)], out)
    assert made.problems == []
    assert made.jobs == {(l_in, r_in): (out / "left" / "l.png", out / "right" / "r.jpg")}


def test_two_folders_are_paired_by_name_and_keep_their_structure(tmp_path: Path) -> None:
    a, b, out = (
        photos(tmp_path / "a", "1.png", "day/2.png"),
        photos(tmp_path / "b", "1.jpg", "day/2.png"),
        tmp_path / "out",
    )
    made = plan_views([str(a), str(b)], out)
    assert made.problems == []
    assert made.jobs == {
        (a / "1.png", b / "1.jpg"): (out / "left" / "1.png", out / "right" / "1.jpg"),
        (a / "day/2.png", b / "day/2.png"): (out / "left/day/2.png", out / "right/day/2.png"),
    }


@pytest.mark.parametrize("also", [("both.png",), ()])
def test_a_view_without_the_other_is_a_problem_that_names_it(tmp_path: Path, also: tuple[str, ...]) -> None:
    a, b = photos(tmp_path / "a", "x.png", *also), photos(tmp_path / "b", "y.png", *also)
    made = plan_views([str(a), str(b)], tmp_path / "out")
    assert list(made.jobs) == [(a / name, b / name) for name in also]
    assert made.problems == [
        f"{path}: no picture of the other view has its name" for path in (a / "x.png", b / "y.png")
    ]


def test_two_files_of_one_stem_are_a_problem_that_names_both(tmp_path: Path) -> None:
    a, b = photos(tmp_path / "a", "x.jpg", "x.png"), photos(tmp_path / "b", "x.png")
    made = plan_views([str(a), str(b)], tmp_path / "out")
    assert list(made.jobs) == [(a / "x.jpg", b / "x.png")]
    assert made.problems == [f"{a / 'x.png'}: same stem as x.jpg; rename one of them"]


def test_a_missing_file_is_one_problem(tmp_path: Path) -> None:
    photos(tmp_path, "l.png")
    made = plan_views([str(tmp_path / "l.png"), str(tmp_path / "r.png")], tmp_path / "out")
    assert made.jobs == {}
    assert len(made.problems) == 2
    assert "r.png does not exist" in made.problems[0]
    assert "l.png: no picture of the other view" in made.problems[1]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_another_number_of_paths_is_an_error(tmp_path: Path, count: int) -> None:
    with pytest.raises(ImageError, match=f"^{count} paths: this model takes two"):
        plan_views(["a.png"] * count, tmp_path)


def test_two_views_do_not_go_to_one_file(tmp_path: Path) -> None:
    photos(tmp_path, "l.png", "r.png")
    with pytest.raises(ImageError, match=r"out\.png: two views are written"):
        plan_views([str(tmp_path / "l.png"), str(tmp_path / "r.png")], tmp_path / "out.png")


def test_results_of_an_earlier_run_are_no_sources(tmp_path: Path) -> None:
    for side in ("left", "right"):
        photos(tmp_path / side, "a.png")
    made = plan_views([str(tmp_path / "left"), str(tmp_path / "right")], tmp_path)
    assert made.jobs == {}
    assert all("would be replaced by its restoration" in problem for problem in made.problems)
