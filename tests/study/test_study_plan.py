"""The file of a study: its arms, their values, and what is wrong with it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from arms import Planned

from refusion.errors import RecipeError
from refusion.models.checkpoint import best_device
from refusion.nn.precision import training_precision
from refusion.study.plan import read_study

SECOND = {"level": {"a": {"training.batch": 1}}, "rate": {"b": {"training.batch": 2}}}


def test_arms_are_all_combinations(plan: Callable[..., Planned]) -> None:
    factors = {
        "level": {10: {"training.batch": 1}, 50: {}},
        "rate": {"low": {"training.ema": 0.5}, "high": {}},
    }
    study, runs = plan(factors=factors, common={"training.ema": 0.9}, claims=[])
    assert study.arms == [("10", "low"), ("10", "high"), ("50", "low"), ("50", "high")]
    assert study.values(("10", "low")) == {"training.batch": 1, "training.ema": 0.5}
    assert study.values(("50", "high")) == {"training.ema": 0.9}
    assert [(run.arm, run.seed) for run in runs[:5]] == [
        *((arm, 0) for arm in study.arms),
        (("10", "low"), 1),
    ]
    assert len({run.folder for run in runs}) == 8


def test_a_folder_is_named_by_what_changes_weights(plan: Callable[..., Planned], tmp_path: Path) -> None:
    _, runs = plan()
    _, others = plan(
        name="other",
        factors={"level": {"x": {"model.process.noise_level": "10/255", "task": "y"}}},
        claims=[],
    )
    assert [run.folder for run in others] == [runs[0].folder, runs[2].folder]
    _, faster = plan(common={"training.save_every": 1})
    assert [run.folder for run in faster] == [run.folder for run in runs]
    _, longer = plan(common={"training.steps": 8})
    assert not {run.folder for run in longer} & {run.folder for run in runs}


def test_trainings_in_other_precisions_are_other_runs(plan: Callable[..., Planned]) -> None:
    levels = {name: {"training.precision": name} for name in ("auto", "32", "bf16")}
    _, (auto, single, half) = plan(factors={"precision": levels}, claims=[], seeds=1)
    assert single.folder != half.folder
    native = training_precision("auto", best_device())
    assert auto.folder == {"32": single, "bf16": half}[native].folder


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model": "shadow-removal"}, "recipe"),
        ({"factors": {}}, "factors"),
        ({"claims": [{"says": "", "factor": "level", "better": 60, "than": 10}]}, "level 60"),
        ({"factors": {"level": {"a": {"training.stepz": 1}}}, "claims": []}, "level a: .*training.steps"),
        ({"factors": SECOND, "claims": []}, "training.batch"),
        ({"seed": 1}, "seeds"),
        ({"measure": "pnsr"}, "measure is pnsr, did you mean psnr.*: there are psnr, ssim"),
        ({"measure": "coverage"}, "measure is coverage"),  # of restorations with several samples
        ({"measure": "codec_gt_latent"}, "measure is codec_gt_latent"),  # a codec without weights
    ],
)
def test_what_is_wrong_is_told(plan: Callable[..., Planned], changes: dict[str, object], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        plan(**changes)


@pytest.mark.parametrize("text", ["- 1", "a: [", None])
def test_a_file_that_is_no_study_is_told(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "s.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(RecipeError, match=r"s\.yaml"):
        read_study(file)
