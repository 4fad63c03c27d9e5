"""Restoration of jobs one after another; each yields an outcome, and a failure does not stop the others."""

import functools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from refusion.errors import ImageError, Notice, first_line
from refusion.imaging.arrays import from_array
from refusion.imaging.formats import read, unkept, write, write_gif
from refusion.imaging.image import Image, format_sizes
from refusion.imaging.masks import mask_from_colour
from refusion.jobs.plan import Job
from refusion.restoring.request import Mask, Options, Progress, Request, Result
from refusion.restoring.restorer import Cancel, Restorer


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
        strip: leave out EXIF, XMP and IPTC, and date the files now.
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
    for number, job in enumerate(jobs):
        if number and output.trajectory is not None:
            raise ValueError("trajectory needs a single job: its GIF would be written again and again")
        began = time.perf_counter()
        try:
            images = _read(job)
            mask = _mask(job, images[0], hole_colour)
            request = restorer.request(*images, **_options(options, mask, output))
            step = functools.partial(progress, job) if progress else None
            result = restorer.run(request, step, cancel)
            _write(job, request, result, output, restorer)
        except (
            ImageError,
            OSError,
            MemoryError,
            RuntimeError,
        ) as error:  # torch's lack of memory is the last
            line = first_line(error)
            text = line if isinstance(error, ImageError) else f"{job.sources[0]}: {line}"
            yield Outcome(job, "failed", text, seconds=time.perf_counter() - began)
        else:
            megapixels = sum(image.size[0] * image.size[1] for image in images) / 1e6
            seconds = time.perf_counter() - began
            notices = (*_picture_notices(job, images, output), *result.notices)
            yield Outcome(job, "restored", "", notices, seconds, megapixels)


def _read(job: Job) -> list[Image]:
    images = [read(source) for source in job.sources]
    if len({image.size for image in images}) > 1:
        names = " and ".join(map(str, job.sources))
        raise ImageError(f"{names} have sizes {format_sizes(*images)}: give views of one size")
    return images


def _mask(job: Job, image: Image, hole_colour: str | None) -> Mask | None:
    if job.mask is None and hole_colour is None:
        return None
    if job.mask is None:
        painted: Mask = mask_from_colour(image.tensor(), hole_colour or "")[0].numpy()
        return painted
    mask = read(job.mask)
    if mask.size != image.size:
        sizes = format_sizes(mask, image)
        raise ImageError(
            f"{job.mask} and {job.sources[0]} have sizes {sizes}: give a mask of the picture's size"
        )
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


def _write(job: Job, request: Request, result: Result, output: Output, restorer: Restorer) -> None:
    for target in job.targets:
        target.parent.mkdir(parents=True, exist_ok=True)
    if output.uncertainty:
        for target, std, source in zip(job.targets, result.stds, job.sources, strict=True):
            picture = from_array((10 * std).clip(0, 1))
            write(picture, target.with_name(f"{target.stem}-uncertainty.png"), source, dated=False)
    if output.trajectory is not None:
        write_gif([restorer.upscale_input(request.images[0]), *result.trajectory], output.trajectory)
    for image, target, source in zip(result.images, job.targets, job.sources, strict=True):
        write(_stripped(image) if output.strip else image, target, source, not output.strip)


def _stripped(image: Image) -> Image:
    return replace(image, metadata=image.metadata.stripped())
