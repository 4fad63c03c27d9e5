"""The plan of a restoration: the sources and targets of its jobs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from refusion.data.pairs import SIDES
from refusion.errors import ImageError
from refusion.files import comparable
from refusion.imaging.formats import SUFFIXES
from refusion.imaging.raw import RAW_SUFFIXES
from refusion.jobs.find import find, search

Files = tuple[Path, ...]
"""Files of one scene: a picture, or its left and right view."""


@dataclass(frozen=True)
class Job:
    """One scene to restore.

    Args:
        sources: files of the input pictures.
        targets: file of the result for each source.
        mask: file of a mask, white in the holes.
        guide: file of a map beside the picture, for models that take a guide.
    """

    sources: Files
    targets: Files
    mask: Path | None = None
    guide: Path | None = None

    @property
    def done(self) -> bool:
        """Whether all results exist."""
        return all(target.exists() for target in self.targets)


@dataclass(frozen=True)
class Plan:
    """The jobs of files, folders and patterns, and what prevents others.

    Args:
        jobs: to do.
        problems: a line for each that prevents a job.
        passed_over: files in the folders that are not pictures, or of a kind that is not read.
    """

    jobs: list[Job] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    passed_over: list[Path] = field(default_factory=list)

    def pending(self) -> "Plan":
        """Return the plan without the jobs whose results exist."""
        return replace(self, jobs=[job for job in self.jobs if not job.done])

    def with_masks(self, mask: Path) -> "Plan":
        """Return the plan with a mask for every picture.

        Args:
            mask: a file for all pictures, or a folder with a file of the same name for each, see
                `refusion.files.comparable`; of several pictures of one name, the names of their folders must
                match, too.
        """
        return self._with_maps("mask", mask)

    def with_guides(self, guide: Path) -> "Plan":
        """Return the plan with a guide for every picture.

        Args:
            guide: a file or a folder, as in `with_masks`.
        """
        return self._with_maps("guide", guide)

    def _with_maps(self, kind: Literal["mask", "guide"], place: Path) -> "Plan":
        """Return the plan with a mask or guide for every picture.

        Args:
            kind: the field of the jobs.
            place: a file or a folder, see `with_masks`.
        """

        def with_map(job: Job, path: Path) -> Job:
            return replace(job, mask=path) if kind == "mask" else replace(job, guide=path)

        if not place.is_dir():
            return replace(self, jobs=[with_map(job, place) for job in self.jobs])
        maps = {_name(path.relative_to(place)): path for path in find([place])}
        planned = replace(self, jobs=[], problems=[*self.problems])
        for job in self.jobs:
            parts = _name(job.sources[0].resolve()).parts[1:]
            names = (Path(*parts[i:]) for i in range(len(parts)))
            name = next((name for name in names if name in maps), None)
            if name is None:
                planned.problems.append(f"{job.sources[0]}: no {kind} of its name in {place}")
            else:
                planned.jobs.append(with_map(job, maps[name]))
        return planned


def plan(paths: Sequence[str], out: Path, views: int = 1) -> Plan:
    """Plan the restoration of files, folders and patterns; folders keep their structure in `out`.

    Pictures in `out` are results of earlier runs and are skipped, unless `paths` are in `out`. Two views have
    two paths, files or folders of files with equal stems; their results go to left/ and right/ in `out`.

    Args:
        paths: files, folders and patterns, see `refusion.jobs.find.find`.
        out: a folder, or for one picture a file.
        views: pictures of a scene that the model sees together.

    Raises:
        ImageError: `out` has the suffix of an unknown format, or two views do not have two paths.
    """
    return _plan_views(paths, out) if views > 1 else _plan_pictures(paths, out)


def _plan_pictures(paths: Iterable[str], out: Path) -> Plan:
    single = out.suffix.lower() in SUFFIXES and not out.is_dir()
    if out.suffix and not single and not out.is_dir():
        formats = ", ".join(SUFFIXES)
        raise ImageError(f"{out}: name a file with one of {formats}, or a folder without a dot in its name")
    planned = Plan()
    jobs: dict[Path, Job] = {}  # of each source one, to where it was found last
    passed: dict[Path, None] = {}
    source_of: dict[Path, Path] = {}
    for path in paths:
        root = Path(path)
        try:
            sources, others = search(path)
        except ImageError as error:
            planned.problems.append(str(error))
            continue
        passed.update(
            dict.fromkeys(other for other in others if not _within(other, out) or _within(root, out))
        )
        for source in sources:
            if not single and _within(source, out) and not _within(root, out):
                continue
            inner = source.relative_to(root) if root.is_dir() else Path(source.name)
            target = out if single else out / _written(inner)
            if target in source_of:
                other = source_of[target]
                if other != source:
                    planned.problems.append(f"{target} is taken by {other}: restore {source} apart")
                continue
            source_of[target] = source
            if target.resolve() == source.resolve():
                planned.problems.append(f"{source} would be replaced by its restoration: give another --out")
            else:
                jobs[source] = Job((source,), (target,))
    return replace(planned, jobs=list(jobs.values()), passed_over=list(passed))


def _plan_views(paths: Sequence[str], out: Path) -> Plan:
    if len(paths) != 2:
        raise ImageError(f"{len(paths)} paths: this model takes two, of the left and of the right view")
    if out.suffix and not out.is_dir():
        raise ImageError(f"{out}: two views are written, name a folder without a dot in its name")
    left = _plan_pictures(paths[:1], out / SIDES[0])
    right = _plan_pictures(paths[1:], out / SIDES[1])
    others = list(dict.fromkeys([*left.passed_over, *right.passed_over]))
    joined = Plan(problems=[*left.problems, *right.problems], passed_over=others)
    folders = any(Path(path).is_dir() for path in paths)
    if not folders and len(left.jobs) == len(right.jobs) == 1:
        joined.jobs.append(_joined(left.jobs[0], right.jobs[0]))
        return joined
    views: tuple[dict[Path, Job], dict[Path, Job]] = ({}, {})
    for planned, side, jobs in zip((left, right), SIDES, views, strict=True):
        for job in planned.jobs:
            inner = _name(job.targets[0].relative_to(out / side))
            first = jobs.setdefault(inner, job).sources[0]
            if first != job.sources[0]:
                joined.problems.append(f"{job.sources[0]}: same stem as {first.name}; rename one of them")
    for inner in sorted(views[0].keys() | views[1].keys()):
        if inner in views[0] and inner in views[1]:
            joined.jobs.append(_joined(views[0][inner], views[1][inner]))
        else:
            job = views[0].get(inner) or views[1][inner]
            joined.problems.append(f"{job.sources[0]}: no picture of the other view has its name")
    return joined


def _joined(left: Job, right: Job) -> Job:
    return Job(left.sources + right.sources, left.targets + right.targets)


def _name(path: Path) -> Path:
    """Return a path without its suffix, as it is compared with others."""
    return Path(comparable(str(path.with_suffix(""))))


def _written(path: Path) -> Path:
    """Return the name of a result: its source's; of what is only read .tif for camera raw, else .png."""
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return path
    return path.with_suffix(".tif" if suffix in RAW_SUFFIXES else ".png")


def _within(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())
