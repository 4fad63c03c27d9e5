"""Whether deviations tell errors: ranks against SciPy, coverage of normal errors, and a scale found again."""

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pairs import Place, make_pairs
from refusion.errors import DataError
from refusion.evaluation.uncertainty import calibrate, error_map, rank_correlation, spread
from refusion.imaging.arrays import from_array
from refusion.models.checkpoint import load, read_header, save, save_with_card
from refusion.models.spec import Card
from refusion.restoring.request import Request, Result
from refusion.restoring.restorer import Restorer
from refusion.training.recipe import parse
from tiny import SMALLEST


def test_ranks_are_those_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, 50).astype(float), rng.normal(size=50)
    assert rank_correlation(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert rank_correlation(a, np.exp(a)) == pytest.approx(1)
    assert rank_correlation(a, np.zeros(50)) == 0


def test_an_error_by_hand() -> None:
    image, truth = from_array(np.full((1, 2, 3), 0.5)), np.full((1, 2, 3), 0.5)
    truth[0, 1] = (0.5, 0.8, 0.1)
    assert error_map(image, from_array(truth)) == pytest.approx(np.array([[0, np.sqrt(0.25 / 3)]]), abs=1e-6)


def test_a_true_deviation_covers_its_errors() -> None:
    """Of normal errors 68.3 % are within one deviation, and 38.3 % within a half."""
    rng = np.random.default_rng(0)
    std = rng.uniform(0.01, 0.1, (64, 64)).repeat(8, 0).repeat(8, 1)
    error = np.abs(rng.normal(size=std.shape)) * std
    true, half = spread(std, error), spread(std / 2, error)
    assert true.coverage == pytest.approx(0.683, abs=0.01)
    assert half.coverage == pytest.approx(0.383, abs=0.01)
    assert true.deviation_to_error == pytest.approx(1, abs=0.01)
    assert half.deviation_to_error == pytest.approx(0.5, abs=0.01)
    assert true.rank_correlation > 0.95
    assert half.rank_correlation == pytest.approx(true.rank_correlation)


@pytest.fixture
def model() -> Restorer:
    torch.manual_seed(0)
    made = parse(SMALLEST, "test").model.build()
    torch.nn.init.normal_(made.network.ending.weight, std=0.1)  # zero before training
    return made


@pytest.fixture
def normal_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors of restorations are normal, and their deviations three times too small."""
    rng = np.random.default_rng(0)

    def run(restore: Restorer, request: Request) -> Result:
        lq = request.images[0]
        gt = (lq.pixels - 0.1) / 0.5  # see `pairs.degrade`
        error = 0.01 * rng.normal(size=(*gt.shape[:2], 1))
        std = np.full(gt.shape[:2], restore.std_scale * 0.01 / 3, np.float32)
        return Result((lq.with_pixels((gt + error).astype(np.float32)),), (std,))

    monkeypatch.setattr(Restorer, "run", run)


@pytest.mark.usefixtures("normal_errors")
def test_a_scale_is_found_and_holds_on_other_pictures(place: Place, model: Restorer) -> None:
    pairs = make_pairs(place, [(80, 90)] * 4)
    scaled = replace(model, std_scale=7.0)  # what was there before does not matter
    found = calibrate(scaled, pairs, samples=2)
    assert found.scale == pytest.approx(3, rel=0.03)
    assert found.before == pytest.approx(0.261, abs=0.02)  # within a third of a deviation
    assert found.after == pytest.approx(0.683, abs=0.02)


@pytest.mark.slow
@pytest.mark.usefixtures("normal_errors")
def test_the_memory_does_not_grow_with_the_pictures(place: Place, model: Restorer) -> None:
    pairs = make_pairs(place, [(200, 200)] * 2)
    peaks = []
    for count in (1, 1, 10):  # the first one imports
        tracemalloc.start()
        calibrate(model, pairs * count, samples=2)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < peaks[1] + 3 * 200 * 200 * 4  # some maps of float32, not nine more


def test_there_must_be_pictures_to_test_and_samples_to_differ(place: Place, model: Restorer) -> None:
    pairs = make_pairs(place, [(8, 8)] * 2)
    with pytest.raises(DataError, match="1 pairs"):
        calibrate(model, pairs[:1], samples=2)
    with pytest.raises(ValueError, match="samples"):
        calibrate(model, pairs)


def test_a_card_scales_the_deviation(place: Place, model: Restorer, tmp_path: Path) -> None:
    spec, file = parse(SMALLEST, "test").model, tmp_path / "model.safetensors"
    save(file, model, spec, Card(task="test"), {"a": 1}, torch.float16)
    save_with_card(tmp_path / "scaled.safetensors", read_header(file), Card(task="test", std_scale=2.5))
    plain, scaled = load(file, "cpu"), load(tmp_path / "scaled.safetensors", "cpu")
    assert scaled.header.recipe == {"a": 1}
    for name, weight in plain.network.state_dict().items():
        assert torch.equal(weight, scaled.network.state_dict()[name])
    picture = from_array(np.random.default_rng(0).uniform(size=(8, 10, 3)))
    stds = [one.run(one.request(picture, samples=2, steps=2)).std for one in (plain, scaled)]
    assert stds[0] is not None
    assert stds[0].max() > 0
    assert stds[1] == pytest.approx(2.5 * stds[0])
