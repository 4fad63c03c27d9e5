"""Pictures are scored as files would be: 8 bit, in RGB and Y, borders left out on request."""

import csv
import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pyvips
import torch
from torch import Tensor, nn

from refusion.data.pairs import Pair
from refusion.diffusion.prediction import Clean
from refusion.diffusion.sampling import SAMPLERS
from refusion.diffusion.sde import MeanRevertingSDE
from refusion.errors import DataError, ImageError, Notice
from refusion.evaluation.evaluate import (
    PROTOCOLS,
    LatentSwapScores,
    Row,
    Scores,
    evaluate,
    mean_scores,
    perceived,
    protocol,
    replace_latent,
    score,
    write_csv,
)
from refusion.evaluation.metrics import luma, psnr, ssim
from refusion.evaluation.perceptual import Perceptual, frechet
from refusion.imaging.arrays import from_array
from refusion.imaging.formats import write
from refusion.imaging.image import Image
from refusion.imaging.resize import Enlarge
from refusion.nn.network import Network
from refusion.nn.pooling import Pool, whole_mean
from refusion.restoring import admission
from refusion.restoring.codec import Codec, Encoded, Pixels
from refusion.restoring.request import Progress, Request, Result, Sampling, split_options
from refusion.restoring.restorer import Restorer

INFINITE = float("inf")


def picture(seed: int = 0, height: int = 20, width: int = 24) -> Image:
    return from_array(np.random.default_rng(seed).uniform(0.2, 0.8, (height, width, 3)))


