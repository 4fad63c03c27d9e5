"""The work on a study: one run after another, each by the first worker that takes its folder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from refusion.errors import RefusionError, first_line
from refusion.files import atomic
from refusion.study.lease import lease
from refusion.study.plan import Study
from refusion.study.runs import FAILED, Run
from refusion.training.run_dir import lock


@dataclass(frozen=True)
class Tally:
    """The numbers of runs of a study that are done, failed, or left: with other workers, or not begun."""

    done: int
    failed: int
    left: int

    def __str__(self) -> str:
        text = f"{self.done} of {self.done + self.failed + self.left} runs done"
        text += f", {self.failed} failed" if self.failed else ""
        return text + (f", {self.left} left" if self.left else "")


def tally(runs: Sequence[Run]) -> Tally:
    """Count runs; one that failed and was done later is done."""
    done = sum(run.done for run in runs)
    failed = sum(run.failed and not run.done for run in runs)
    return Tally(done, failed, len(runs) - done - failed)


def work(study: Study, runs: Sequence[Run], report: Callable[[str], object], retry: bool = False) -> Tally:
    """Do the runs that are not done, not failed and not held by other workers.

    Args:
        study: of the runs.
        runs: to do, in this order.
        report: receives a line before and after each run.
        retry: whether runs that failed are begun anew.

    Raises:
        KeyboardInterrupt or SystemExit: a signal asked to stop; the run in flight goes on where it stopped.
    """
    if retry:
        for run in runs:
            (run.folder / FAILED).unlink(missing_ok=True)
    while any(_attempt(study, run, runs, report) for run in runs if not run.done and not run.failed):
        pass  # after each, from the first: what others held may have become free
    return tally(runs)


def _attempt(study: Study, run: Run, runs: Sequence[Run], report: Callable[[str], object]) -> bool:
    """Do a run if its folder is free; return whether it was done here."""
    with lease(run.folder) as held:
        if not held or run.done or run.failed or _trains(run):
            return False
        name = f"{study.label(run.arm)}, seed {run.seed}"
        report(f"{name}: {run.folder}")
        try:
            run.perform()
        except Exception as error:  # whatever it is, the other runs go on
            reason = f"{type(error).__name__}: {first_line(error)}"
            with atomic(run.folder / FAILED) as part:
                part.write_text(reason + "\n", encoding="utf-8")
            report(f"{name}: failed: {reason}; {tally(runs)}")
            return True
        result = run.result()
        time = f" in {result['core_seconds']:.0f} core-seconds" if "core_seconds" in result else ""
        hours = core_hours(runs, measured=False)
        left = f", {hours:.1f} core-hours" if hours else ""
        report(f"{name}: {study.measure} {result['metrics'][study.measure]:.2f}{time}; {tally(runs)}{left}")
        return True


def _trains(run: Run) -> bool:
    """Return whether a process that lost its lease, as after a long sleep, still trains in the folder."""
    try:
        with lock(run.folder):
            return False
    except RefusionError:
        return True


def core_hours(runs: Sequence[Run], measured: bool) -> float | None:
    """Return the core-hours of the runs that are left; None if no run is done and nothing is measured.

    A run costs the mean of its arm's runs that are done; if none is, an estimate on a few steps if
    `measured`, else the mean of all runs that are done, for as many steps.

    Args:
        runs: of a study.
        measured: whether to measure arms of which no run is done.
    """
    spent: dict[tuple[str, ...], list[float]] = {}
    paces = []
    for run in runs:
        result = run.result() if run.done else {}
        if "core_seconds" in result:
            spent.setdefault(run.arm, []).append(result["core_seconds"])
            paces.append(result["core_seconds"] / result["steps"])
    total = 0.0
    for run in runs:
        if run.done or run.failed:
            continue
        if run.arm not in spent and measured:
            spent[run.arm] = [run.task.estimate()]
        if run.arm in spent:
            total += sum(spent[run.arm]) / len(spent[run.arm])
        elif paces:
            total += run.task.steps * sum(paces) / len(paces)
        else:
            return None
    return total / 3600
