"""Many pictures at once: what is restored to where."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from refusion import image
from refusion.data import SIDES
from refusion.errors import ImageError

Files = tuple[Path, ...]
"""Of one scene: a picture, or its left and right view."""


@dataclass(frozen=True)
class Plan:
    """Each picture and where its restoration goes, and a line for everything that cannot be done."""

    jobs: dict[Files, Files] = field(default_factory=dict)
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
                made.jobs[source,] = (target,)
    return made


def plan_views(paths: Sequence[str], out: Path) -> Plan:
    """The same of two views: of a left and a right file, or of two folders of files with equal stems.

    Restorations go to left/ and right/ in `out`.

    Raises:
        ImageError: there are not two paths, or `out` is a file.
    """
    if len(paths) != 2:
        raise ImageError(f"{len(paths)} paths: this model takes two, of the left and of the right view")
    if out.suffix and not out.is_dir():
        raise ImageError(f"{out}: two views are written, name a folder without a dot in its name")
    left, right = (plan([path], out / side) for path, side in zip(paths, SIDES, strict=True))
    made = Plan(problems=[*left.problems, *right.problems])
    folders = any(Path(path).is_dir() for path in paths)
    if not folders and len(left.jobs) == len(right.jobs) == 1:
        pairs = zip(left.jobs.items(), right.jobs.items(), strict=True)
        made.jobs.update({l_in + r_in: l_out + r_out for (l_in, l_out), (r_in, r_out) in pairs})
        return made
    views: tuple[dict[Path, tuple[Path, Path]], ...] = ({}, {})
    for planned, side, found in zip((left, right), SIDES, views, strict=True):
        for (source,), (target,) in planned.jobs.items():
            inner = target.relative_to(out / side).with_suffix("")
            if found.setdefault(inner, (source, target))[0] != source:
                made.problems.append(f"{source}: same stem as {found[inner][0].name}; rename one of them")
    for inner in sorted(views[0].keys() | views[1].keys()):
        if inner in views[0] and inner in views[1]:
            sources, targets = zip(views[0][inner], views[1][inner], strict=True)
            made.jobs[sources] = targets
        else:
            alone = views[inner in views[1]][inner][0]
            made.problems.append(f"{alone}: no picture of the other view has its name")
    return made


def _within(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())
