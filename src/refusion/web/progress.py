"""What clients are told of a job: its record, and how far it is while it is being restored."""

import time
from dataclasses import dataclass

from refusion.web.schema import Has, Job
from refusion.web.store import Record


@dataclass
class Running:
    """The job that is being restored.

    Args:
        id: of the job.
        began: Unix time.
        step: steps done.
        stepped: Unix time of the last of them.
        unwanted: whether it was cancelled, and is to end.
    """

    id: str
    began: float
    step: int = 0
    stepped: float = 0.0
    unwanted: bool = False

    def seconds_left(self, steps: int) -> float | None:
        """Return the seconds that the job still takes, by its steps so far; None before the first."""
        if not self.step:
            return None
        pace = (self.stepped - self.began) / self.step
        return max(0.0, self.stepped + pace * (steps - self.step) - time.time())


def describe(record: Record, position: int | None, running: Running | None) -> Job:
    """Return what clients are told of a job.

    Args:
        record: of the job.
        position: in the queue, from 0; None if it does not wait.
        running: None if it is not being restored.
    """
    done = record.state == "done"
    return Job(
        id=record.id,
        name=record.names["picture"],
        batch=record.options.batch,
        state=record.state,
        position=position,
        step=running.step if running else record.steps if done else 0,
        steps=record.steps,
        seconds=time.time() - running.began if running else record.seconds,
        seconds_left=running.seconds_left(record.steps) if running else None,
        error=record.error or None,
        notices=record.notices,
        width=record.width,
        height=record.height,
        megapixels=record.megapixels,
        created=record.created,
        options=record.options,
        has=Has(result=done, uncertainty=record.uncertainty, steps=record.kept, mask="mask" in record.names),
        previews=record.previews,
    )
