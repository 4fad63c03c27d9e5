"""Restoration of jobs one after another; each yields an outcome, and a failure does not stop the others."""

import contextlib
import errno
import functools
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from refusion.errors import ImageError, Notice, Report, first_line
from refusion.files import sweep
from refusion.imaging.arrays import from_array
from refusion.imaging.formats import MAX_PIXELS, Header, read, unkept, write, write_gif
from refusion.imaging.image import Image, format_sizes
from refusion.imaging.masks import mask_from_colour
from refusion.jobs.plan import Job
from refusion.restoring.admission import Demand
from refusion.restoring.memory import COPY, free_memory
from refusion.restoring.request import Mask, Options, Progress, Result
from refusion.restoring.restorer import Restorer
from refusion.restoring.walk import Cancel

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors of writing that all other pictures would meet, too."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a job.

    Args:
        job: the job.
        status: whether its results are written.
        error: a line with the file and the reason of a failure.
        notices: notices of the restoration.
        seconds: time from reading to writing.
        megapixels: size of all input pictures.
    """

    job: Job
    status: Literal["restored", "failed"]
    error: str = ""
    notices: tuple[Notice, ...] = ()
    seconds: float = 0.0
    megapixels: float = 0.0


@dataclass(frozen=True)
class Output:
    """The files that are written besides each restored picture, and what is left out of it.

    Args:
        uncertainty: write NAME-uncertainty.png, the std over samples, white for a tenth of the range.
        trajectory: file of a GIF of the steps.
        strip: leave out EXIF, XMP, IPTC, texts and comments, and date the files now.
    """

    uncertainty: bool = False
    trajectory: Path | None = None
    strip: bool = False


def run(
    jobs: Iterable[Job],
    restorer: Restorer,
    options: Options | None = None,
    output: Output = Output(),
    hole_colour: str | None = None,
    progress: Callable[[Job, Progress], object] | None = None,
    cancel: Cancel | None = None,
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

    Raises:
        ValueError: the model does not take the options, or the output does not go with them.
        Cancelled: `cancel` returned True; the results so far are written.
    """
    if output.uncertainty and (options or {}).get("samples", 1) < 2:
        raise ValueError("uncertainty needs samples of at least 2")
    outputs = _Outputs()
    for number, job in enumerate(jobs):
        if number and output.trajectory is not None:
            raise ValueError("trajectory needs a single job: its GIF would be written again and again")
        began = time.perf_counter()
        notices: list[Notice] = []
        try:
            outputs.check(job)
            megapixels = _restore(
                job, restorer, options, output, hole_colour, progress, cancel, notices.append
            )
        except (
            ImageError,
            OSError,
            MemoryError,
            RuntimeError,
        ) as error:  # torch's lack of memory is the last
            line = first_line(error)
            text = line if isinstance(error, ImageError) else f"{job.sources[0]}: {line}"
            outputs.note(error)
            yield Outcome(job, "failed", text, tuple(notices), time.perf_counter() - began)
        else:
            seconds = time.perf_counter() - began
            yield Outcome(job, "restored", "", tuple(notices), seconds, megapixels)


class _Outputs:
    """The folders of the results, checked before a picture is restored for nothing."""

    def __init__(self) -> None:
        self._checked: set[Path] = set()
        self._failed: dict[Path, ImageError] = {}
        self._full: ImageError | None = None

    def check(self, job: Job) -> None:
        """Check that the results of a job can be written, and sweep what dead runs left in their folder.

        Raises:
            ImageError: they cannot; it says the same for each job that has the same obstacle.
        """
        if self._full is not None:
            raise self._full
        for folder in {target.parent for target in job.targets} - self._checked:
            place = next(place for place in (folder, *folder.parents) if place.exists())
            if place not in self._failed:
                try:
                    sweep(place)
                    with tempfile.TemporaryFile(dir=place):
                        pass
                except OSError as error:
                    reason = f"{place} cannot be written ({error.strerror})"
                    self._failed[place] = ImageError(
                        f"{reason}: give another --out, or check its permissions"
                    )
            if place in self._failed:
                raise self._failed[place]
            self._checked.add(folder)

    def note(self, error: BaseException) -> None:
        """Remember an error of a full disk: the other results do not fit either."""
        cause = error.__cause__ or error.__context__
        if isinstance(error, ImageError) and isinstance(cause, OSError) and cause.errno in FULL:
            self._full = error


