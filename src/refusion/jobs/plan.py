"""The plan of a restoration: the sources and targets of its jobs."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from refusion.data.pairs import SIDES
from refusion.errors import ImageError
from refusion.files import comparable
from refusion.imaging.formats import SUFFIXES
from refusion.jobs.find import find, search, written_suffix
from refusion.jobs.manifest import Manifest, is_manifest
from refusion.jobs.shard import Shard
from refusion.remote import READ_ONLY, Place, Remote, place

Files = tuple[Place, ...]
"""Files of one scene: a picture, or its left and right view."""


@dataclass(frozen=True)
class Job:
    """One scene to restore.

    Args:
        sources: files of the input pictures.
        targets: file of the result for each source.
        mask: file of a mask, white in the holes.
        guide: file of a map beside the picture, for models that take a guide.
        problem: a line that says why it cannot be done; empty if nothing is known against it.
    """

    sources: Files
    targets: Files
    mask: Place | None = None
    guide: Place | None = None
    problem: str = ""

    @property
    def done(self) -> bool:
        """Whether all results exist."""
        return not self.problem and all(target.exists() for target in self.targets)


@dataclass(frozen=True)
class Plan:
    """The jobs of files, folders, patterns and manifests.

    Args:
        jobs: to do, and those that cannot be done. Of manifests they are a stream: each pass over them reads
            the manifest anew, and none is kept.
        out: the folder of the results, or for one picture their file.
        passed_over: files in the folders that are not pictures, or of a kind that is not read.
    """

    jobs: Iterable[Job]
    out: Place
    passed_over: list[Place] = field(default_factory=list)

    def pending(self, skip: Callable[[Job], object] = lambda job: None) -> "Plan":
        """Return the plan without the jobs whose results exist when it is their turn.

        A job whose results cannot be asked for, as of a store that does not answer, has that as its problem.

        Args:
            skip: called with each of these.
        """

        def undone() -> Iterator[Job]:
            for job in self.jobs:
                try:
                    done = job.done
                except OSError as error:
                    reason = f"its result cannot be asked for ({error.strerror})"
                    yield replace(job, problem=f"{job.sources[0]}: {reason}, try it again")
                    continue
                if done:
                    skip(job)
                else:
                    yield job

        return replace(self, jobs=_Stream(undone))

    def share(self, shard: Shard) -> "Plan":
        """Return the jobs of one of several machines: each job is that of exactly one.

        By a hash of the place of its result in `out`, so whatever is done already, or added later.
        """

        def shared() -> Iterator[Job]:
            return (job for job in self.jobs if shard.holds(self._name(job)))

        return self if shard.count == 1 else replace(self, jobs=_Stream(shared))

    def only(self, sources: "set[str]") -> "Plan":
        """Return the jobs with a source of these names, for another try."""

        def chosen() -> Iterator[Job]:
            return (job for job in self.jobs if any(str(source) in sources for source in job.sources))

        return replace(self, jobs=_Stream(chosen))

    def with_masks(self, mask: Place) -> "Plan":
        """Return the plan with a mask for every picture.

        Args:
            mask: a file for all pictures, or a folder with a file of the same name for each, see
                `refusion.files.comparable`; of several pictures of one name, the names of their folders must
                match, too.
        """
        return self._with_maps("mask", mask)

    def with_guides(self, guide: Place) -> "Plan":
        """Return the plan with a guide for every picture.

        Args:
            guide: a file or a folder, as in `with_masks`.
        """
        return self._with_maps("guide", guide)

    def _with_maps(self, kind: Literal["mask", "guide"], maps: Place) -> "Plan":
        """Return the plan with a mask or guide for every picture.

        Args:
            kind: the field of the jobs.
            maps: a file or a folder, see `with_masks`.
        """

        def with_map(job: Job, path: Place) -> Job:
            return replace(job, mask=path) if kind == "mask" else replace(job, guide=path)

        if not maps.is_dir():
            return replace(self, jobs=_Stream(lambda: (with_map(job, maps) for job in self.jobs)))
        named = {_name(Path(*path.parts[len(maps.parts) :])): path for path in find([maps])}

        def found(job: Job) -> Job:
            parts = _name(Path(*job.sources[0].resolve().parts)).parts
            names = (Path(*parts[i:]) for i in range(len(parts)))
            name = next((name for name in names if name in named), None)
            if job.problem or name is not None:
                return job if name is None else with_map(job, named[name])
            return replace(job, problem=f"{job.sources[0]}: no {kind} of its name in {maps}")

        return replace(self, jobs=_Stream(lambda: (found(job) for job in self.jobs)))

    def _name(self, job: Job) -> str:
        """Return what names a job on all machines, wherever each has its folder of results."""
        named = job.targets[0] if job.targets else job.sources[0]
        return str(named).removeprefix(str(self.out)).replace(os.sep, "/").lstrip("/")


@dataclass(frozen=True)
class _Stream(Iterable[Job]):
    """Jobs that are made anew in each pass over them.

    Args:
        make: begins a pass.
    """

    make: Callable[[], Iterator[Job]]

    def __iter__(self) -> Iterator[Job]:
        return self.make()


def plan(paths: Sequence[str], out: Place, views: int = 1) -> Plan:
    """Plan the restoration of files, folders, patterns and manifests; folders keep their structure in `out`.

    Pictures in `out` are results of earlier runs and are skipped, unless `paths` are in `out`. Two views have
    two paths, files or folders of files with equal stems; their results go to left/ and right/ in `out`.

    Args:
        paths: files, folders and patterns, see `refusion.jobs.find.find`, and files of names, see
            `refusion.jobs.manifest`.
        out: a folder, or for one picture a file.
        views: pictures of a scene that the model sees together.

    Raises:
        ImageError: `out` has the suffix of an unknown format or cannot be written, two views do not have two
            paths, or the results of a manifest would replace its pictures.
    """
    if isinstance(out, Remote) and out.scheme in READ_ONLY:
        raise ImageError(
            f"{out}: {out.scheme} is read only: give a folder, s3://bucket/... or gs://bucket/..."
        )
    if any(is_manifest(path) for path in paths):
        return _plan_manifest(paths, out, views)
    return _plan_views(paths, out) if views > 1 else _plan_pictures(paths, out)


def _plan_manifest(paths: Sequence[str], out: Place, views: int) -> Plan:
    if len(paths) > 1 or views > 1:
        raise ImageError(f"{' '.join(paths)}: a manifest stands alone, and for pictures of one view")
    if _is_file(out):
        raise ImageError(f"{out}: a manifest names many pictures, give a folder")
    if isinstance(out, Path) and out.resolve() in (Path.cwd(), Path(out.resolve().anchor)):
        raise ImageError(f"{out}: results would replace the pictures: give another --out")
    manifest = Manifest(place(paths[0]))
    manifest.check()

    def jobs() -> Iterator[Job]:
        for row in manifest.rows():
            source = place(row.path)
            targets = () if row.problem else (out / row.inner,)
            yield Job((source,), targets, problem=row.problem)

    return Plan(_Stream(jobs), out)


def _is_file(out: Place) -> bool:
    """Return whether results go to one file, not into a folder."""
    return out.suffix.lower() in SUFFIXES and not out.is_dir()


def _plan_pictures(paths: Iterable[str], out: Place) -> Plan:
    single = _is_file(out)
    if isinstance(out, Path) and out.suffix and not single and not out.is_dir():
        formats = ", ".join(SUFFIXES)
        raise ImageError(f"{out}: name a file with one of {formats}, or a folder without a dot in its name")
    jobs: dict[Place, Job] = {}  # of each source one, to where it was found last
    problems: list[Job] = []
    passed: dict[Place, None] = {}
    source_of: dict[Place, Place] = {}
    for path in paths:
        root = place(path)
        try:
            sources, others = search(path)
        except ImageError as error:
            problems.append(Job((root,), (), problem=str(error)))
            continue
        passed.update(
            dict.fromkeys(other for other in others if not _within(other, out) or _within(root, out))
        )
        inside = root.is_dir()
        for source in sources:
            if not single and _within(source, out) and not _within(root, out):
                continue
            inner = Path(*source.parts[len(root.parts) :]) if inside else Path(source.name)
            target = out if single else out / inner.with_suffix(written_suffix(inner))
            if target in source_of:
                other = source_of[target]
                if other != source:
                    problem = f"{target} is taken by {other}: restore {source} apart"
                    problems.append(Job((source,), (), problem=problem))
                continue
            source_of[target] = source
            if target.resolve() == source.resolve():
                problem = f"{source} would be replaced by its restoration: give another --out"
                problems.append(Job((source,), (), problem=problem))
            else:
                jobs[source] = Job((source,), (target,))
    return Plan([*problems, *jobs.values()], out, list(passed))


def _plan_views(paths: Sequence[str], out: Place) -> Plan:
    if len(paths) != 2:
        raise ImageError(f"{len(paths)} paths: this model takes two, of the left and of the right view")
    if isinstance(out, Path) and out.suffix and not out.is_dir():
        raise ImageError(f"{out}: two views are written, name a folder without a dot in its name")
    left, right = (_plan_pictures([path], out / side) for path, side in zip(paths, SIDES, strict=True))
    others = list(dict.fromkeys([*left.passed_over, *right.passed_over]))
    problems = [job for planned in (left, right) for job in planned.jobs if job.problem]
    sides = [[job for job in planned.jobs if not job.problem] for planned in (left, right)]
    folders = any(place(path).is_dir() for path in paths)
    if not folders and len(sides[0]) == len(sides[1]) == 1:
        return Plan([*problems, _joined(sides[0][0], sides[1][0])], out, others)
    views: tuple[dict[Path, Job], dict[Path, Job]] = ({}, {})
    for planned, jobs, named in zip((left, right), sides, views, strict=True):
        for job in jobs:
            inner = _name(Path(*job.targets[0].parts[len(planned.out.parts) :]))
            first = named.setdefault(inner, job).sources[0]
            if first != job.sources[0]:
                problem = f"{job.sources[0]}: same stem as {first.name}; rename one of them"
                problems.append(Job(job.sources, (), problem=problem))
    joined: list[Job] = []
    for inner in sorted(views[0].keys() | views[1].keys()):
        if inner in views[0] and inner in views[1]:
            joined.append(_joined(views[0][inner], views[1][inner]))
        else:
            source = (views[0].get(inner) or views[1][inner]).sources[0]
            problem = f"{source}: no picture of the other view has its name"
            problems.append(Job((source,), (), problem=problem))
    return Plan([*problems, *joined], out, others)


def _joined(left: Job, right: Job) -> Job:
    return Job(left.sources + right.sources, left.targets + right.targets)


def _name(path: Path) -> Path:
    """Return a path without its suffix, as it is compared with others."""
    return Path(comparable(str(path.with_suffix("")))) if path.name else path


def _within(path: Place, folder: Place) -> bool:
    inner, outer = path.resolve(), folder.resolve()
    if isinstance(inner, Path) and isinstance(outer, Path):
        return inner.is_relative_to(outer)
    return isinstance(inner, Remote) and inner.is_relative_to(outer)