class Brighter(Network):
    """Says that the clean picture is brighter by a tenth."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.1), requires_grad=False)

    def embed(self, t: Tensor, condition: Tensor | None = None) -> Tensor:
        return t[:, None]

    def forward(
        self,
        x_t: Tensor,
        mu: Tensor,
        t: Tensor,
        embedding: Tensor | None = None,
        pool: Pool = whole_mean,
    ) -> Tensor:
        return self.gain.expand(mu.shape)


@pytest.fixture
def restorer(sde: MeanRevertingSDE) -> Restorer:
    return Restorer(Brighter(), Pixels(2), sde, Clean(), Sampling(steps=1))


@pytest.fixture
def pairs(tmp_path: Path) -> list[Pair]:
    """Darker by a tenth, but the last by nothing."""
    made = []
    for i, dark in enumerate((0.1, 0.1, 0.0)):
        gt = picture(i)
        lq = gt.with_pixels(gt.pixels - np.float32(dark))
        for name, z in (("lq", lq), ("gt", gt)):
            write(z, tmp_path / f"{name}{i}.tif")
        made.append(Pair((tmp_path / f"lq{i}.tif",), (tmp_path / f"gt{i}.tif",)))
    return made


def test_scores_are_those_of_the_rounded_pictures() -> None:
    a, b = picture(0), picture(1)
    rounded = [np.round(z.pixels * 255) / 255 for z in (a, b)]
    expected = Scores(psnr(*rounded), ssim(*rounded), psnr(*map(luma, rounded)), ssim(*map(luma, rounded)))
    assert score(a, b) == expected
    assert expected.psnr != expected.psnr_y


def test_less_than_half_a_grey_level_is_no_difference() -> None:
    truth = from_array(np.full((12, 12, 3), 100 / 255))
    near, far = (truth.with_pixels(truth.pixels + np.float32(d / 255)) for d in (0.49, 0.51))
    assert score(near, truth).psnr == INFINITE
    assert score(near, truth).ssim == pytest.approx(1)
    assert score(far, truth).psnr == pytest.approx(20 * np.log10(255), abs=1e-3)


@pytest.mark.parametrize("border", [0, 1, 4])
def test_a_border_is_left_out_on_every_side(border: int) -> None:
    truth = picture()
    for edge in ((0, slice(None)), (-1, slice(None)), (slice(None), 0), (slice(None), -1)):
        pixels = truth.pixels.copy()
        pixels[edge] = 0
        assert (score(truth.with_pixels(pixels), truth, border).psnr == INFINITE) == (border > 0)
    inside = truth.pixels.copy()
    inside[border, border] = 0
    assert score(truth.with_pixels(inside), truth, border).psnr < INFINITE


@pytest.mark.parametrize("border", [10, 50])
def test_a_border_that_leaves_nothing_is_an_error(border: int) -> None:
    with pytest.raises(ValueError, match=f"border is {border}: it leaves nothing of 24x20"):
        score(picture(), picture(), border)


def test_a_negative_border_is_an_error() -> None:
    with pytest.raises(ValueError, match="border is -1"):
        score(picture(), picture(), -1)


def test_other_sizes_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from refusion.evaluation import evaluate as module

    for name in ("psnr", "ssim", "luma"):  # as users have them, without the tests' hook
        monkeypatch.setattr(module, name, inspect.unwrap(getattr(module, name)))
    with pytest.raises(ValueError, match=r"\(20, 24, 3\) and \(24, 20, 3\)"):
        score(picture(), picture(0, 24, 20))


def test_evaluating_restores_and_scores_every_pair(restorer: Restorer, pairs: list[Pair]) -> None:
    rows, restored = zip(*evaluate(restorer, pairs), strict=True)
    assert [row.name for row in rows] == ["gt0", "gt1", "gt2"]
    for row, picture_out, pair in zip(rows, restored, pairs, strict=True):
        (lq,), (gt,), *_ = pair.read()
        assert row.input == score(lq, gt)
        assert row.output == score(restorer(lq), gt)
        np.testing.assert_array_equal(picture_out.pixels, restorer(lq).pixels)
    assert [row.input.psnr > 40 for row in rows] == [False, False, True]
    assert [row.output.psnr > 40 for row in rows] == [True, True, False]


def test_evaluating_is_a_generator_and_takes_options(restorer: Restorer, pairs: list[Pair]) -> None:
    first, _ = next(evaluate(restorer, [pairs[0], Pair((Path("none"),), (Path("none"),))], 2, steps=3))
    assert first.output.psnr > 40
    with pytest.raises(ValueError, match="steps is 101"):
        next(evaluate(restorer, pairs, steps=101))


def test_a_pair_that_does_not_fit_is_told_before_it_is_read(
    restorer: Restorer, pairs: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    (first, *rest), large = pairs, pairs[-1].gt[0].with_name("large.png")
    pyvips.Image.black(4000, 4000, bands=3).write_to_file(str(large))
    mixed = [first, replace(first, lq=(large,), gt=(large,)), *rest]
    monkeypatch.setattr(admission, "free_memory", lambda device: 2**29)
    with pytest.raises(ImageError, match=r"large\.png of 4000 x 4000 pixels needs"):
        list(evaluate(restorer, mixed))
    failures: list[Exception] = []
    rows = [row for row, _ in evaluate(restorer, mixed, failed=failures.append)]
    assert rows == [row for row, _ in evaluate(restorer, pairs)]
    assert [type(error) for error in failures] == [ImageError]


def test_a_pair_that_cannot_be_read_is_told(restorer: Restorer, pairs: list[Pair]) -> None:
    pairs[0].lq[0].write_bytes(b"no picture")
    write(picture(0, 7, 9), pairs[1].gt[0])
    failures: list[Exception] = []
    rows = [row for row, _ in evaluate(restorer, pairs, failed=failures.append)]
    assert [row.name for row in rows] == [pair.name for pair in pairs[2:]]
    assert [type(error) for error in failures] == [ImageError, DataError]


def mean_distance(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).mean((1, 2, 3)).abs()


def test_perceptual_metrics_see_whole_unrounded_pictures(restorer: Restorer, pairs: list[Pair]) -> None:
    """Of the input and of the output; a border is for the other scores only."""
    perceptual = Perceptual({"mean": mean_distance})
    rows = [row for row, _ in evaluate(restorer, pairs, 9, perceptual)]
    for row, pair in zip(rows, pairs, strict=True):
        (lq,), (gt,), *_ = pair.read()
        expected = [abs(float((z.tensor() - gt.tensor()).mean())) for z in (lq, restorer(lq))]
        assert row.distances["mean"] == pytest.approx(expected, abs=1e-7)
        assert row.features == ()
    inputs, outputs = perceived(rows)["mean"]
    assert inputs == pytest.approx([0.1, 0.1, 0.0], abs=1e-3)
    assert outputs == pytest.approx([0.0, 0.0, 0.1], abs=1e-3)


def test_fid_is_of_all_pictures_in_8_bit(restorer: Restorer, pairs: list[Pair]) -> None:
    perceptual = Perceptual(features=lambda x: x[:, :, :2, :2].flatten(1))
    rows = [row for row, _ in evaluate(restorer, pairs, perceptual=perceptual)]
    corners = []
    for pair in pairs:
        (lq,), (gt,), *_ = pair.read()
        pictures = [(z.tensor() * 255).round() / 255 for z in (lq, restorer(lq), gt)]
        corners.append([z[:, :2, :2].flatten() for z in pictures])
    lq, made, gt = (torch.stack(sets) for sets in zip(*corners, strict=True))
    assert perceived(rows) == {"fid": ([frechet(lq, gt)] * 3, [frechet(made, gt)] * 3)}
    assert frechet(lq, gt) != frechet(made, gt)


class Stereo(Brighter):
    """Says of each view how much brighter the other one is."""

    num_views = 2

    def forward(
        self,
        x_t: Tensor,
        mu: Tensor,
        t: Tensor,
        embedding: Tensor | None = None,
        pool: Pool = whole_mean,
    ) -> Tensor:
        return mu.flip(0) - mu


def test_of_two_views_each_is_scored(sde: MeanRevertingSDE, tmp_path: Path) -> None:
    """Left and right were exchanged."""
    left, right = picture(0), picture(1)
    for name, z in (("left", left), ("right", right)):
        write(z, tmp_path / f"{name}.tif")
    files = (tmp_path / "left.tif", tmp_path / "right.tif")
    pair = Pair(files[::-1], files)
    restorer = Restorer(Stereo(), Pixels(2), sde, Clean(), Sampling(steps=1))
    rows, restored = zip(*evaluate(restorer, [pair]), strict=True)
    assert [row.name for row in rows] == ["left-left", "left-right"]
    for row, made, lq, gt in zip(rows, restored, (right, left), (left, right), strict=True):
        assert row.input == score(lq, gt)
        assert row.output == score(made, gt)
        assert row.output.psnr > 50 > row.input.psnr


def test_a_smaller_picture_is_scored_enlarged(sde: MeanRevertingSDE, tmp_path: Path) -> None:
    lq, gt = picture(0, 10, 12), picture(1, 20, 24)
    for name, z in (("lq", lq), ("gt", gt)):
        write(z, tmp_path / f"{name}.tif")
    pair = Pair((tmp_path / "lq.tif",), (tmp_path / "gt.tif",), factor=2)
    restorer = Restorer(Brighter(), Pixels(2), sde, Clean(), Sampling(steps=1), Enlarge(2, "nearest"))
    ((row, made),) = evaluate(restorer, [pair])
    repeated = lq.pixels.repeat(2, 0).repeat(2, 1)
    assert made.size == (24, 20)
    assert row.input.psnr == pytest.approx(score(from_array(repeated), gt).psnr, abs=1e-2)
    np.testing.assert_allclose(made.pixels, repeated + 0.1, atol=1e-3)


class Told(Network):
    """Says that the picture is brighter by as much as it is told."""

    num_conditions = 1

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def embed(self, t: Tensor, condition: Tensor | None = None) -> Tensor:
        assert condition is not None
        return condition

    def forward(
        self,
        x_t: Tensor,
        mu: Tensor,
        t: Tensor,
        embedding: Tensor | None = None,
        pool: Pool = whole_mean,
    ) -> Tensor:
        assert embedding is not None
        return embedding[:, :, None, None].expand(mu.shape)


def test_the_condition_of_a_pair_tells_the_network(sde: MeanRevertingSDE, pairs: list[Pair]) -> None:
    restorer = Restorer(Told(), Pixels(2), sde, Clean(), Sampling(steps=1))
    told = [replace(pair, condition=(x,)) for pair, x in zip(pairs, (0.1, 0.1, 0.0), strict=True)]
    assert all(row.output.psnr > 50 for row, _ in evaluate(restorer, told))
    ((row, _),) = evaluate(restorer, told[2:], condition=(0.1,))
    assert row.output.psnr == pytest.approx(20, abs=0.2)
    with pytest.raises(ValueError, match="condition has 0 numbers: this model takes 1"):
        next(evaluate(restorer, pairs))


class Judging(Restorer):
    """Says of each result what was asked for, and that it is doubtful."""

    def run(
        self,
        request: Request,
        progress: Callable[[Progress], object] | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> Result:
        result = super().run(request, progress, cancel)
        said = (Notice("seed", str(request.sampling.seed)), Notice("doubt", "look at it", "warning"))
        return replace(result, notices=said)


def test_what_is_said_of_a_picture_is_in_its_row(sde: MeanRevertingSDE, pairs: list[Pair]) -> None:
    """And is no Python warning; of two views both have what is said of the scene."""
    restorer = Judging(Brighter(), Pixels(2), sde, Clean(), Sampling(steps=1))
    for row, _ in evaluate(restorer, pairs, seed=7):
        assert row.notices == (Notice("seed", "7"), Notice("doubt", "look at it", "warning"))
    both = Judging(Stereo(), Pixels(2), sde, Clean(), Sampling(steps=1))
    scene = Pair(pairs[0].lq * 2, pairs[0].gt * 2)
    assert [len(row.notices) for row, _ in evaluate(both, [scene])] == [2, 2]


def test_a_picture_in_which_nothing_changes_is_said_to_be_doubtful(
    sde: MeanRevertingSDE, pairs: list[Pair]
) -> None:
    """Of the model's own notices, those of the picture and of no other."""
    restorer = Restorer(Told(), Pixels(2), sde, Clean(), Sampling(steps=1))
    told = [replace(pair, condition=(x,)) for pair, x in zip(pairs, (0.1, 0.0, 0.1), strict=True)]
    keys = [[notice.key for notice in row.notices] for row, _ in evaluate(restorer, told)]
    assert keys == [[], ["unchanged"], []]


