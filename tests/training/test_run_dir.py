"""A folder is one run's: what changes its weights is refused, what does not is not."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from test_stages import killed_at, recipe, weights
from torch import Tensor

from refusion.errors import RecipeError, RefusionError
from refusion.training.run import train
from refusion.training.run_dir import check_run_dir, fingerprint, lock


@pytest.fixture(scope="module")
def begun(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed at step 8 of 12, with a checkpoint of step 6."""
    folder = tmp_path_factory.mktemp("begun")
    with pytest.MonkeyPatch.context() as patch:
        killed_at(patch, "train_step", 8)
        with pytest.raises(RuntimeError, match="killed"):
            train(recipe(pairs), folder)
    return folder


@pytest.fixture
def run(begun: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(begun, tmp_path / "run"))


def assert_equal(given: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert given.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(value, given[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["last.ckpt", "data.sha256"])
def test_a_moved_run_goes_on_as_if_it_had_stayed(
    pairs: Path, run: Path, whole: dict[str, Tensor], tmp_path: Path, name: str
) -> None:
    """With its best score, on equal data that lie elsewhere, by other values that change no weights; and
    where the last checkpoint is cut or what is known of the data is lost."""
    data = shutil.copytree(pairs, tmp_path / "data")
    if name == "last.ckpt":
        (run / name).write_bytes((run / name).read_bytes()[:1000])
        with pytest.warns(UserWarning, match=r"last\.ckpt is damaged.*going on from \S+\.ckpt, step 6"):
            train(recipe(data), run)
        assert (run / "damaged.ckpt").stat().st_size == 1000
    else:
        (run / name).unlink()
        free = {"save_every": 5, "keep": 1}
        given = {f"training__{key}": value for key, value in free.items()}
        given["card"] = {"summary": "Other words."}
        train(recipe(data, **given), run)
    assert_equal(weights(run), whole)
    best = torch.load(run / "last.ckpt", weights_only=True)["best"]
    assert {file for _, file in best} == {path.name for path in run.glob("best-*")}


@pytest.mark.slow
def test_the_samples_of_a_step_may_be_divided_anew(pairs: Path, run: Path, whole: dict[str, Tensor]) -> None:
    """They get the same noise; sums of floats are of another order."""
    train(recipe(pairs, training__batch=1, training__accumulate=2), run)
    for name, value in weights(run).items():
        torch.testing.assert_close(value, whole[name], rtol=0, atol=1e-5)


def test_the_best_of_a_moved_run_is_not_beaten_by_worse(pairs: Path, run: Path) -> None:
    """The first validation after the move scores less than the best before it, and releases nothing."""
    saved = torch.load(run / "last.ckpt", weights_only=True)
    ((_, name),) = saved["best"]
    torch.save({**saved, "best": [(99.0, name)]}, run / "last.ckpt")
    released = (run / "model.safetensors").read_bytes()
    with pytest.warns(UserWarning, match=f"from 99.00 to .* going on from {name}"):
        train(recipe(pairs), run)
    assert (run / "model.safetensors").read_bytes() == released


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"training.seed": 1}, "training.seed 0 -> 1"),
        ({"training.learning_rate": 1e-3}, "training.learning_rate 0.01 -> 0.001"),
        ({"training.steps": 6}, "training.steps 12 -> 6"),
        ({"training.validate_every": 4}, "training.validate_every 6 -> 4"),
        ({"data.patch": [8, 8]}, "data.patch"),
        ({"model.network.width": 8}, "model.network.width 4 -> 8"),
    ],
)
def test_values_that_change_weights_are_refused(
    pairs: Path, begun: Path, change: dict[str, Any], named: str
) -> None:
    before = (begun / "recipe.yaml").read_bytes()
    with pytest.raises(RecipeError, match="holds a run with other values") as said:
        check_run_dir(begun, recipe(pairs, **change))
    assert named in str(said.value)
    assert (begun / "recipe.yaml").read_bytes() == before


