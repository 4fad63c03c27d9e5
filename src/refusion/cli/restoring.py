"""The commands `restore` and `diffuse`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from refusion.cli.console import bar, complain, say
from refusion.cli.flags import Backend, Device, Out, OutputFlags, SamplingFlags
from refusion.cli.pipes import Files, files_of
from refusion.cli.threads import Threads, use_threads

if TYPE_CHECKING:
    from torch import Tensor

    from refusion.imaging.image import Image
    from refusion.jobs.plan import Plan
    from refusion.models.checkpoint import Header, Model
    from refusion.restoring.request import Options

Place = Annotated[Path | None, Parameter(name=["--out", "-o"])]
GIF_FRAMES, GIF_SIDE = 25, 480
"""Frames and longest side of an animation: noise takes up to 1.5 bytes a pixel, so less than 9 MB."""
FORMAT_HELP = "Suffix of the result on standard output, as png; by default that of the input."


def restore(
    *paths: Annotated[str, Parameter(required=True)],
    out: Place = None,
    model: str | None = None,
    sampling: SamplingFlags = SamplingFlags(),
    output: OutputFlags = OutputFlags(),
    device: Device = None,
    backend: Backend = "torch",
    threads: Threads = None,
    overwrite: Annotated[bool, Parameter(negative="--skip")] = False,
    format: Annotated[str | None, Parameter(help=FORMAT_HELP)] = None,
) -> int:
    """Restore pictures: files, folders or glob patterns.

    Args:
        paths: Files, folders (with their subfolders) or patterns as "*.jpg". For a stereo model the left
            and the right view: two files, or two folders of files with equal names. "-" is a picture on
            standard input.
        out: A folder, by default restored, or for a single picture a file; "-" is standard output, to which
            a picture on standard input goes by default. Two views go to left/ and right/ in the folder.
        model: A bundled name (see `refusion models`) or a file; by default shadow-removal, or inpainting
            with --mask or --hole-colour.
        overwrite: Restore pictures again whose results exist, instead of skipping them.
    """
    use_threads(threads)
    from refusion.jobs.find import kinds_of
    from refusion.jobs.plan import plan
    from refusion.models.checkpoint import read_header, resolve

    default = "inpainting" if output.mask or output.hole_colour else "shadow-removal"
    header = read_header(resolve(model or default))
    options = sampling.options()
    if output.samples > 1:
        options["samples"] = output.samples
    with files_of(paths, out, format) as files:
        if files.piped and output.uncertainty:
            raise ValueError("--uncertainty writes a second picture: name a file with --out")
        planned = plan(files.paths, files.out, header.spec.views)
        output.check(len(planned.jobs))
        _check_lens(header, len(options.get("condition", ())), model or default)
        pending = planned if overwrite else planned.pending()
        skipped = len(planned.jobs) - len(pending.jobs)
        if output.mask:
            pending = pending.with_masks(output.mask)
        if output.guide:
            pending = pending.with_guides(output.guide)
        for problem in pending.problems:
            complain(files.named(problem))
        done, failed = _run(pending, files, header, model or default, options, output, device, backend)
        failed += len(pending.problems)
    count = len(planned.jobs) + len(planned.problems)
    by = model or f"{default} (`refusion models` lists others)"
    notes = [f"restored {done} of {count} to {files.shown} with {by}"]
    if skipped:
        notes.append(f"{skipped} were there already (--overwrite redoes them)")
    if failed:
        notes.append(f"{failed} failed")
    if planned.passed_over:
        notes.append(f"{len(planned.passed_over)} passed over: {kinds_of(planned.passed_over)}")
    (complain if files.piped else say)("; ".join(notes))
    return 1 if failed else 0


def _run(
    planned: "Plan",
    files: Files,
    header: "Header",
    name: str,
    options: "Options",
    output: OutputFlags,
    device: str | None,
    backend: str,
) -> tuple[int, int]:
    """Restore what is planned, say what there is to say, and return how many are done and have failed."""
    from refusion.jobs.run import Output, run

    done = failed = 0
    told: set[str] = set()
    if planned.jobs:
        extra = Output(output.uncertainty, output.trajectory, output.strip)
        restorer = _loaded(header, device, backend, options.get("precision", "auto"))
        outcomes = run(planned.jobs, restorer, options, extra, output.hole_colour)
        for outcome in bar(outcomes, "picture", len(planned.jobs), name):
            for notice in outcome.notices:
                complain(files.named(f"{outcome.job.sources[0]}: {notice}"))
            if outcome.error and outcome.error not in told:  # of an output that cannot be written, once
                complain(files.named(outcome.error))
                told.add(outcome.error)
            if outcome.status == "failed":
                failed += 1
            else:
                done += 1
    return done, failed


def _loaded(header: "Header", device: str | None, backend: str, precision: str) -> "Model":
    """Load a model for a backend."""
    from refusion.models.checkpoint import load

    if backend == "torch":
        return load(header, device)
    from refusion.backends.runtime import PRECISIONS, with_onnx

    # The restorer refuses it, too, but only when graphs were made, which takes minutes.
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision}: the backend onnx computes in 32; leave out one of them")
    return with_onnx(load(header, device or "cpu"), complain)


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