def test_means_count_equal_pictures_as_100_db() -> None:
    mean = mean_scores([Scores(INFINITE, 1.0, INFINITE, 1.0), Scores(20.0, 0.5, 22.0, 0.6)])
    assert mean == Scores(60.0, 0.75, 61.0, 0.8)


class Split(Codec):
    """The state holds a part of the picture, the feature the rest; the decoder adds them, and a tenth."""

    channels = 3
    bounds = None

    def __init__(self, part: float, error: float = 0.0) -> None:
        super().__init__()
        self.part = nn.Parameter(torch.tensor(part))
        self.error = error

    def encode(self, image: Tensor) -> Encoded:
        size = (image.shape[-2], image.shape[-1])
        return Encoded(self.part * image, ((1 - self.part) * image,), size)

    def decode(self, state: Tensor, features: tuple[Tensor, ...], size: tuple[int, int]) -> Tensor:
        return state + features[0] + self.error


def even(value: float) -> Image:
    return from_array(np.full((12, 15, 3), value / 255))


def decibel(difference: float) -> float:
    """Of even pictures, in grey levels."""
    return 20 * float(np.log10(255 / difference))


def test_the_gate_measures_what_the_decoder_takes_from_the_state() -> None:
    """By hand: of a difference of 80 grey levels, three quarters are in the state."""
    gate, replaced = replace_latent(Split(0.75), even(100), even(180))
    assert gate.reconstruction == INFINITE
    assert gate.lq_latent == pytest.approx(decibel(80), abs=1e-3)
    assert gate.gt_latent == pytest.approx(decibel(20), abs=1e-3)
    assert gate.gain == pytest.approx(decibel(20) - decibel(80), abs=2e-3)
    assert replaced.size == (15, 12)
    np.testing.assert_allclose(replaced.pixels, 160 / 255, atol=1e-6)


