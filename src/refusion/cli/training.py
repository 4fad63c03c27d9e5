"""The commands `train` and `doctor`."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from refusion.cli.console import complain, meter, say
from refusion.cli.threads import Threads
from refusion.errors import DataError, RefusionError
from refusion.restoring.threads import use_threads

if TYPE_CHECKING:
    from refusion.data.inspection import Finding
    from refusion.data.pairs import Pair
    from refusion.training.recipe import Recipe


def train(
    recipe: str,
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=True)],
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    from_model: Annotated[str | None, Parameter(name="--from")] = None,
    devices: int | None = None,
    nodes: int = 1,
    threads: Threads = None,
    dry_run: bool = False,
) -> None:
    """Train a model by a recipe; the same command resumes a run that was stopped.

    Args:
        recipe: A YAML file, or the name of a bundled recipe, equal to that of its model.
        overrides: Any value of the recipe, as --training.steps 1000 or --data.folder pairs.
        out: The folder of the run; by default runs/ and the name of the recipe.
        from_model: Start from the weights of this model (fine-tuning).
        devices: Number of processes on each machine; by default all accelerators, or one CPU.
        nodes: Number of machines.
        dry_run: Print the whole recipe, the size of the model and the expected memory, and stop.
    """
    use_threads(threads)
    from refusion.training.recipe import load_yaml, resolve

    file = resolve(recipe)
    described = load_yaml(file, list(_pairs_of(overrides)))
    if dry_run:
        from refusion.training.cost import cost

        expected = cost(described)
        print(f"{described.to_yaml()}\n{expected}")
        return
    try:
        from refusion.training.run import train as run
    except ModuleNotFoundError as error:
        raise RefusionError(f"training needs {error.name}: pip install 'refusion[train]'") from error
    run(described, out or Path("runs") / file.stem, from_model, devices, nodes)


def _pairs_of(tokens: Iterable[str]) -> Iterator[str]:
    """Yield overrides as "a.b=1" from tokens `--a.b 1` and `--a.b=1`."""
    rest = iter(tokens)
    for token in rest:
        name, equals, value = token.removeprefix("--").partition("=")
        if not equals:
            value = next(rest, "")
        if not token.startswith("--") or (not equals and not value):
            raise RefusionError(f"{token}: give overrides as --training.steps 1000")
        yield f"{name}={value}"


def doctor(data: Path, *, recipe: str | None = None, sheet: Path | None = None) -> int:
    """Inspect a folder of pairs before training: its sizes, and all its problems.

    Args:
        data: A folder with lq/ and gt/, or with train/ and val/ that hold them.
        recipe: The recipe whose degradation, enlargement and model the pairs are for.
        sheet: Write a contact sheet, degraded above clean, to this file.
    """
    from refusion.data.inspection import contact_sheet
    from refusion.files import kinds
    from refusion.imaging.formats import write
    from refusion.training.recipe import load_yaml, resolve

    described = load_yaml(resolve(recipe)) if recipe else None
    folders = [data / part for part in ("train", "val") if (data / part).is_dir()] or [data]
    problems = 0
    if (data / "train").is_dir() and not (data / "val").is_dir():
        complain(f"{data}: no val/; training chooses its model there")
        problems += 1
    for folder in folders:
        finding = _inspect(folder, described)
        sizes = ", ".join(f"{count} of {w}x{h}" for (w, h), count in sorted(finding.sizes.items())[:8])
        more = f" and {len(finding.sizes) - 8} other sizes" if len(finding.sizes) > 8 else ""
        name = degradation_name(finding.pairs)
        by = f", degraded by {name}" if name else ""
        others = finding.passed_over
        passed = f"; {len(others)} passed over: {kinds(others)}" if others else ""
        say(f"{folder}: {len(finding.pairs)} pairs{by}{': ' if sizes else ''}{sizes}{more}{passed}")
        for problem in finding.problems:
            complain(problem)
        problems += len(finding.problems)
        if sheet and finding.pairs:
            target = sheet if len(folders) == 1 else sheet.with_stem(f"{sheet.stem}-{folder.name}")
            write(contact_sheet(finding.pairs), target)
            say(target)
    return 1 if problems else 0


def _inspect(folder: Path, recipe: "Recipe | None") -> "Finding":
    """Inspect a folder, and check that the recipe's model takes its pairs."""
    from refusion.data.inspection import inspect_pairs

    with meter("pair") as progress:
        if recipe is None:
            return inspect_pairs(folder, progress=progress)
        finding = inspect_pairs(folder, recipe.data.degradation, recipe.model.enlarge.factor, progress)
    if not finding.problems:
        try:
            recipe.pairs(folder)
        except DataError as error:
            finding.problems.append(str(error))
    return finding


def degradation_name(pairs: "Sequence[Pair]") -> str:
    """Return the name of the degradation that makes the degraded pictures; "" if they are files."""
    return next((type(pair.degradation).__name__ for pair in pairs if not pair.lq), "")
