"""The commands `restore` and `diffuse`."""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from refusion.cli.console import bar, complain, meter, say
from refusion.cli.flags import Backend, Device, ManyFlags, Out, OutputFlags, SamplingFlags
from refusion.cli.pipes import Files, files_of
from refusion.cli.threads import Threads
from refusion.restoring.threads import use_threads

if TYPE_CHECKING:
    from torch import Tensor

    from refusion.imaging.image import Image
    from refusion.jobs.plan import Job, Plan
    from refusion.jobs.run import Outcome
    from refusion.models.checkpoint import Header, Model
    from refusion.restoring.request import Options

OutPlace = Annotated[str | None, Parameter(name=["--out", "-o"])]
GIF_FRAMES, GIF_SIDE = 25, 480
"""Frames and longest side of an animation: noise takes up to 1.5 bytes a pixel, so less than 9 MB."""
FORMAT_HELP = "Suffix of the result on standard output, as png; by default that of the input."


def restore(
    *paths: Annotated[str, Parameter(required=True)],
    out: OutPlace = None,
    model: str | None = None,
    sampling: SamplingFlags = SamplingFlags(),
    output: OutputFlags = OutputFlags(),
    many: ManyFlags = ManyFlags(),
    device: Device = None,
    backend: Backend = "torch",
    threads: Threads = None,
    overwrite: Annotated[bool, Parameter(negative="--skip")] = False,
    format: Annotated[str | None, Parameter(help=FORMAT_HELP)] = None,
) -> int:
    """Restore pictures: files, folders, glob patterns, or those that a text file names.

    Args:
        paths: Files, folders (with their subfolders) or patterns as "*.jpg", or one .txt file with the path
            of a picture in each line; all may be addresses as s3://bucket/folder. For a stereo model the left
            and the right view: two files, or two folders of files with equal names. "-" is a picture on
            standard input.
        out: A folder, by default restored, or for a single picture a file; or an address as
            s3://bucket/folder. "-" is standard output, to which a picture on standard input goes by default.
            Two views go to left/ and right/ in the folder.
        model: A bundled name (see `refusion models`), a file or its address; by default shadow-removal, or
            inpainting with --mask or --hole-colour.
        overwrite: Restore pictures again whose results exist, instead of skipping them.
    """
    use_threads(threads)
    from refusion.jobs.find import kinds_of
    from refusion.jobs.plan import plan
    from refusion.jobs.shard import Shard
    from refusion.models.checkpoint import read_header, resolve

    many.check()
    name = model or ("inpainting" if output.mask or output.hole_colour else "shadow-removal")
    header = read_header(resolve(name))
    options = sampling.options()
    if output.samples > 1:
        options["samples"] = output.samples
    began = time.monotonic()
    with files_of(paths, out, format) as files:
        if files.piped and output.uncertainty:
            raise ValueError("--uncertainty writes a second picture: name a file with --out")
        shard = many.share() if files.folder is None else Shard()
        planned = many.chosen(plan(files.paths, files.out, header.spec.views).share(shard))
        tally = Tally(sum(1 for _ in planned.jobs))
        output.check(tally.total)
        _check_lens(header, len(options.get("condition", ())), name)
        pending = output.with_maps(planned if overwrite else planned.pending(tally.skip))
        asked = Asked(name, options, output, device, backend, threads)
        seed = options.get("seed", header.spec.sampling.seed)
        with meter("picture", name) as tally.move, many.reporting(shard, name, seed) as report:
            for outcome in _outcomes(pending, asked, many, header):
                report(outcome)
                tally.add(outcome, files)
    by = model or f"{name} (`refusion models` lists others)"
    share = "" if shard.count == 1 else f", shard {shard}"
    notes = [f"restored {tally.restored} of {tally.total} to {files.shown} with {by}{share}"]
    if many.engine == "ray":
        notes.append(f"{tally.megapixels / (time.monotonic() - began):.3g} megapixels a second")
    if tally.skipped:
        notes.append(f"{tally.skipped} were there already (--overwrite redoes them)")
    if tally.failed:
        notes.append(f"{tally.failed} failed")
    if planned.passed_over:
        notes.append(f"{len(planned.passed_over)} passed over: {kinds_of(planned.passed_over)}")
    (complain if files.piped else say)("; ".join(notes))
    return 1 if tally.failed else 0


@dataclass
class Tally:
    """What became of the pictures so far, which it tells.

    Args:
        total: number of all pictures.
        restored, failed, skipped: numbers of those that are done with.
        megapixels: of those restored.
        move: moves a progress bar: how many are done with, and of how many.
    """

    total: int
    restored: int = 0
    failed: int = 0
    skipped: int = 0
    megapixels: float = 0.0
    move: "Callable[[int, int], None]" = lambda done, total: None
    _told: set[str] = field(default_factory=set)

    def skip(self, job: "Job") -> None:
        """Count a picture whose result is there."""
        self.skipped += 1
        self._show()

    def add(self, outcome: "Outcome", files: Files) -> None:
        """Count an outcome, and tell its notices and its error; one that is of a folder of results, once."""
        source = str(outcome.job.sources[0])
        for notice in outcome.notices:
            complain(files.named(f"{source}: {notice}"))
        if outcome.error and outcome.error not in self._told:
            complain(files.named(outcome.error))
            if not outcome.error.startswith(source):
                self._told.add(outcome.error)
        if outcome.status == "failed":
            self.failed += 1
        else:
            self.restored += 1
            self.megapixels += outcome.megapixels
        self._show()

    def _show(self) -> None:
        self.move(self.restored + self.failed + self.skipped, self.total)


