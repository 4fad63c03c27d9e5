"""Training away from the happy path: exploding weights, previews that cannot be, full disks."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_stages import LATENT, killed_at, recipe, weights

from moments import MOMENTS, Command, told, wait_for_handlers
from refusion.data.pairs import Pair
from refusion.errors import RefusionError
from refusion.imaging.arrays import from_array
from refusion.imaging.formats import write
from refusion.training import checkpoints, trainer
from refusion.training import run as run_module
from refusion.training.run import train
from refusion.training.stage import Stage
from refusion.training.stages import DiffusionStage
from refusion.training.stopping import stop_requests


def assert_equal(given: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert given.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(value, given[name]), name


def scaled_at(patch: pytest.MonkeyPatch, step: int, by: float, stage: str) -> None:
    """Multiply the weights before the validation at a step, as a divergence would."""
    validate = trainer.validate

    def exploded(self: Stage, pairs: list[Pair], at: int, *rest: Any) -> dict[str, float]:
        if type(self).__name__ == stage and at == step:
            for parameter in (*self.learner.parameters(), *self.ema.parameters()):
                parameter.data.add_(1).mul_(by)
        return validate(self, pairs, at, *rest)

    patch.setattr(trainer, "validate", exploded)


@pytest.mark.parametrize(
    ("stage", "by"),
    [
        ("DiffusionStage", 1e3),
        ("DiffusionStage", 1e38),
        pytest.param("CodecStage", 1e3, marks=pytest.mark.slow),
        pytest.param("CodecStage", 1e38, marks=pytest.mark.slow),
    ],
)
def test_exploding_weights_roll_back(pairs: Path, tmp_path: Path, by: float, stage: str) -> None:
    """Finite ones, too, by which a restoration overflows or is far off."""
    if stage == "DiffusionStage":
        given, folder = recipe(pairs, training__rollback_drop_db=0.1), tmp_path
    else:
        short = {"training__steps": 1, "codec_training__rollback_drop_db": 0.1}
        given, folder = recipe(pairs, LATENT, **short), tmp_path / "codec"
    with pytest.MonkeyPatch.context() as patch:
        scaled_at(patch, 12, by, stage)
        with pytest.warns(UserWarning, match="at step 12: going on from best-step=6"):
            train(given, tmp_path)
    assert all(float(value.abs().max()) < 100 for value in weights(folder).values() if value.numel())


def test_a_validation_pair_that_is_broken_is_named(pairs: Path, tmp_path: Path) -> None:
    """It is no divergence."""
    data = Path(shutil.copytree(pairs, tmp_path / "data"))
    (data / "val" / "lq" / "1.png").write_bytes(b"broken")
    with pytest.raises(RefusionError, match=r"val/lq/1\.png"):
        train(recipe(data, training__steps=2), tmp_path / "run")


def test_a_preview_that_jpeg_cannot_hold_stops_nothing(pairs: Path, tmp_path: Path) -> None:
    """Three pictures side by side are wider than 65,535 pixels."""
    data = Path(shutil.copytree(pairs, tmp_path / "data"))
    for side in ("lq", "gt"):
        write(from_array(np.full((4, 21850, 3), 0.5)), data / "val" / side / "0.png")
    with pytest.warns(UserWarning, match=r"pictures: no picture of 0: ") as said:
        model = train(recipe(data, training__steps=2), tmp_path / "run")
    assert len([line for line in said if "no picture" in str(line.message)]) == 1
    assert model.exists()
    assert {path.name for path in (tmp_path / "run" / "pictures").iterdir()} == {"1-2.jpg", "2-2.jpg"}


def test_a_folder_of_previews_that_cannot_be_stops_nothing(pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures").write_bytes(b"a file")
    with pytest.warns(UserWarning, match="no picture of 0") as said:
        assert train(recipe(pairs, training__steps=2), tmp_path).exists()
    assert len([line for line in said if "no picture" in str(line.message)]) == 1


@pytest.mark.filterwarnings("ignore:.*no picture of")
@pytest.mark.parametrize("write_number", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 4)), 7])
def test_a_full_disk_is_one_line_and_the_run_goes_on_later(
    pairs: Path, whole: dict[str, torch.Tensor], tmp_path: Path, write_number: int
) -> None:
    """At any write: with room again, the same call comes out as if nothing had been."""
    fsync, calls = os.fsync, []

    def full(file: int) -> None:
        calls.append(file)
        if len(calls) > write_number:
            raise OSError(28, "No space left on device")
        fsync(file)

    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RefusionError, match=r"run\S*: No space left on device; ") as said:
            train(recipe(pairs), run)
    assert "\n" not in str(said.value)
    assert not list(run.rglob(".*.part"))
    train(recipe(pairs), run)
    assert_equal(weights(run), whole)


TERM, INT = (signal.SIGTERM, 143), (signal.SIGINT, None)


@pytest.mark.parametrize(
    ("place", "call", "saved", "sent"),
    [
        ("train_step", 9, 9, INT),
        pytest.param("train_step", 8, 8, TERM, marks=pytest.mark.slow),
        ("measure", 2, 6, TERM),
        ("measure", 5, 12, INT),
        pytest.param("resume", 1, None, TERM, marks=pytest.mark.slow),
        pytest.param("release", 1, 7, TERM, marks=pytest.mark.slow),
        ("make_fabric", 1, None, TERM),
        pytest.param("finish", 1, 12, TERM, marks=pytest.mark.slow),
    ],
)
def test_a_signal_anywhere_saves_and_is_told(
    pairs: Path,
    whole: dict[str, torch.Tensor],
    tmp_path: Path,
    place: str,
    call: int,
    saved: int | None,
    sent: tuple[int, int | None],
) -> None:
    """In a step, in the first and the last validation, and where there is nothing to save; then the run goes
    on as one that was not stopped."""
    number, status = sent
    owner: Any = next(o for o in (DiffusionStage, run_module, trainer) if hasattr(o, place))
    called, calls = getattr(owner, place), []

    def struck(*args: Any, **named: Any) -> Any:
        calls.append(place)
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return called(*args, **named)

    expected: type[BaseException] = KeyboardInterrupt if status is None else SystemExit
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, place, struck)
        with pytest.raises(expected) as stopped:
            train(recipe(pairs), tmp_path)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert getattr(stopped.value, "code", None) == status
    last = tmp_path / "last.ckpt"
    assert (torch.load(last, weights_only=True)["global_step"] if last.exists() else None) == saved
    train(recipe(pairs), tmp_path)
    assert_equal(weights(tmp_path), whole)


def once(passed: list[int]) -> None:
    with stop_requests() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        passed.append(stop.number)


def test_a_signal_raises_nothing_where_nobody_asks() -> None:
    """It could come in a callback from C, which would swallow it; it is raised at the end."""
    passed: list[int] = []
    with pytest.raises(SystemExit):
        once(passed)
    assert passed == [signal.SIGTERM]


def twice() -> None:
    with stop_requests():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the second was kept, too")


def test_a_second_signal_does_not_wait() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            twice()
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    command = Command(tmp_path / "stderr.txt", "refusion.training.run")
    yield command
    command.close()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals like these")
@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ended_at_any_moment_training_loses_nothing_and_tells(
    pairs: Path, tmp_path: Path, command: Command, number: signal.Signals
) -> None:
    """In both stages. Each run goes on where the one before ended; those that come to their end have the
    weights of a run of one piece."""
    file = tmp_path / "tiny.yaml"
    file.write_text(recipe(pairs, LATENT, training__steps=24).to_yaml())
    command.start("train", file, "-o", tmp_path / "warm")
    assert command.result()[0] == 0
    began = time.monotonic()
    command.start("train", file, "-o", tmp_path / "whole")
    assert command.result()[0] == 0
    lasts, rng = time.monotonic() - began, random.Random(int(number))
    cut, steps, statuses = tmp_path / "cut", 0, Counter[int]()
    while statuses.total() - statuses[0] < MOMENTS:
        run = command.start("train", file, "-o", cut)
        wait_for_handlers(run)
        if not command.ends_within(rng.uniform(0, lasts)):
            os.killpg(run, number)
        status, error = command.result()
        statuses[status] += 1
        if status == 0:
            assert_same_run(cut, tmp_path / "whole", ".", "codec")
            shutil.rmtree(cut)
            steps = 0
            continue
        expected, last_line = told(number)
        assert status == expected, error
        assert error.endswith(last_line)
        assert "Traceback" not in error
        assert number == signal.SIGKILL or not list(cut.rglob(".*.part"))
        last = cut / "last.ckpt"
        reached = checkpoints.read(last)["global_step"] if last.exists() else 0
        assert reached >= steps
        steps = reached
    print(f"{number.name}: {dict(statuses)}")
    command.start("train", file, "-o", cut)
    assert command.result()[0] == 0
    assert_same_run(cut, tmp_path / "whole", ".", "codec")


def assert_same_run(run: Path, whole: Path, *stages: str) -> None:
    """The stages end with the same bits, and nothing is left behind."""
    for stage in stages:
        assert_equal(weights(run / stage), weights(whole / stage))
    assert not list(run.rglob(".*.part"))


PLAIN, TORCHRUN = ("-m", "refusion"), ("-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "refusion")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals like these")
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("processes", [1, 2])
def test_all_processes_stop_at_one_step(pairs: Path, tmp_path: Path, processes: int) -> None:
    """With a checkpoint, whoever hears the signal, be it those that read pictures; the rest is as ever.

    torchrun has a status of its own.
    """
    file = tmp_path / "tiny.yaml"
    once = dict.fromkeys(("training__steps", "training__validate_every", "training__save_every"), 200)
    file.write_text(recipe(pairs, **once, training__workers=1).to_yaml())

    def start(launch: tuple[str, ...], out: str) -> "subprocess.Popen[str]":
        words = ["train", str(file), "-o", str(tmp_path / out), "--devices", str(processes)]
        return subprocess.Popen(
            [sys.executable, *launch, *words],
            start_new_session=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def stop(launch: tuple[str, ...], kill: Any, number: signal.Signals, since: int) -> tuple[int, int, str]:
        """Send a signal when steps were done; return status, step and errors."""
        run, log = start(launch, "cut"), tmp_path / "cut" / "log" / f"from-step-{since}" / "metrics.csv"
        while not log.exists():
            assert run.poll() is None
            time.sleep(0.01)
        kill(run.pid, number)
        _, error = run.communicate(timeout=300)
        return run.returncode, checkpoints.read(tmp_path / "cut" / "last.ckpt")["global_step"], error

    status, first, error = stop(PLAIN, os.killpg, signal.SIGINT, 0)
    assert status == 130, error
    assert 10 <= first < 200
    assert "Traceback" not in error
    if processes == 2:
        status, second, error = stop(PLAIN, os.kill, signal.SIGTERM, first)
        assert status == 143, error
        assert first < second < 200
        assert "Traceback" not in error
        _, third, error = stop(TORCHRUN, os.kill, signal.SIGTERM, second)
        assert second < third < 200, error
    for out in ("cut", "whole"):
        run = start(PLAIN, out)
        _, error = run.communicate(timeout=600)
        assert run.returncode == 0, error
    assert_same_run(tmp_path / "cut", tmp_path / "whole", ".")


@pytest.mark.slow
def test_one_process_and_two_are_the_same_run(pairs: Path, tmp_path: Path) -> None:
    """From the beginning, and from a checkpoint of the other number on; sums of floats are of another
    order."""
    train(recipe(pairs, training__batch=4), tmp_path / "one")
    with pytest.MonkeyPatch.context() as patch:
        killed_at(patch, "train_step", 8)
        with pytest.raises(RuntimeError, match="killed"):
            train(recipe(pairs, training__batch=4), tmp_path / "both")
    file = tmp_path / "two.yaml"
    file.write_text(recipe(pairs, training__batch=2).to_yaml())
    command = [sys.executable, "-m", "refusion", "train", str(file), "--devices", "2", "-o"]
    for name in ("two", "both"):
        subprocess.run(
            [*command, str(tmp_path / name)],
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
            check=True,
        )
        for key, value in weights(tmp_path / "one").items():
            torch.testing.assert_close(weights(tmp_path / name)[key], value, rtol=0, atol=1e-5)
    assert torch.load(tmp_path / "both" / "last.ckpt", weights_only=True)["processes"] == 2
