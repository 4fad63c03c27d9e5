"""Restoration of jobs; each yields an outcome in their order, and a failure does not stop the others.

A picture is read while the one before it is restored, and that while the one before it is written: reading
and writing have a thread each, in which libvips runs beside Python. At most three jobs are in memory.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from refusion.errors import Notice
from refusion.jobs.outputs import Outputs
from refusion.jobs.plan import Job
from refusion.jobs.stages import Output, Stages, Task
from refusion.restoring.request import Options, Progress
from refusion.restoring.restorer import Restorer
from refusion.restoring.walk import Cancel

__all__ = ["Outcome", "Output", "run"]


@dataclass(frozen=True)
class Outcome:
    """The outcome of a job.

    Args:
        job: the job.
        status: whether its results are written.
        error: a line with the file and the reason of a failure.
        notices: notices of the restoration.
        seconds: of reading, restoring and writing, without waiting for the neighbours.
        megapixels: size of all input pictures.
    """

    job: Job
    status: Literal["restored", "failed"]
    error: str = ""
    notices: tuple[Notice, ...] = ()
    seconds: float = 0.0
    megapixels: float = 0.0


def run(
    jobs: Iterable[Job],
    restorer: Restorer,
    options: Options | None = None,
    output: Output = Output(),
    hole_colour: str | None = None,
    progress: Callable[[Job, Progress], object] | None = None,
    cancel: Cancel | None = None,
    outputs: Outputs | None = None,
) -> Iterator[Outcome]:
    """Restore jobs, write their results, and yield the outcome of each.

    A picture that cannot be read, restored or written is a failed outcome, not an error.

    Args:
        jobs: see `refusion.jobs.plan.plan`.
        restorer: the model.
        options: of every request.
        output: the files besides the restored pictures.
        hole_colour: colour with which the holes of pictures are painted over, as "#ff00ff".
        progress: called after every step.
        cancel: called before every step; True ends the run.
        outputs: what earlier runs found of the folders of results.

    Raises:
        ValueError: the model does not take the options, or the output does not go with them.
        Cancelled: `cancel` returned True; the results so far are written.
    """
    if output.uncertainty and (options or {}).get("samples", 1) < 2:
        raise ValueError("uncertainty needs samples of at least 2")
    stages = Stages(restorer, options, output, hole_colour, progress, cancel, outputs or Outputs())
    for task in _overlapped((Task(job, number) for number, job in enumerate(jobs)), stages):
        done = (tuple(task.notices), task.seconds)
        if task.error:
            yield Outcome(task.job, "failed", task.error, *done)
        else:
            yield Outcome(task.job, "restored", "", *done, task.megapixels)


def _overlapped(tasks: Iterator[Task], stages: Stages) -> Iterator[Task]:
    """Yield tasks in their order when they have passed all stages.

    An error of a task is raised when those before it were yielded.
    """
    reader, writer = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
    written: Future[Task] | None = None

    def write(task: Task) -> Task:
        stages.write(task)
        return task

    try:
        following = next(tasks, None)
        reading = reader.submit(stages.read, following) if following else Future[None]()
        while (task := following) is not None:
            error: BaseException | None = None
            following = next(tasks, None)
            try:
                reading.result()
                if task.postponed:
                    if written is not None:
                        last, written = written, None
                        yield last.result()
                    stages.read(task)
                if following is not None:
                    reading = reader.submit(stages.read, following)
                stages.restore(task)
            except BaseException as raised:
                error = raised
            if written is not None:
                yield written.result()
                written = None
            if error is not None:
                raise error
            written = writer.submit(write, task)
        if written is not None:
            yield written.result()
    finally:
        reader.shutdown(cancel_futures=True)
        writer.shutdown()