def _restore(
    job: Job,
    restorer: Restorer,
    options: Options | None,
    output: Output,
    hole_colour: str | None,
    progress: Callable[[Job, Progress], object] | None,
    cancel: Cancel | None,
    report: Report,
) -> float:
    """Restore a job and write its results; return the size of its pictures in megapixels."""
    images = _read(job, restorer, _options(options, None, output), hole_colour is not None)
    for notice in _picture_notices(job, images, output):
        report(notice)
    megapixels = sum(image.size[0] * image.size[1] for image in images) / 1e6
    mask = _mask(job, images[0], hole_colour, (options or {}).get("max_pixels", MAX_PIXELS))
    request = restorer.request(*images, **_options(options, mask, output))
    step = functools.partial(progress, job) if progress else None
    result = restorer.run(request, step, cancel, report)
    frames = [restorer.upscale_input(images[0])] if output.trajectory is not None else []
    del images, request  # writing needs memory
    _write(job, result, output, frames)
    return megapixels


def _read(job: Job, restorer: Restorer, options: Options, painted: bool) -> list[Image]:
    """Read the pictures of a job if they and their restoration fit into memory."""
    max_pixels = options.get("max_pixels", MAX_PIXELS)
    count = len(job.sources)

    def admit(header: Header) -> None:
        masked = painted or job.mask is not None
        needed = restorer.demand((header.width, header.height), masked, **options)
        pixels = header.width * header.height * restorer.enlarge.factor**2
        writing = pixels * (COPY + 3 * header.channels * header.sample_bytes)  # samples, their copy, the file
        host = max(header.decoding_bytes, count * header.image_bytes + needed.host, count * writing)
        subject = f"{job.sources[0]} of {header.width} x {header.height} pixels"
        Demand(host, needed.device).admit(subject, restorer.device)

    for source in job.sources:
        check_file(source)
    images = [read(source, max_pixels, admit if source is job.sources[0] else None) for source in job.sources]
    if len({image.size for image in images}) > 1:
        names = " and ".join(map(str, job.sources))
        raise ImageError(f"{names} have sizes {format_sizes(*images)}: give views of one size")
    return images


def check_file(path: Path) -> None:
    """Raise an error if a file is larger than the memory, in which it would be read.

    Raises:
        ImageError: it is.
    """
    with contextlib.suppress(OSError):  # reading tells
        size, free = path.stat().st_size, free_memory(torch.device("cpu"))
        if size > free:
            raise ImageError(f"{path} has {size} bytes, and {free} are free in memory: convert it first")


def _mask(job: Job, image: Image, hole_colour: str | None, max_pixels: int) -> Mask | None:
    if job.mask is None and hole_colour is None:
        return None
    if job.mask is None:
        painted: Mask = mask_from_colour(image.tensor(), hole_colour or "")[0].numpy()
        return painted

    def compare(header: Header) -> None:
        if sorted((header.width, header.height)) != sorted(image.size):  # EXIF may turn it
            remedy = "give a mask of the picture's size"
            sizes = f"{header.width}x{header.height} and {format_sizes(image)}"
            raise ImageError(f"{job.mask} and {job.sources[0]} have sizes {sizes}: {remedy}")

    check_file(job.mask)
    mask = read(job.mask, max_pixels, compare)
    if mask.size != image.size:
        turned = f"{format_sizes(mask)} and {format_sizes(image)}"
        raise ImageError(f"{job.mask} and {job.sources[0]} have sizes {turned}: turn one of them")
    opacity = 1 if mask.alpha is None else mask.alpha
    holes: Mask = (mask.pixels.mean(-1) * opacity > 0.5).astype(np.float32)
    return holes


def _picture_notices(job: Job, images: list[Image], output: Output) -> list[Notice]:
    """Return what of the files is not in the results."""
    notices = [notice for image in images for notice in image.notices]
    if not output.strip:
        for image, target in zip(images, job.targets, strict=True):
            notices += unkept(image, target.suffix)
    return list(dict.fromkeys(notices))


def _options(options: Options | None, mask: Mask | None, output: Output) -> Options:
    chosen: Options = {**options} if options else {}
    if mask is not None:
        chosen["mask"] = mask
    if output.trajectory is not None:
        chosen["trajectory"] = True
    return chosen


def _write(job: Job, result: Result, output: Output, frames: list[Image]) -> None:
    for target in job.targets:
        target.parent.mkdir(parents=True, exist_ok=True)
    if output.uncertainty:
        for target, std, source in zip(job.targets, result.stds, job.sources, strict=True):
            picture = from_array((10 * std).clip(0, 1))
            write(picture, target.with_name(f"{target.stem}-uncertainty.png"), source, dated=False)
    if output.trajectory is not None:
        write_gif([*frames, *result.trajectory], output.trajectory)
    for image, target, source in zip(result.images, job.targets, job.sources, strict=True):
        write(_stripped(image) if output.strip else image, target, source, not output.strip)


def _stripped(image: Image) -> Image:
    return replace(image, metadata=image.metadata.stripped())
