"""A study of two tiny arms: trained, stopped, divided, and reported with the numbers that a hand computes."""

import csv
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from arms import RECIPE, Planned
from torch import Tensor

import refusion
from refusion.data.pairs import Pair, find_pairs
from refusion.evaluation.evaluate import evaluate
from refusion.models.checkpoint import save
from refusion.models.spec import Card
from refusion.restoring.request import Request, Result
from refusion.restoring.restorer import Restorer
from refusion.study import measure, tasks
from refusion.study import work as working
from refusion.study.lease import lease
from refusion.study.measure import read_scores
from refusion.study.report import fill_page, write_report
from refusion.study.results import collect, effects, findings, read_curve
from refusion.study.runs import FAILED, RESULT, Run
from refusion.study.statistics import t_quantile
from refusion.study.work import Tally, core_hours, tally, work
from refusion.training import checkpoints, stages, trainer
from refusion.training.recipe import load_yaml, parse, resolve

Draw = list[tuple[Tensor, ...]]


def ignore(line: str) -> None:
    pass


def finish(run: Run) -> None:
    (run.folder / RESULT).write_text(json.dumps({"metrics": {"psnr": 1.0}, "steps": 6}))


@pytest.fixture
def finished(plan: Callable[..., Planned]) -> Planned:
    """Both arms with three seeds, whose scores are made up."""
    study, runs = plan(seeds=3)
    psnr = {
        "10": [[20.0, 24.0], [21.0, 25.0], [22.0, 23.0]],
        "50": [[21.0, 26.0], [23.0, 26.0], [25.0, 26.0]],
    }
    for run in runs:
        run.folder.mkdir(parents=True)
        values = psnr[run.arm[0]][run.seed]
        rows = [f"{name},{value},0.5" for name, value in zip("ab", values, strict=True)]
        (run.folder / "scores.csv").write_text("\n".join(["name,psnr,ssim", *rows]) + "\n")
        log = run.folder / "log" / "from-step-0"
        log.mkdir(parents=True)
        (log / "metrics.csv").write_text(
            f"step,train/loss,val/psnr\n1,0.5,\n2,,{values[0]}\n4,,{values[1]}\n"
        )
        content = {"metrics": {"psnr": sum(values) / 2, "ssim": 0.5}, "steps": 6, "core_seconds": 1800.0}
        (run.folder / RESULT).write_text(json.dumps(content))
    return study, runs


def test_effects_are_those_of_a_hand(finished: Planned) -> None:
    """By seed the differences are 1.5, 1.5 and 3; by picture 2 and 2."""
    study, runs = finished
    results = collect(runs)
    (effect,) = effects(study, results)
    assert (effect.level, effect.reference, effect.count) == ("50", "10", 3)
    assert effect.mean == 2.0
    assert effect.seeds is not None
    half = t_quantile(2) * math.sqrt(0.75) / math.sqrt(3)
    assert effect.seeds.low == pytest.approx(2 - half)
    assert effect.pictures is not None
    assert (effect.pictures.low, effect.pictures.high) == (2.0, 2.0)
    assert effect.sign == 0  # 2 - 4.303 * 0.866 / 1.732 = -0.15
    assert [finding.verdict for finding in findings(study, results)] == ["cannot tell"]
    assert results[0].curve == {2: 20.0, 4: 24.0}


def test_a_claim_is_judged_by_all_intervals(finished: Planned) -> None:
    study, runs = finished
    results = [result for result in collect(runs) if result.seed < 2]  # differences 1.5 and 1.5, 2.0 and 1.0
    assert [finding.verdict for finding in findings(study, results)] == ["agrees"]
    turned = study.model_copy(
        update={"claims": (study.claims[0].model_copy(update={"better": "10", "than": "50"}),)}
    )
    assert [finding.verdict for finding in findings(turned, results)] == ["disagrees"]
    assert [finding.verdict for finding in findings(study, [])] == ["not measured"]


def test_one_training_of_each_level_cannot_tell_and_one_restoration_can(finished: Planned) -> None:
    """Over pictures the differences are 1 and 2; another training could turn them, and a model has none."""
    study, runs = finished
    results = [result for result in collect(runs) if result.seed == 0]
    assert [finding.verdict for finding in findings(study, results)] == ["cannot tell"]
    restoring = study.model_copy(update={"recipe": "", "model": "shadow-removal"})
    assert [finding.verdict for finding in findings(restoring, results)] == ["agrees"]


