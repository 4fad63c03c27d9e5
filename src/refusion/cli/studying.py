"""The commands `study` and `study report`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from refusion.cli.console import say
from refusion.cli.threads import Threads
from refusion.errors import RefusionError, printable
from refusion.restoring.threads import use_threads

if TYPE_CHECKING:
    from refusion.study.plan import Study
    from refusion.study.runs import Run

RUNS = Path("runs/study")
Data = Annotated[Path | None, Parameter(help="The folder of the pairs, with train/ and val/.")]
Runs = Annotated[Path, Parameter(help="The folder of the runs, for all studies: equal runs are done once.")]

study = App(name="study", help="Run a study: all levels of its factors, each with several seeds.")


@study.default
def run(
    file: Path,
    *,
    data: Data = None,
    runs: Runs = RUNS,
    retry: Annotated[bool, Parameter(negative="")] = False,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    measure: Annotated[bool, Parameter(negative="")] = False,
    threads: Threads = None,
) -> int:
    """Run a study; the same command goes on, also on other machines that share the disk.

    Args:
        file: A study file, such as studies/noise-level.yaml.
        retry: Begin failed runs anew.
        dry_run: Print the runs, what is done, and the core-hours that are left, and stop.
        measure: With --dry-run, time a few steps of every arm of which no run is done.
    """
    use_threads(threads)
    from refusion.study.work import core_hours, tally, work

    described, planned = _planned(file, data, runs)

    def show(line: str) -> None:
        print(printable(f"{described.name}: {line}"), flush=True)

    if not dry_run:
        counted = work(described, planned, show, retry)
        say(f"{described.name}: {counted}")
        return 1 if counted.failed else 0
    for one in planned:
        state = "done" if one.done else "failed" if one.failed else "-"
        say(f"{one.folder.name}  {state:6}  {described.label(one.arm)}, seed {one.seed}")
    hours = core_hours(planned, measure)
    cost = (
        "the cost is not known: --measure times a few steps" if hours is None else f"{hours:.2f} core-hours"
    )
    say(f"{described.name}: {tally(planned)}; {cost}")
    return 0


@study.command
def report(
    *files: Path,
    data: Data = None,
    runs: Runs = RUNS,
    out: Annotated[Path, Parameter(name=["--out", "-o"])] = Path("runs/report"),
    fill: Path | None = None,
) -> None:
    """Write the findings of studies, as study.md and study.html with plots and CSV.

    Args:
        files: Study files; by default all of studies/.
        out: The folder of the report.
        fill: Instead of that, fill the marked sections of this Markdown page, with plots and CSV beside it.
    """
    from refusion.study.report import fill_page, write_report

    chosen = files or tuple(sorted(Path("studies").glob("*.yaml")))
    if not chosen:
        raise RefusionError("no studies: name their files, or call this where studies/ is")
    studies = [_planned(file, data, runs) for file in chosen]
    if fill is not None:
        fill_page(studies, fill)
    say(fill or write_report(studies, out))


def _planned(file: Path, data: Path | None, runs: Path) -> "tuple[Study, list[Run]]":
    from refusion.study.plan import read_study

    try:
        from refusion.study.runs import make_runs
    except ModuleNotFoundError as error:
        raise RefusionError(f"a study needs {error.name}: pip install 'refusion[study]'") from error
    described = read_study(file)
    return described, make_runs(described, file, None if data is None else str(data), runs)
