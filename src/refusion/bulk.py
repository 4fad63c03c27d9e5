"""Many pictures at once: what is restored to where."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from refusion import image
from refusion.errors import ImageError


@dataclass(frozen=True)
class Plan:
    """Each picture and where its restoration goes, and a line for everything that cannot be done."""

    jobs: dict[Path, Path] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def plan(paths: Iterable[str], out: Path) -> Plan:
    """Find the pictures of files, folders and patterns; folders keep their inner structure in `out`.

    Pictures in `out` are results of earlier runs and left alone, unless they are asked for.

    Raises:
        ImageError: `out` looks like a file of a format that is not written.
    """
    single = out.suffix.lower() in image.SUFFIXES and not out.is_dir()
    if out.suffix and not single and not out.is_dir():
        formats = ", ".join(image.SUFFIXES)
        raise ImageError(f"{out}: name a file with one of {formats}, or a folder without a dot in its name")
    made = Plan()
    taken: dict[Path, Path] = {}
    for path in paths:
        root = Path(path)
        try:
            found = image.find([path])
        except ImageError as error:
            made.problems.append(str(error))
            continue
        for source in found:
            if not single and _within(source, out) and not _within(root, out):
                continue
            inner = source.relative_to(root) if root.is_dir() else Path(source.name)
            target = out if single else out / inner
            if taken.setdefault(target, source) != source:
                made.problems.append(f"{target} is taken by {taken[target]}: restore {source} apart")
            elif target.resolve() == source.resolve():
                made.problems.append(f"{source} would be replaced by its restoration: give another --out")
            else:
                made.jobs[source] = target
    return made


def _within(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())