def test_runs_without_the_measure_do_not_count(finished: Planned) -> None:
    """As runs of an earlier version, that had fewer metrics."""
    study, runs = finished
    results = collect(runs)
    lacking = [replace(r, metrics={"ssim": 0.5}) if r.seed == 0 else r for r in results]
    (effect,) = effects(study, lacking)
    assert (effect.count, effect.mean) == (2, 2.25)
    assert effects(study, [replace(r, metrics={}) for r in results]) == []


def test_the_report_has_the_numbers(finished: Planned, tmp_path: Path) -> None:
    page = write_report([finished], tmp_path / "report")
    text, web = page.read_text(), page.with_suffix(".html").read_text()
    for number in (
        "+2.00 [-0.15, +4.15]",
        "+2.00 [+2.00, +2.00]",
        "22.50 ± 0.50",
        "24.50 ± 1.00",
        "cannot tell",
    ):
        assert number in text
        assert number in web
    with (page.parent / "tiny.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert rows[0] == {"level": "10", "seed": "0", "picture": "a", "psnr": "20.0", "ssim": "0.5"}
    assert refusion.read(page.parent / "tiny.png").size[0] > 400


def test_a_page_is_filled_where_it_is_marked(finished: Planned, tmp_path: Path) -> None:
    page = tmp_path / "docs.md"
    page.write_text("# Mine\n<!-- study tiny -->old<!-- end tiny -->\n<!-- study b -->stays<!-- end b -->\n")
    fill_page([finished], page)
    once = page.read_text()
    assert once.startswith("# Mine\n<!-- study tiny -->\n")
    assert "old" not in once
    assert "<!-- study b -->stays<!-- end b -->" in once
    assert "+2.00 [-0.15, +4.15]" in once
    assert (tmp_path / "docs" / "tiny.png").exists()
    fill_page([finished], page)
    assert page.read_text() == once


def test_core_hours_are_those_of_the_runs_of_an_arm(finished: Planned) -> None:
    _, runs = finished
    assert core_hours(runs, measured=False) == 0
    (runs[0].folder / RESULT).unlink()
    assert core_hours(runs, measured=False) == 0.5
    for run in runs[2::2]:
        (run.folder / RESULT).unlink()
    assert (
        core_hours(runs, measured=False) == 1.5
    )  # three runs of an arm without any: as many steps of the others
    for run in runs[1::2]:
        (run.folder / RESULT).unlink()
    assert core_hours(runs, measured=False) is None


@pytest.mark.slow
def test_two_arms_are_trained_and_scored(plan: Callable[..., Planned], pairs: Path) -> None:
    study, runs = plan(seeds=1)
    lines: list[str] = []
    assert work(study, runs, lines.append) == Tally(2, 0, 0)
    assert len(lines) == 4
    for run in runs:
        curve = read_curve(run.folder)
        assert list(curve) == [2, 4, 6]
        result = run.result()
        assert result["metrics"]["psnr"] == pytest.approx(
            curve[6], abs=1e-4
        )  # of the last step, not the best
        assert result["core_seconds"] > 0
        assert not list(run.folder.rglob("*.ckpt"))
        if curve[6] == max(curve.values()):
            rows = [row for row, _ in evaluate(refusion.load(run.folder), find_pairs(pairs / "val"))]
            scores = read_scores(run.folder)
            assert [scores[row.name]["psnr"] for row in rows] == pytest.approx(
                [r.output.psnr for r in rows], abs=1e-3
            )
    before = [(run.folder / RESULT).read_text() for run in runs]
    assert work(study, runs, ignore) == Tally(2, 0, 0)
    assert [(run.folder / RESULT).read_text() for run in runs] == before


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_scores(
    plan: Callable[..., Planned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, runs = plan(seeds=1)
    whole = [Run(run.arm, run.seed, run.task, tmp_path / "whole" / run.folder.name) for run in runs]
    work(study, whole, ignore)

    take_step, steps = trainer.train_step, []

    def stop_at_fifth(
        stage: Any, objective: Any, optimizer: Any, batches: Any, step: int, fabric: Any
    ) -> Any:
        steps.append(step)
        if len(steps) == 5:
            raise KeyboardInterrupt
        return take_step(stage, objective, optimizer, batches, step, fabric)

    monkeypatch.setattr(trainer, "train_step", stop_at_fifth)
    with pytest.raises(KeyboardInterrupt):
        work(study, runs, ignore)
    assert tally(runs) == Tally(0, 0, 2)
    steps.append(0)  # the sixth and later ones go on
    assert work(study, runs, ignore) == Tally(2, 0, 0)
    assert steps[:8] == [0, 1, 2, 3, 4, 0, 4, 5]
    for run, uncut in zip(runs, whole, strict=True):
        assert read_scores(run.folder) == read_scores(uncut.folder)
        assert read_curve(run.folder) == read_curve(uncut.folder)


@pytest.mark.slow
def test_a_killed_worker_is_replaced(plan: Callable[..., Planned], pairs: Path, tmp_path: Path) -> None:
    """Killed outright in its first run, which the next worker takes over, and ends to the same scores."""
    study, runs = plan(
        common={"training.steps": 60, "training.validate_every": 60, "training.save_every": 1}, seeds=1
    )
    words = ["study", tmp_path / "study.yaml", "--data", pairs, "--runs", tmp_path / "runs"]
    worker = subprocess.Popen([sys.executable, "-m", "refusion", *map(str, words)], stderr=subprocess.DEVNULL)
    while not (runs[0].folder / "previous.ckpt").exists():
        assert worker.poll() is None
        time.sleep(0.01)
    worker.kill()
    worker.wait()
    assert not runs[0].done
    assert list(runs[0].folder.glob(".lease-*"))
    reached = checkpoints.read_newest(runs[0].folder)
    assert reached is not None
    assert reached.step >= 1
    assert work(study, runs, ignore) == Tally(2, 0, 0)
    whole = Run(runs[0].arm, 0, runs[0].task, tmp_path / "whole")
    work(study, [whole], ignore)
    assert read_scores(runs[0].folder) == read_scores(whole.folder)
    assert "core_seconds" not in runs[0].result()  # a part of it was spent by another


def test_a_failed_run_is_told_and_does_not_stop_the_rest(
    plan: Callable[..., Planned], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, runs = plan(seeds=1)
    fails = [True]

    def perform(run: Run) -> None:
        if run.arm == ("10",) and fails:
            raise RuntimeError("no luck\nwith it")
        finish(run)

    monkeypatch.setattr(working.Run, "perform", perform)
    lines: list[str] = []
    assert work(study, runs, lines.append) == Tally(1, 1, 0)
    assert any("failed: RuntimeError: no luck;" in line for line in lines)
    assert work(study, runs, ignore) == Tally(1, 1, 0)
    assert (runs[0].folder / FAILED).read_text() == "RuntimeError: no luck\n"
    fails.clear()
    assert work(study, runs, ignore, retry=True) == Tally(2, 0, 0)


def test_what_another_worker_holds_is_left(
    plan: Callable[..., Planned], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, runs = plan(seeds=1)
    done: list[Run] = []

    def perform(run: Run) -> None:
        done.append(run)
        finish(run)

    monkeypatch.setattr(working.Run, "perform", perform)
    with lease(runs[0].folder):
        assert work(study, runs, ignore) == Tally(1, 0, 1)
    assert work(study, runs, ignore) == Tally(2, 0, 0)
    assert done == [runs[1], runs[0]]


@pytest.mark.slow
def test_arms_draw_the_same_samples_times_and_noise(
    plan: Callable[..., Planned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one seed; of another seed others."""
    _, runs = plan(common={"training.steps": 2})
    draws: dict[tuple[str, int], Draw] = {}
    loss = stages.diffusion_loss

    def record(
        network: Any, sde: Any, prediction: Any, x0: Tensor, mu: Tensor, t: Tensor, noise: Tensor, *rest: Any
    ) -> Tensor:
        draws[current].append(tuple(z.clone() for z in (x0, mu, t, noise)))
        return loss(network, sde, prediction, x0, mu, t, noise, *rest)

    monkeypatch.setattr(stages, "diffusion_loss", record)
    for run in runs[:3]:
        current = run.arm[0], run.seed
        draws[current] = []
        run.task.perform(tmp_path / f"{run.arm[0]}-{run.seed}")
    pairs_of_draws = list(zip(draws["10", 0], draws["50", 0], strict=True))
    assert len(pairs_of_draws) == 2
    assert all(
        torch.equal(a, b) for first, second in pairs_of_draws for a, b in zip(first, second, strict=True)
    )
    assert not torch.equal(draws["10", 0][0][3], draws["10", 1][0][3])


@pytest.mark.slow
def test_a_model_is_studied_without_training(
    plan: Callable[..., Planned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each picture is scored once, also where the work was stopped between two."""
    recipe = parse(RECIPE, "test")
    model = str(tmp_path / "model.safetensors")
    save(Path(model), recipe.model.build(), recipe.model, Card())
    factors = {
        "sampler": {"a": {"sampler": "posterior"}, "b": {"sampler": "ode-2"}},
        "steps": {1: {"steps": 1}, 4: {"steps": 4}},
    }
    study, runs = plan(recipe="", model=model, factors=factors, claims=[], common={"samples": 2}, seeds=1)
    score = measure.score
    calls = []

    def stop_at_second(*images: Any) -> Any:
        calls.append(images)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return score(*images)

    monkeypatch.setattr(measure, "score", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        work(study, runs, ignore)
    assert work(study, runs, ignore) == Tally(4, 0, 0)
    assert len(calls) == 9
    assert ["core_seconds" in run.result() for run in runs] == [False, True, True, True]
    results = collect(runs)
    assert {len(result.scores) for result in results} == {2}
    assert 0 <= results[0].metrics["coverage"] <= 1
    assert -1 <= results[0].metrics["rank_correlation"] <= 1
    assert [effect.arm for effect in effects(study, results, "steps")] == [("a", "4"), ("b", "4")]


@pytest.fixture
def precisions(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The precisions of all requests of measurements, which give the degraded picture back."""
    asked: list[Any] = []

    def run(restore: Restorer, request: Request) -> Result:
        asked.append(request.limits.precision)
        return Result(request.images)

    monkeypatch.setattr(Restorer, "run", run)
    return asked


def test_all_machines_measure_in_float32(
    plan: Callable[..., Planned], tmp_path: Path, precisions: list[Any]
) -> None:
    """Unless a level of a model's study says otherwise."""
    _, runs = plan(common={"training.steps": 2}, seeds=1)
    runs[0].task.perform(tmp_path / "trained")
    model = str(tmp_path / "trained" / "model.safetensors")
    assert set(precisions) == {"32"}
    precisions.clear()
    levels: dict[str, Any] = {"none": {}, "32": {"precision": "32"}, "bf16": {"precision": "bf16"}}
    _, runs = plan(recipe="", model=model, factors={"precision": levels}, claims=[], seeds=1)
    for run in runs:
        (tmp_path / run.arm[0]).mkdir()
        run.task.perform(tmp_path / run.arm[0])
    assert precisions == ["32", "32", "32", "32", "bf16", "bf16"]
    assert runs[0].folder == runs[1].folder != runs[2].folder


@pytest.mark.parametrize("count", [1, 2, 5])
def test_an_estimate_counts_every_picture(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Of a call of the network 2 core-seconds, and of a picture 3 more."""
    monkeypatch.setattr(tasks, "_core_seconds_of", lambda task: len(task.pairs) * (2.0 * task.steps + 3.0))
    task = tasks.RestoringTask(Path("model"), {"steps": 7}, (Pair((), ()),) * count)
    assert task.estimate() == count * (2 * 7 + 3)


def test_an_estimate_counts_the_steps_of_every_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mean is trained before its flow, and of each a few steps are timed."""
    monkeypatch.setattr(tasks, "_core_seconds_of", lambda task: 2.0 * task.steps)
    recipe = load_yaml(resolve("super-resolution-texture"))
    task = tasks.TrainingTask(recipe, stride=1)
    assert task.steps == recipe.mean_training.steps + recipe.training.steps
    assert task.estimate() == 2 * task.steps
