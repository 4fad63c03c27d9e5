"""The commands `restore` and `diffuse`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from refusion.cli.console import bar, complain
from refusion.cli.flags import Device, Out, OutputFlags, SamplingFlags

if TYPE_CHECKING:
    from refusion.models.checkpoint import Header


def restore(
    *paths: Annotated[str, Parameter(required=True)],
    out: Out = Path("restored"),
    model: str | None = None,
    sampling: SamplingFlags = SamplingFlags(),
    output: OutputFlags = OutputFlags(),
    device: Device = None,
    overwrite: Annotated[bool, Parameter(negative="--skip")] = False,
) -> int:
    """Restore pictures: files, folders or glob patterns.

    Args:
        paths: Files, folders (with their subfolders) or patterns as "*.jpg". For a stereo model the left
            and the right view: two files, or two folders of files with equal names.
        out: A folder, or for a single picture a file. Two views go to left/ and right/ in the folder.
        model: A bundled name (see `refusion models`) or a file; by default shadow-removal, or inpainting
            with --mask or --hole-colour.
        overwrite: Restore pictures again whose results exist, instead of skipping them.
    """
    from refusion.jobs.plan import plan
    from refusion.jobs.run import Output, run
    from refusion.models.checkpoint import load, read_header, resolve

    default = "inpainting" if output.mask or output.hole_colour else "shadow-removal"
    header = read_header(resolve(model or default))
    options = sampling.options()
    if output.samples > 1:
        options["samples"] = output.samples
    planned = plan(paths, out, header.spec.views)
    output.check(len(planned.jobs))
    _check_lens(header, len(options.get("condition", ())), model or default)
    count = len(planned.jobs) + len(planned.problems)
    pending = planned if overwrite else planned.pending()
    skipped = len(planned.jobs) - len(pending.jobs)
    if output.mask:
        pending = pending.with_masks(output.mask)
    for problem in pending.problems:
        complain(problem)
    failed, done = len(pending.problems), 0
    if pending.jobs:
        extra = Output(output.uncertainty, output.trajectory, output.strip)
        outcomes = run(pending.jobs, load(header, device), options, extra, output.hole_colour)
        for outcome in bar(outcomes, "picture", len(pending.jobs)):
            for notice in outcome.notices:
                complain(f"{outcome.job.sources[0]}: {notice}")
            if outcome.error:
                complain(outcome.error)
            if outcome.status == "failed":
                failed += 1
            else:
                done += 1
    notes = [f"restored {done} of {count} to {out}"]
    if skipped:
        notes.append(f"{skipped} were there already (--overwrite redoes them)")
    if failed:
        notes.append(f"{failed} failed")
    print("; ".join(notes))
    return 1 if failed else 0


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
    """
    import torch

    from refusion.data.pairs import Pair
    from refusion.diffusion.sde import MeanRevertingSDE
    from refusion.imaging.formats import write, write_gif
    from refusion.models.settings import validated
    from refusion.models.spec import Process
    from refusion.restoring.restorer import noise_source

    pictures = Pair(lq=(start,), gt=(end,)).read()  # any two of equal size
    clean, degraded = pictures.lq[0], pictures.gt[0]
    x0, mu = clean.tensor()[None], degraded.tensor()[None]
    values = {"schedule": schedule, "steps": steps, "noise_level": noise_level}
    sde = validated(Process, values, "diffuse").build()
    assert isinstance(sde, MeanRevertingSDE)
    sample_noise = (lambda: torch.zeros_like(mu)) if mean else noise_source(mu, seed)
    states = bar(sde.forward(x0, mu, sample_noise), "step", sde.steps + 1)
    frames = [clean.with_pixels(x[0]) for x in states]
    if out.suffix.lower() == ".gif":
        write_gif(frames, out)
    else:
        out.mkdir(parents=True, exist_ok=True)
        for t, frame in enumerate(frames):
            write(frame, out / f"{t:04}.png")
    print(out)
