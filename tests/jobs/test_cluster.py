"""Who restores what on a cluster, and what is tried again; the library is played here."""

import itertools
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from refusion.errors import RefusionError
from refusion.jobs.cluster import TRIES, WINDOW, Work, _outcomes, _Pool, _workers
from refusion.jobs.plan import Job
from refusion.jobs.run import Outcome, Output


class RayError(Exception):
    pass


class RayActorError(RayError):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        self.cause = cause


class Method:
    """A method of an actor, whose calls are run when they are waited for."""

    def __init__(self, played: "Played", run: Callable[..., Any]) -> None:
        self._played, self._run = played, run

    def options(self, **options: Any) -> "Method":
        return self

    def remote(self, *values: Any) -> int:
        call = next(self._played.numbers)
        self._played.waiting[call] = lambda: self._run(*values)
        return call


class Actor:
    def __init__(self, played: "Played", number: int) -> None:
        self.ready = Method(played, lambda: True)
        self.restore = Method(played, lambda job: played.restore(number, job))


class Played(ModuleType):
    """The library, with workers that do what `restore` says."""

    def __init__(self, restore: Callable[[int, Job], Outcome]) -> None:
        super().__init__("ray")
        self.restore, self.numbers = restore, itertools.count()
        self.waiting: dict[int, Callable[[], Any]] = {}
        self.most = 0
        self.exceptions = ModuleType("exceptions")
        self.exceptions.__dict__.update(
            RayError=RayError, RayActorError=RayActorError, RayTaskError=RayTaskError
        )

    def wait(self, calls: list[int], num_returns: int, timeout: float) -> tuple[list[int], list[int]]:
        self.most = max(self.most, len(calls))
        return calls[-1:], calls[:-1]

    def get(self, call: int) -> Any:
        return self.waiting.pop(call)()


JOBS = [Job((Path(f"{i}.png"),), (Path(f"out/{i}.png"),)) for i in range(20)]


def outcomes(restore: Callable[[int, Job], Outcome], workers: int = 3) -> tuple[list[Outcome], Played]:
    played = Played(restore)
    pool = _Pool(played, [Actor(played, i) for i in range(workers)])
    for i in range(workers):
        pool.start(i)
    found = list(_outcomes(iter(JOBS), pool))
    assert not played.waiting or all(run() is True for run in played.waiting.values())
    return found, played


def test_every_job_has_one_outcome_and_few_are_with_the_workers() -> None:
    found, played = outcomes(lambda worker, job: Outcome(job, "restored"))
    assert {outcome.job for outcome in found} == set(JOBS)
    assert len(found) == len(JOBS)
    assert played.most <= 3 * WINDOW


def test_a_job_that_kills_its_workers_fails_and_the_others_do_not() -> None:
    tried = list[tuple[int, Job]]()

    def restore(worker: int, job: Job) -> Outcome:
        tried.append((worker, job))
        times = sum(job == other for _, other in tried)
        if job == JOBS[4] or (job == JOBS[7] and times < TRIES):
            raise RayActorError("the worker died\nbecause of its memory")
        return Outcome(job, "restored")

    found, _ = outcomes(restore)
    assert {outcome.job for outcome in found} == set(JOBS)
    assert len(found) == len(JOBS)
    (failed,) = (outcome for outcome in found if outcome.status == "failed")
    assert failed.job == JOBS[4]
    assert failed.error == f"4.png: its worker died {TRIES} times (because of its memory)"
    assert sum(job == JOBS[4] for _, job in tried) == TRIES


def test_an_error_of_the_work_is_that_of_the_command() -> None:
    def restore(worker: int, job: Job) -> Outcome:
        raise RayTaskError(ValueError("steps is 101"))

    with pytest.raises(ValueError, match="steps is 101"):
        outcomes(restore)


def test_a_model_that_cannot_be_loaded_is_told() -> None:
    played = Played(lambda worker, job: Outcome(job, "restored"))
    pool = _Pool(played, [Actor(played, 0)])
    pool.start(0)

    def fail() -> None:
        raise RayActorError("the actor died\nCheckpointError: x.safetensors: no such file")

    played.waiting[next(iter(pool.starting))] = fail
    with pytest.raises(RefusionError, match="cannot start: CheckpointError: x"):
        list(_outcomes(iter(JOBS), pool))


@pytest.mark.parametrize(
    ("nodes", "threads", "count", "needs"),
    [
        ([{"CPU": 8.0}, {"CPU": 6.0}], None, 3, {"num_cpus": 4}),
        ([{"CPU": 8.0}, {"CPU": 2.0}], None, 5, {"num_cpus": 2}),
        ([{"CPU": 8.0}, {"CPU": 2.0}], 1, 10, {"num_cpus": 1}),
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 64.0}], None, 2, {"num_cpus": 1, "num_gpus": 1}),
        ([{"CPU": 2.0}], 4, 0, {}),
    ],
)
def test_a_worker_has_an_accelerator_or_a_group_of_cores(
    nodes: list[dict[str, float]], threads: int | None, count: int, needs: dict[str, int]
) -> None:
    asked, work = list[dict[str, Any]](), Work(pytest.fail, {}, Output(), None, Path())

    class Remote:
        def options(self, **options: Any) -> "Remote":
            asked.append(options)
            return self

        def remote(self, work: object) -> object:
            return work

    ray = ModuleType("ray")
    ray.__dict__.update(
        nodes=lambda: [{"Alive": True, "Resources": node} for node in nodes], remote=lambda kind: Remote()
    )
    if not count:
        with pytest.raises(RefusionError, match="give fewer --threads"):
            _workers(ray, work, threads)
        return
    assert len(_workers(ray, work, threads)) == count
    assert asked[0].items() >= needs.items()