def test_other_data_are_refused_elsewhere_and_told_in_their_place(
    pairs: Path, run: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(pairs, tmp_path / "data")
    picture = data / "train" / "lq" / "0.png"
    picture.write_bytes(picture.read_bytes() + b"\0")
    with pytest.raises(RecipeError, match=r"other data \(data\.folder .*names or sizes"):
        check_run_dir(run, recipe(data))
    shutil.copyfile(pairs / "train" / "lq" / "0.png", picture)
    assert check_run_dir(run, recipe(data)) == []
    (data / "train" / ".DS_Store").touch()
    assert check_run_dir(run, recipe(data)) == []
    picture.unlink()
    (line,) = check_run_dir(run, recipe(data))
    assert "pictures are not those" in line
    assert check_run_dir(run, recipe(data)) == []


def test_data_are_equal_by_names_sizes_and_parts(pairs: Path, tmp_path: Path) -> None:
    data = shutil.copytree(pairs, tmp_path / "data")
    assert fingerprint(recipe(data)) == fingerprint(recipe(pairs))
    assert fingerprint(recipe(data, data__scenes=[str(data)])) != fingerprint(recipe(data))
    (data / "val" / "gt" / "0.png").rename(data / "train" / "gt" / "9.png")
    assert fingerprint(recipe(data)) != fingerprint(recipe(pairs))


@pytest.mark.slow
def test_steps_may_grow_and_the_schedule_is_told(pairs: Path, run: Path) -> None:
    (line,) = check_run_dir(run, recipe(pairs, training__steps=18))
    rate = 1e-2 * (1e-5 + (1 - 1e-5) * (1 + torch.cos(torch.tensor(torch.pi * 10 / 16))) / 2)
    for part in ("training.steps 12 -> 18", f"{rate:.3g} at step 12", "not be those of a run"):
        assert part in line
    assert "steps: 18" in (run / "recipe.yaml").read_text()
    train(recipe(pairs, training__steps=18), run)
    assert torch.load(run / "last.ckpt", weights_only=True)["global_step"] == 18


@pytest.mark.slow
def test_of_a_constant_rate_a_run_that_grew_is_one_that_was_begun_so(pairs: Path, tmp_path: Path) -> None:
    constant = {"training__lr_schedule": "constant"}
    train(recipe(pairs, training__steps=6, **constant), tmp_path / "grown")
    (line,) = check_run_dir(tmp_path / "grown", recipe(pairs, **constant))
    assert "as one that was begun" in line
    for name in ("grown", "whole"):
        train(recipe(pairs, **constant), tmp_path / name)
    assert_equal(weights(tmp_path / "grown"), weights(tmp_path / "whole"))


@pytest.mark.slow
def test_a_run_goes_on_in_another_precision_and_says_so(
    pairs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As on a machine with other instructions; a checkpoint of an earlier version does not tell it."""
    for steps, precision in ((1, "32"), (2, "32"), (3, "bf16")):
        train(recipe(pairs, training__steps=steps, training__precision=precision), tmp_path)
        assert ("precision 32 -> bf16" in capfd.readouterr().out) == (precision == "bf16")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved.pop("precision") == "bf16"
    torch.save(saved, tmp_path / "last.ckpt")
    train(recipe(pairs, training__steps=4, training__precision="32"), tmp_path)
    assert "->" not in capfd.readouterr().out.replace("training.steps 3 -> 4", "")


def test_batches_of_an_earlier_version_are_not_divided_anew(pairs: Path, run: Path) -> None:
    """Its checkpoints do not tell how many samples a step had."""
    saved = torch.load(run / "last.ckpt", weights_only=True)
    del saved["samples"]
    torch.save(saved, run / "last.ckpt")
    assert check_run_dir(run, recipe(pairs)) == []
    with pytest.raises(RecipeError, match=r"training\.batch 2 -> 1"):
        check_run_dir(run, recipe(pairs, training__batch=1, training__accumulate=2))


def test_a_folder_in_which_nothing_was_trained_takes_any_recipe(pairs: Path, tmp_path: Path) -> None:
    check_run_dir(tmp_path, recipe(pairs))
    assert check_run_dir(tmp_path, recipe(pairs, training__seed=1)) == []
    assert "seed: 1" in (tmp_path / "recipe.yaml").read_text()


def test_a_second_training_in_a_folder_is_refused(pairs: Path, tmp_path: Path) -> None:
    """While the first one runs, and not after it."""
    half = tmp_path / f".{'0' * 32}.part"
    with lock(tmp_path):
        half.touch()
        with pytest.raises(RefusionError, match=r"process \d+ on \S+ is training there: wait"):
            train(recipe(pairs, training__steps=1), tmp_path)
        assert half.exists()
        assert not (tmp_path / "recipe.yaml").exists()
    train(recipe(pairs, training__steps=1), tmp_path)
    assert not half.exists()


def test_a_folder_that_cannot_be_is_one_line(pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RefusionError, match="file: ") as said:
        train(recipe(pairs), tmp_path / "file")
    assert "\n" not in str(said.value)
