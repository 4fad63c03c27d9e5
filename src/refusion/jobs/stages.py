"""The three stages of a job: reading, restoring and writing; neighbouring jobs are in different ones."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from refusion.errors import ImageError, Notice, first_line
from refusion.imaging.arrays import from_array
from refusion.imaging.formats import MAX_PIXELS, Header, read, unkept, write, write_gif
from refusion.imaging.image import Image, format_sizes
from refusion.imaging.masks import mask_from_colour
from refusion.jobs.outputs import Outputs
from refusion.jobs.plan import Job
from refusion.remote import Place
from refusion.restoring.admission import Demand
from refusion.restoring.memory import COPY, free_memory
from refusion.restoring.request import Mask, Options, Progress, Request, Result
from refusion.restoring.restorer import Restorer
from refusion.restoring.walk import Cancel

FAILURES = (ImageError, OSError, MemoryError, RuntimeError)
"""Errors that are outcomes; torch's lack of memory is the last."""


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


@dataclass(eq=False)
class Task:
    """A job on its way through the stages.

    Args:
        job: the job.
        number: of the job in its run, from 0.
        notices: of all stages so far.
        seconds: in the stages, without waiting for the neighbours.
        megapixels: size of all input pictures.
        error: a line with the file and the reason of a failure; empty if there was none.
        postponed: the job does not fit into memory beside its neighbours; it is read when they are done.
        request: between reading and restoring.
        result: between restoring and writing.
        frames: of the GIF of the steps, before those of the steps: the input picture.
    """

    job: Job
    number: int
    notices: list[Notice] = field(default_factory=list)
    seconds: float = 0.0
    megapixels: float = 0.0
    error: str = ""
    postponed: bool = False
    request: Request | None = None
    result: Result | None = None
    frames: list[Image] = field(default_factory=list)


class _NotYetError(Exception):
    """A picture does not fit into memory beside its neighbours."""


