"""The commands `evaluate` and `calibrate`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from refusion.cli.console import bar, complain, say
from refusion.cli.flags import Device, SamplingFlags
from refusion.cli.threads import Threads
from refusion.cli.training import degradation_name
from refusion.restoring.threads import use_threads

if TYPE_CHECKING:
    from refusion.errors import Notice, RefusionError
    from refusion.evaluation.evaluate import Row
    from refusion.restoring.request import Options

PROTOCOL_HELP = (
    "Measure as published, with its border, sampler and steps: paper, posterior, whole or denoising; "
    "docs/evaluation.md has their values."
)
METRIC_HELP = (
    "A perceptual metric as NAME, or as NAME=FILE,FILE with the files of its weights; may be repeated. "
    "NAME is one of ssimulacra2, swd, spectrum, detail, lpips-alex, lpips-vgg, dists, fid."
)


def evaluate(
    data: Path,
    *,
    model: str = "shadow-removal",
    protocol: Annotated[str | None, Parameter(help=PROTOCOL_HELP)] = None,
    sampling: SamplingFlags = SamplingFlags(),
    border: int | None = None,
    metric: Annotated[tuple[str, ...], Parameter(help=METRIC_HELP, negative="")] = (),
    guides: bool = True,
    csv: Path | None = None,
    save: Path | None = None,
    device: Device = None,
    threads: Threads = None,
) -> int:
    """Evaluate a model on a folder of pairs: PSNR and SSIM in RGB and Y, of the input and the output.

    Args:
        data: A folder with lq/ and gt/, paired by file stem; or a folder of clean pictures, for a model of a
            synthetic degradation.
        model: A bundled name or a file.
        border: Pixels cropped on each side; by default 0.
        guides: Give the model the guides of the pairs, if it takes some; not the mask of an inpainting model.
        csv: Write the scores of every picture to this file.
        save: Write the restored pictures to this folder.
    """
    use_threads(threads)
    from refusion.evaluation import evaluate as measuring
    from refusion.evaluation.perceptual import load as load_metrics
    from refusion.imaging.formats import write
    from refusion.models.checkpoint import load, read_header, resolve
    from refusion.training.recipe import pairs_of

    header = read_header(resolve(model))
    pairs = pairs_of(header, data)
    restorer = load(header, device)
    margin, options = _measured_as(protocol, border, sampling.options(), restorer.sde.steps)
    perceptual = load_metrics(metric, restorer.device)
    if not guides and not restorer.fill:
        options["guides"] = None
    rows = []
    if save:
        save.mkdir(parents=True, exist_ok=True)
    failures: list[RefusionError] = []

    def failed(error: "RefusionError") -> None:
        complain(error)
        failures.append(error)

    measured = measuring.evaluate(restorer, pairs, margin, perceptual, failed, **options)
    told: Sequence[Notice] = ()
    for row, restored in bar(measured, "picture", len(pairs)):
        rows.append(row)
        new = [] if row.notices is told else row.notices  # the views of a scene share theirs
        for notice in (notice for notice in new if notice.key != "unchanged"):
            complain(f"{row.name}: {notice}")
        told = row.notices
        if save:
            write(restored, save / f"{row.name}.png")
    if not rows:
        return 1
    if csv:
        measuring.write_csv(rows, csv)
    if name := degradation_name(pairs):
        say(f"degraded pictures are made by {name}")
    if protocol:
        say(f"protocol {protocol}: {measuring.PROTOCOLS[protocol]}")
    _print_scores(rows)
    if failures:
        say(f"{len(failures)} of {len(pairs)} failed, and do not count")
    return 1 if failures else 0


def _measured_as(
    name: str | None, border: int | None, options: "Options", steps: int
) -> "tuple[int, Options]":
    """Return border and options, of the protocol if there is one, which options may not change."""
    from refusion.evaluation.evaluate import protocol

    if name is None:
        return border or 0, options
    fixed = protocol(name)
    fixed_options = fixed.options(steps)
    conflicts = ["--border"] if border is not None else []
    conflicts += [f"--{key}" for key in fixed_options if key in options]
    if conflicts:
        raise ValueError(f"--protocol {name} fixes {' and '.join(conflicts)}: leave out one or the other")
    return fixed.border, {**fixed_options, **options}


def _print_scores(rows: "Sequence[Row]") -> None:
    import numpy as np

    from refusion.evaluation.evaluate import mean_scores, perceived

    more = perceived(rows)
    widths = {name: max(10, len(name) + 2) for name in more}
    heads = "".join(f"{name.upper():>{widths[name]}}" for name in more)
    say(f"{f'{len(rows)} pictures':12}    PSNR    SSIM  PSNR-Y  SSIM-Y{heads}")
    for i, side in enumerate(("input", "output")):
        mean = mean_scores([getattr(row, side) for row in rows])
        means = [(widths[name], float(np.mean(columns[i]))) for name, columns in more.items()]
        rest = "".join(f"{value:{width}.4f}" for width, value in means)
        say(f"{side:12}{mean.psnr:8.2f}{mean.ssim:8.4f}{mean.psnr_y:8.2f}{mean.ssim_y:8.4f}{rest}")


def calibrate(
    data: Path,
    *,
    model: str = "shadow-removal",
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    steps: int = 5,
    samples: int = 8,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Fit the scale of a model's uncertainty maps on every second pair, and test it on the others.

    Args:
        data: A folder with lq/ and gt/, or of clean pictures, as of evaluate.
        model: A bundled name or a file.
        out: Write the model with the scale in its card to this file.
        steps: Steps of each restoration.
        samples: Restorations of each picture.
    """
    use_threads(threads)
    from refusion.evaluation import uncertainty
    from refusion.models.checkpoint import load, read_header, resolve, save_with_card
    from refusion.training.recipe import pairs_of

    header = read_header(resolve(model))
    pairs = pairs_of(header, data)
    found = uncertainty.calibrate(load(header, device), pairs, steps=steps, samples=samples)
    parts = f"{found.after:.1%} of the errors, {found.before:.1%} without it"
    say(f"scale {found.scale:.2f}: within one deviation are {parts}")
    if out is not None:
        card = header.card.model_copy(update={"std_scale": round(found.scale, 3)})
        save_with_card(out, header, card)
        say(out)