@dataclass(frozen=True)
class Asked:
    """What is asked of every picture.

    Args:
        model: the name or file of the model.
        options: of the request.
        output: the files that are written.
        device, backend, threads: what computes.
    """

    model: str
    options: "Options"
    output: OutputFlags
    device: str | None
    backend: str
    threads: int | None

    def load(self, header: "Header | None" = None) -> "Model":
        """Load the model for the backend: here, of its header, or on another machine by its name."""
        from refusion.models.checkpoint import load

        use_threads(self.threads)
        model = header or self.model
        if self.backend == "torch":
            return load(model, self.device)
        from refusion.backends.runtime import PRECISIONS, with_onnx

        # The restorer refuses it, too, but only when graphs were made, which takes minutes.
        precision = self.options.get("precision", "auto")
        if precision not in PRECISIONS:
            raise ValueError(
                f"precision is {precision}: the backend onnx computes in 32; leave out one of them"
            )
        return with_onnx(load(model, self.device or "cpu"), complain)


def _outcomes(planned: "Plan", asked: Asked, many: ManyFlags, header: "Header") -> "Iterator[Outcome]":
    """Restore what is planned; the model is loaded if there is anything to do."""
    from refusion.jobs.run import Output, run

    jobs = iter(planned.jobs)
    first = next(jobs, None)
    if first is None:
        return
    jobs, flags = itertools.chain([first], jobs), asked.output
    output = Output(flags.uncertainty, flags.trajectory, flags.strip)
    if many.engine == "local":
        yield from run(jobs, asked.load(header), asked.options, output, flags.hole_colour)
        return
    from refusion.jobs.cluster import Work, run_on_ray

    work = Work(asked.load, asked.options, output, flags.hole_colour, Path.cwd())
    yield from run_on_ray(jobs, work, many.address, asked.threads)


def _check_lens(header: "Header", given: int, model: str) -> None:
    """Check that there are lenses if the model needs them, and only then."""
    if given != header.spec.conditions:
        lens = "--source-lens, --target-lens and --disparity"
        raise ValueError(f"{model} takes no lens: leave out {lens}" if given else f"{model} needs {lens}")


def diffuse(
    start: Path,
    end: Path,
    *,
    out: Out = Path("diffuse.gif"),
    noise_level: str = "50/255",
    steps: int = 100,
    schedule: str = "cosine",
    mean: bool = False,
    seed: int = 0,
    frames: int | None = None,
    side: int | None = None,
    threads: Threads = None,
) -> None:
    """Show the forward process: a clean picture turns into its degraded version plus noise.

    Args:
        start: The clean picture, at time 0.
        end: The degraded picture, of equal size.
        out: An animated GIF, or a folder for single pictures.
        noise_level: Noise level lambda in units of the range [0, 1]; may be a fraction.
        steps: Number of training times T.
        schedule: Schedule: constant, linear or cosine.
        mean: Show the mean, an interpolation between the two pictures without noise.
        seed: Seed of the noise.
        frames: Number of frames, evenly spread over the times; by default 25 in a GIF, else all.
        side: Longest side in pixels, to which the pictures are reduced before; by default 480 in a GIF, else
            as it is. A GIF of the defaults has less than 10 MB.
    """
    for name, value in (("frames", frames), ("side", side)):
        if value is not None and value < 2:
            raise ValueError(f"{name} is {value}: give at least 2")
    use_threads(threads)
    import numpy as np
    import torch

    from refusion.data.pairs import Pair
    from refusion.diffusion.sde import MeanRevertingSDE
    from refusion.imaging.formats import write, write_gif
    from refusion.imaging.resize import fitted
    from refusion.models.settings import validated
    from refusion.models.spec import Process
    from refusion.restoring.walk import noise_source

    pictures = Pair(lq=(start,), gt=(end,)).read()  # any two of equal size
    clean, degraded = pictures.lq[0], pictures.gt[0]
    animated = out.suffix.lower() == ".gif"
    side = side or (GIF_SIDE if animated else max(clean.size))
    x0, mu = (fitted(picture.tensor()[None], side) for picture in (clean, degraded))
    values = {"schedule": schedule, "steps": steps, "noise_level": noise_level}
    sde = validated(Process, values, "diffuse").build()
    assert isinstance(sde, MeanRevertingSDE)
    sample_noise = (lambda: torch.zeros_like(mu)) if mean else noise_source(mu, seed)
    states = bar(sde.forward(x0, mu, sample_noise), "step", sde.steps + 1)
    count = min(frames or (GIF_FRAMES if animated else sde.steps + 1), sde.steps + 1)
    chosen = {round(t) for t in np.linspace(0, sde.steps, count)}
    shown = {t: _frame(clean, x[0]) for t, x in enumerate(states) if t in chosen}
    if animated:
        write_gif(shown.values(), out)
    else:
        out.mkdir(parents=True, exist_ok=True)
        for t, frame in shown.items():
            write(frame, out / f"{t:04}.png")
    say(out)


def _frame(picture: "Image", state: "Tensor") -> "Image":
    """Return a state as a picture, with alpha, depth and profile of the clean one if it has that size."""
    from refusion.imaging.arrays import from_array

    whole = state.shape[-2:] == picture.size[::-1]
    return picture.with_pixels(state) if whole else from_array(state.clamp(0, 1))