class Stages:
    """The stages of one run. Each does nothing for a task that failed; `restore` alone runs the model.

    Args:
        restorer: the model.
        options: of every request.
        output: the files besides the restored pictures.
        hole_colour: colour with which the holes of pictures are painted over.
        progress, cancel, outputs: see `refusion.jobs.run.run`.
    """

    def __init__(
        self,
        restorer: Restorer,
        options: Options | None,
        output: Output,
        hole_colour: str | None,
        progress: Callable[[Job, Progress], object] | None,
        cancel: Cancel | None,
        outputs: Outputs,
    ) -> None:
        self.restorer, self.options, self.output = restorer, options, output
        self.hole_colour, self.progress, self.cancel = hole_colour, progress, cancel
        self._outputs = outputs
        self._demands: dict[Task, Demand] = {}  # of the tasks between reading and written

    def read(self, task: Task) -> None:
        """Read the pictures of a job and its mask, if they and their restoration fit into memory.

        Raises:
            ValueError: the model does not take the options, or the output is for a single job.
        """
        if task.number and self.output.trajectory is not None:
            raise ValueError("trajectory needs a single job: its GIF would be written again and again")
        task.postponed = False
        if task.job.problem:
            task.error = task.job.problem
            return
        with self._stage(task):
            job = task.job
            self._outputs.check(job)
            try:
                images = self._pictures(task)
            except _NotYetError:
                task.postponed = True
                return
            task.notices += _picture_notices(job, images, self.output)
            max_pixels = (self.options or {}).get("max_pixels", MAX_PIXELS)
            chosen = _options(self.options, self.output)
            if self.hole_colour is not None and job.mask is None:
                chosen["mask"] = mask_from_colour(images[0].tensor(), self.hole_colour)[0].numpy()
            if job.mask is not None:
                holes = _map("mask", job.mask, job, images[0], max_pixels) > 0.5
                chosen["mask"] = holes.astype(np.float32)
            if job.guide is not None:
                chosen["guides"] = _map("guide", job.guide, job, images[0], max_pixels)[None]
            task.request = self.restorer.request(*images, **chosen)
            task.megapixels = sum(image.size[0] * image.size[1] for image in images) / 1e6

    def restore(self, task: Task) -> None:
        """Restore the pictures of a job.

        Raises:
            ValueError: the model does not take the options.
            Cancelled: `cancel` returned True.
        """
        if task.request is None:  # reading failed
            return
        with self._stage(task):
            step = functools.partial(self.progress, task.job) if self.progress else None
            task.result = self.restorer.run(task.request, step, self.cancel, task.notices.append)
            if self.output.trajectory is not None:
                task.frames = [self.restorer.upscale_input(task.request.images[0])]
        task.request = None  # writing needs memory

    def write(self, task: Task) -> None:
        """Write the results of a job."""
        if task.result is not None:
            with self._stage(task):
                self._outputs.check(task.job)  # the job before may have filled the disk
                _write(task.job, task.result, self.output, task.frames)
        task.result, task.frames = None, []
        self._demands.pop(task, None)

    @contextlib.contextmanager
    def _stage(self, task: Task) -> Iterator[None]:
        """Note the time of a stage, and an error."""
        began = time.perf_counter()
        try:
            yield
        except FAILURES as error:
            line = first_line(error)
            task.error = line if isinstance(error, ImageError) else f"{task.job.sources[0]}: {line}"
            self._outputs.note(error)
        finally:
            task.seconds += time.perf_counter() - began

    def _pictures(self, task: Task) -> list[Image]:
        """Read the pictures of a job if they and their restoration fit into memory.

        Raises:
            _NotYetError: they do not fit beside those of the neighbours, whose whole demand counts.
        """
        job, restorer = task.job, self.restorer
        options = _options(self.options, self.output)
        max_pixels = options.get("max_pixels", MAX_PIXELS)
        count = len(job.sources)

        def admit(header: Header) -> None:
            masked = self.hole_colour is not None or job.mask is not None
            needed = restorer.demand((header.width, header.height), masked, **options)
            pixels = header.width * header.height * restorer.enlarge.factor**2
            # Samples, their copy, and the file.
            writing = pixels * (COPY + 3 * header.channels * header.sample_bytes)
            host = max(header.decoding_bytes, count * header.image_bytes + needed.host, count * writing)
            needed = Demand(host, needed.device)
            others = list(self._demands.values())
            if others and not sum(others, needed).fits(restorer.device):
                raise _NotYetError
            needed.admit(f"{job.sources[0]} of {header.width} x {header.height} pixels", restorer.device)
            self._demands[task] = needed

        for source in job.sources:
            check_file(source)
        images = [read(source, max_pixels, None if i else admit) for i, source in enumerate(job.sources)]
        if len({image.size for image in images}) > 1:
            names = " and ".join(map(str, job.sources))
            raise ImageError(f"{names} have sizes {format_sizes(*images)}: give views of one size")
        return images


def check_file(path: Place) -> None:
    """Raise an error if a file is larger than the memory, in which it would be read.

    Raises:
        ImageError: it is.
    """
    with contextlib.suppress(OSError):  # reading tells
        size, free = path.stat().st_size, free_memory(torch.device("cpu"))
        if size > free:
            raise ImageError(f"{path} has {size} bytes, and {free} are free in memory: convert it first")


def _map(kind: str, path: Place, job: Job, image: Image, max_pixels: int) -> Mask:
    """Read a mask or a guide of the size of a picture, as grey; what is transparent is 0."""

    def compare(header: Header) -> None:
        if sorted((header.width, header.height)) != sorted(image.size):  # EXIF may turn it
            remedy = f"give a {kind} of the picture's size"
            sizes = f"{header.width}x{header.height} and {format_sizes(image)}"
            raise ImageError(f"{path} and {job.sources[0]} have sizes {sizes}: {remedy}")

    check_file(path)
    read_map = read(path, max_pixels, compare)
    if read_map.size != image.size:
        turned = f"{format_sizes(read_map)} and {format_sizes(image)}"
        raise ImageError(f"{path} and {job.sources[0]} have sizes {turned}: turn one of them")
    grey: Mask = read_map.pixels.mean(-1)
    return grey if read_map.alpha is None else grey * read_map.alpha


def _picture_notices(job: Job, images: list[Image], output: Output) -> list[Notice]:
    """Return what of the files is not in the results."""
    notices = [notice for image in images for notice in image.notices]
    if not output.strip:
        for image, target in zip(images, job.targets, strict=True):
            notices += unkept(image, target.suffix)
    return list(dict.fromkeys(notices))


def _options(options: Options | None, output: Output) -> Options:
    chosen: Options = {**options} if options else {}
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