def test_a_state_that_says_nothing_gains_nothing() -> None:
    gate, _ = replace_latent(Split(0.0), even(100), even(180))
    assert gate.gain == 0
    assert gate.gt_latent == pytest.approx(decibel(80), abs=1e-3)


def test_a_state_that_says_everything_meets_the_clean_picture() -> None:
    gate, _ = replace_latent(Split(1.0), even(100), even(180))
    assert gate.gt_latent == INFINITE
    assert gate.gain == INFINITE
    assert mean_scores([gate, gate]).gain == pytest.approx(100 - decibel(80), abs=1e-3)


def test_the_gate_measures_pictures_and_reconstruction_by_the_degraded() -> None:
    """Rounded and clipped as files are: white and 40 grey levels are white."""
    gate, _ = replace_latent(Split(1.0, error=40 / 255), even(100), even(255))
    assert gate.gt_latent == INFINITE
    assert gate.reconstruction == pytest.approx(decibel(40), abs=1e-3)
    assert gate.lq_latent == pytest.approx(decibel(115), abs=1e-3)


def test_means_of_gates_are_of_each_number() -> None:
    mean = mean_scores([LatentSwapScores(INFINITE, 20, 10), LatentSwapScores(30, 30, 12)])
    assert mean == LatentSwapScores(65, 25, 11)
    assert mean.gain == 14
    for number in ("65.00", "25.00", "11.00"):
        assert number in str(mean)
    assert "\n" not in str(mean)


