"""The restoration of a job in its folder, with what is told while it runs. In the worker's process.

Files of a job's folder: see `refusion.web.store`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pyvips

from refusion.errors import ImageError
from refusion.imaging.formats import SUFFIXES, writable_suffix, write
from refusion.jobs.plan import Job
from refusion.jobs.run import Output, run
from refusion.models.checkpoint import Model
from refusion.restoring.memory import free_memory
from refusion.restoring.request import Progress
from refusion.web.messages import Restore, Restored, Stepped
from refusion.web.models import HEAD, request_options
from refusion.web.pictures import read_picture, store_view
from refusion.web.store import result_name

PREVIEW_SIDE = 512
PREVIEW_SHARE = 0.2
"""Share of a job's time that its previews may take; others are left out."""
MEMORY_SHARE = 0.75
"""Share of the free memory that a restoration may take; the rest is for pictures that are shown meanwhile."""


@dataclass(frozen=True)
class Hooks:
    """What a restoration tells while it runs, and what ends it.

    Args:
        stepped: called after each step.
        cancelled: whether to end before the next step.
    """

    stepped: Callable[[Stepped], object]
    cancelled: Callable[[], bool]


def restore_job(command: Restore, model: Model, max_pixels: int, hooks: Hooks) -> Restored:
    """Restore a job and write its results.

    Raises:
        ImageError: a picture cannot be read, restored or written.
        ValueError: the model does not take the options.
        Cancelled: see `Hooks`.
    """
    folder, options = Path(command.folder), command.options
    suffix = result_suffix(folder / "picture", options.suffix)
    parts = {part: folder / part for part in command.names}
    if options.crop is not None:
        parts = {part: _cropped(path, options.crop, max_pixels) for part, path in parts.items()}
    views = [part for part in ("picture", "right") if part in parts]
    targets = [folder / result_name(part, suffix) for part in views]
    job = Job(tuple(parts[part] for part in views), tuple(targets), parts.get("mask"), parts.get("guide"))
    chosen = request_options(options)
    chosen["max_pixels"] = max_pixels
    chosen["memory"] = int(MEMORY_SHARE * free_memory(model.device))
    watch = _Watch(command, folder, hooks)
    output = Output(uncertainty=options.samples > 1)
    (outcome,) = run([job], model, chosen, output, None, watch.step, hooks.cancelled)
    if outcome.status == "failed":
        raise ImageError(outcome.error)
    if options.samples > 1:
        (folder / f"{targets[0].stem}-uncertainty.png").replace(folder / "uncertainty.png")
    written = pyvips.Image.new_from_file(str(targets[0]))
    return Restored(
        id=command.id,
        suffix=suffix,
        width=written.width,
        height=written.height,
        megapixels=outcome.megapixels,
        notices=[notice.text for notice in outcome.notices],
        uncertainty=options.samples > 1,
    )


class _Watch:
    """Previews and kept pictures of a job's steps."""

    def __init__(self, command: Restore, folder: Path, hooks: Hooks) -> None:
        self._command, self._folder, self._hooks = command, folder, hooks
        self._began, self._spent = time.monotonic(), 0.0
        self._previews = self._kept = 0

    def step(self, job: Job, progress: Progress) -> None:
        """Note a step: keep its picture if that is wished, and show it if time allows."""
        keeps, last = self._command.options.trajectory, progress.done == progress.total
        began = time.monotonic()
        affordable = self._spent <= PREVIEW_SHARE * (began - self._began)
        if keeps or (affordable and not last):
            picture = progress.preview()[0]
            if keeps:
                store_view(picture, self._folder / "steps" / str(progress.done), None)
                self._kept = progress.done
            store_view(picture, self._folder / "preview", PREVIEW_SIDE)
            self._previews += 1
            self._spent += time.monotonic() - began
        self._hooks.stepped(
            Stepped(
                id=self._command.id,
                step=progress.done,
                steps=progress.total,
                previews=self._previews,
                kept=self._kept,
            )
        )


def result_suffix(picture: Path, wished: str | None) -> str:
    """Return the suffix of the result: the wished one, or that of the picture.

    Raises:
        ValueError: it is not written.
    """
    if wished is None:
        with picture.open("rb") as file:
            return writable_suffix(file.read(HEAD))
    suffix = f".{wished.lower().removeprefix('.')}"
    if suffix not in SUFFIXES:
        raise ValueError(f"suffix is {wished}: give one of {' '.join(SUFFIXES)}")
    return suffix


def _cropped(path: Path, box: list[int], max_pixels: int) -> Path:
    """Write a part of a picture beside it, and return its file.

    Raises:
        ValueError: the part is not within the picture.
    """
    image = read_picture(path, max_pixels)
    (left, top, width, height), (whole_width, whole_height) = box, image.size
    if not (0 <= left < left + width <= whole_width and 0 <= top < top + height <= whole_height):
        within = f"give x, y, width, height within {whole_width} x {whole_height}"
        raise ValueError(f"crop is {', '.join(map(str, box))}: {within}")
    rows, columns = slice(top, top + height), slice(left, left + width)
    alpha = None if image.alpha is None else image.alpha[rows, columns].copy()
    part = replace(image, pixels=image.pixels[rows, columns].copy(), alpha=alpha)
    target = path.with_name(f"{path.name}-crop.tif")
    write(part, target)
    return target
