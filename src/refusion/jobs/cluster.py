"""Restoration of jobs on a Ray cluster (`pip install "refusion[ray]"`).

Each worker is an actor with an accelerator or a group of cores of its own, in which the model is loaded once,
and which restores its jobs by `refusion.jobs.run`: results are the same bytes wherever they are made. A
bounded number of jobs is with the workers at any time. When a worker or its machine dies, Ray starts another,
and its jobs are tried again, a few times. The driver keeps nothing: started again, it skips what is done.
"""

import importlib
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from refusion.errors import RefusionError
from refusion.jobs.outputs import Outputs
from refusion.jobs.plan import Job
from refusion.jobs.run import Outcome, run
from refusion.jobs.stages import Output
from refusion.restoring.request import Options
from refusion.restoring.restorer import Restorer

WINDOW = 2
"""Jobs that a worker has at a time: one in work, and the next."""
TRIES = 3
"""How often a job may lose its worker before it fails."""
CORES = 4
"""Cores of a worker without an accelerator, unless told otherwise."""
PATIENCE = 900.0
"""Seconds in which there must be a worker."""


@dataclass(frozen=True)
class Work:
    """What all workers do.

    Args:
        load: makes the restorer; it is called in each worker, and may come from an installed module only.
        options: of every request.
        output: the files besides the restored pictures.
        hole_colour: see `refusion.jobs.run.run`.
        folder: to which relative paths refer; all machines have it if there are any.
    """

    load: Callable[[], Restorer]
    options: Options
    output: Output
    hole_colour: str | None
    folder: Path


class Worker:
    """An actor: one restorer, and what it knows of the folders of results."""

    def __init__(self, work: Work) -> None:
        if work.folder.is_dir():
            os.chdir(work.folder)
        self._work, self._restorer, self._outputs = work, work.load(), Outputs()

    def ready(self) -> bool:
        """Return when the model is loaded."""
        return True

    def restore(self, job: Job) -> Outcome:
        """Restore a job; what fails is an outcome."""
        work = self._work
        outcomes = run(
            [job], self._restorer, work.options, work.output, work.hole_colour, outputs=self._outputs
        )
        (outcome,) = outcomes
        return outcome


@dataclass
class _Pool:
    """The workers, what they do, and what is to be done again.

    Args:
        ray: the library.
        actors: handles of the workers.
        starting: workers that load their model, by the call that tells its end.
        ready: workers that have loaded it.
        calls: worker and job of each call.
        busy: how many jobs each worker has.
        again: jobs that lost their worker.
        tries: how often each of these did.
    """

    ray: ModuleType
    actors: list[Any]
    starting: dict[Any, int] = field(default_factory=dict)
    ready: set[int] = field(default_factory=set)
    calls: dict[Any, tuple[int, Job]] = field(default_factory=dict)
    busy: Counter[int] = field(default_factory=Counter)
    again: deque[Job] = field(default_factory=deque)
    tries: dict[Job, int] = field(default_factory=dict)

    def start(self, worker: int) -> None:
        """Wait for a worker, which Ray starts anew if it is dead."""
        self.ready.discard(worker)
        if worker not in self.starting.values():
            call = self.actors[worker].ready.options(max_task_retries=-1).remote()
            self.starting[call] = worker

    def place(self) -> int | None:
        """Return the worker that has the fewest jobs, if there is room for another one."""
        worker = min(self.ready, key=self.busy.__getitem__, default=None)
        return None if worker is None or self.busy[worker] >= WINDOW else worker

    def submit(self, job: Job, worker: int) -> None:
        """Give a job to a worker."""
        self.calls[self.actors[worker].restore.remote(job)] = (worker, job)
        self.busy[worker] += 1

    def settle(self, call: Any) -> Iterator[Outcome]:
        """Take back a call that has ended; yield its outcome, unless the job is done again.

        Raises:
            RefusionError: a worker cannot load its model.
            ValueError: the model does not take the options.
        """
        if call in self.starting:
            worker = self.starting.pop(call)
            try:
                self.ray.get(call)
            except self.ray.exceptions.RayActorError as error:
                raise RefusionError(f"a worker cannot start: {_reason(error)}") from error
            self.ready.add(worker)
            return
        worker, job = self.calls.pop(call)
        self.busy[worker] -= 1
        try:
            outcome: Outcome = self.ray.get(call)
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self.ray.exceptions.RayError as error:  # the worker, its machine or the way to it is gone
            self.start(worker)
            self.tries[job] = self.tries.get(job, 0) + 1
            if self.tries[job] < TRIES:
                self.again.append(job)
                return
            text = f"{job.sources[0]}: its worker died {TRIES} times ({_reason(error)})"
            outcome = Outcome(job, "failed", text)
        self.tries.pop(job, None)
        yield outcome


def run_on_ray(
    jobs: Iterable[Job], work: Work, address: str | None = None, threads: int | None = None
) -> Iterator[Outcome]:
    """Restore jobs on the machines of a Ray cluster, and yield the outcome of each when it is done.

    Args:
        jobs: see `refusion.jobs.plan.plan`; as many are read as are needed to keep the workers at work.
        work: what is done with each.
        address: of the cluster, or "auto" for the one that this machine belongs to; None starts one of this
            machine alone.
        threads: cores of a worker where there are no accelerators.

    Raises:
        RefusionError: Ray is not installed, the cluster cannot be reached or has no room for a worker, or a
            worker cannot load its model.
        ValueError: the model does not take the options.
    """
    ray = _library()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RefusionError(f"no Ray cluster at {address or 'this machine'}: {_reason(error)}") from error
    try:
        pool = _Pool(ray, _workers(ray, work, threads))
        for worker in range(len(pool.actors)):
            pool.start(worker)
        yield from _outcomes(iter(jobs), pool)
    finally:
        ray.shutdown()


def _outcomes(jobs: Iterator[Job], pool: _Pool) -> Iterator[Outcome]:
    more = True
    while True:
        while (pool.again or more) and (worker := pool.place()) is not None:
            job = pool.again.popleft() if pool.again else next(jobs, None)
            if job is None:
                more = False
            else:
                pool.submit(job, worker)
        if not (pool.calls or pool.again or more):
            return
        ended, _ = pool.ray.wait([*pool.calls, *pool.starting], num_returns=1, timeout=PATIENCE)
        if not ended and not pool.calls:
            raise RefusionError(f"no worker was ready within {PATIENCE:.0f} s: see `ray status`")
        for call in ended:
            yield from pool.settle(call)


def _workers(ray: ModuleType, work: Work, threads: int | None) -> list[Any]:
    """Return an actor for each accelerator of the cluster, or else for each group of cores."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cores = [int(node.get("CPU", 0)) for node in nodes]
    accelerators = sum(int(node.get("GPU", 0)) for node in nodes)
    group = threads or min(CORES, min((count for count in cores if count), default=1))
    count = accelerators or sum(number // group for number in cores)
    if not count:
        raise RefusionError(f"no machine of the cluster has {group} cores: give fewer --threads")
    needs = {"num_cpus": 1, "num_gpus": 1} if accelerators else {"num_cpus": group}
    actor = ray.remote(Worker).options(
        **needs, max_restarts=-1, max_task_retries=0, scheduling_strategy="SPREAD"
    )
    return [actor.remote(work) for _ in range(count)]


def _reason(error: BaseException) -> str:
    """Return the last line of an error's message, in which Ray tells the cause."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1].strip()


def _library() -> ModuleType:
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise RefusionError("the engine ray needs it: pip install 'refusion[ray]'") from error