def test_the_csv_has_one_line_for_each_picture(tmp_path: Path, make_row: Callable[..., Row]) -> None:
    rows = [make_row("a, b", 20.25), make_row("größe", INFINITE)]
    write_csv(rows, tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open(newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    names = ["psnr", "ssim", "psnr_y", "ssim_y"]
    assert list(first) == ["name", *(f"input_{name}" for name in names), *names]
    assert (first["name"], second["name"]) == ("a, b", "größe")
    assert (float(first["input_psnr"]), float(first["psnr"])) == (10, 20.25)
    assert float(second["psnr"]) == INFINITE


def test_the_csv_holds_perceptual_metrics_too(tmp_path: Path, make_row: Callable[..., Row]) -> None:
    sets = torch.rand(2, 3, 4)
    rows = [
        replace(make_row(f"{i}", 20.0), distances={"lpips-alex": (0.5, i / 4)}, features=tuple(features))
        for i, features in enumerate(sets)
    ]
    write_csv(rows, tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0])[-4:] == ["input_lpips_alex", "lpips_alex", "input_fid", "fid"]
    assert [(float(line["input_lpips_alex"]), float(line["lpips_alex"])) for line in lines] == [
        (0.5, 0),
        (0.5, 0.25),
    ]
    lq, made, gt = sets.unbind(1)
    assert {float(line["input_fid"]) for line in lines} == {frechet(lq, gt)}
    assert {float(line["fid"]) for line in lines} == {frechet(made, gt)}


def test_protocols_are_the_published_ones() -> None:
    """A border of 4 and RGB but for deraining; all steps of the papers' sampler, or of the posterior."""
    settings = {name: (fixed.border, fixed.sampler) for name, fixed in PROTOCOLS.items()}
    assert settings == {
        "paper": (4, "euler-maruyama"),
        "posterior": (4, "posterior"),
        "whole": (0, "euler-maruyama"),
        "denoising": (0, "euler-ode"),
    }
    for name, fixed in PROTOCOLS.items():
        assert protocol(name) is fixed
        sampling, limits, _ = split_options(fixed.options(100))
        assert Sampling(**sampling) == Sampling(steps=100, sampler=fixed.sampler)
        assert limits == {"precision": "32"}
        assert fixed.sampler in SAMPLERS
        assert "RGB" in str(fixed)
        assert str(fixed.border) in str(fixed)


def test_an_unknown_protocol_is_an_error_with_a_hint() -> None:
    with pytest.raises(
        ValueError, match="unknown protocol 'papers', did you mean paper\\?: there are paper, p"
    ):
        protocol("papers")


@pytest.fixture
def make_row() -> Callable[..., Row]:
    def make(name: str, value: float) -> Row:
        return Row(name, Scores(10, 0.1, 11, 0.2), Scores(value, 0.9, value, 0.9))

    return make
