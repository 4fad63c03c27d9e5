"""The commands: typed functions that call the package and print."""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from cyclopts import App, CycloptsError, Parameter
from tqdm import tqdm

import refusion
from refusion import checkpoint, image
from refusion import evaluate as measuring
from refusion.bulk import Files, plan, plan_views
from refusion.data import Pair, contact_sheet, inspect_pairs
from refusion.degradation import painted
from refusion.errors import DataError, ImageError, RefusionError, first_line
from refusion.evaluate import PROTOCOLS
from refusion.options import Extras, How, Known
from refusion.perceptual import METRICS
from refusion.perceptual import load as load_metrics
from refusion.recipe import Card, Process, Recipe, load_yaml, validated
from refusion.restorer import Restorer, noise_source
from refusion.sde import MeanRevertingSDE

app = App(
    name="refusion",
    version=refusion.__version__,
    help="Restore photographs with mean-reverting diffusion.",
    suppress_keyboard_interrupt=False,
)
T = TypeVar("T")

_PICTURE: ContextVar[str] = ContextVar("picture", default="")
"""What a line of the log is about."""
Device = Annotated[str | None, Parameter(help="cpu, cuda, cuda:1, mps; by default the best there is.")]
Out = Annotated[Path, Parameter(name=["--out", "-o"])]
PROTOCOL_HELP = "Measure as published, with its border, sampler and steps: " + "; ".join(
    f"{name} ({fixed})" for name, fixed in PROTOCOLS.items()
)
METRIC_HELP = (
    "A perceptual metric and the files of its weights, as NAME=FILE,FILE; may be repeated. "
    f"NAME is one of {', '.join(METRICS)}."
)


@contextmanager
def _log_shown() -> Iterator[None]:
    """What the package logs becomes lines like all others, here only and once."""
    handler, logger = logging.Handler(logging.INFO), logging.getLogger("refusion")
    handler.emit = lambda record: _complain(_PICTURE.get() + record.getMessage())  # type: ignore[method-assign]
    about = _PICTURE.set("")
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        _PICTURE.reset(about)
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


@app.command
@_log_shown()
def restore(
    *paths: Annotated[str, Parameter(required=True)],
    out: Out = Path("restored"),
    model: str | None = None,
    how: How = How(),
    extras: Extras = Extras(),
    device: Device = None,
    overwrite: Annotated[bool, Parameter(negative="--skip")] = False,
) -> int:
    """Restore pictures: files, folders or glob patterns.

    Args:
        paths: Files, folders (with all that is in them) or patterns as "*.jpg". For a stereo model the
            left and the right view: two files, or two folders of files with equal names.
        out: A folder, or for a single picture a file. Two views go to left/ and right/ in it.
        model: A bundled name (see `refusion models`) or a file; by default shadow-removal, or where
            something is missing inpainting.
        overwrite: Redo pictures that are done already, instead of skipping them.
    """
    model = model or ("inpainting" if extras.mask or extras.hole_colour else "shadow-removal")
    recipe, options = checkpoint.read_header(checkpoint.resolve(model)).recipe, how.options()
    planned = plan_views(paths, out) if recipe.views > 1 else plan(paths, out)
    jobs = planned.jobs
    extras.check(len(jobs), recipe.views)
    _check_told(recipe, options, model)
    todo = {files: targets for files, targets in jobs.items() if overwrite or not _exist(targets)}
    for problem in planned.problems:
        _complain(problem)
    restorer = refusion.load(model, device) if todo else None
    masks = _masks(extras.mask) if extras.mask and extras.mask.is_dir() else {}
    failed = 0
    for sources, targets in _progress(todo.items(), "picture"):
        assert restorer is not None
        try:
            _restore_one(restorer, sources, targets, options, extras, masks)
        except (ImageError, OSError, MemoryError, RuntimeError) as error:  # torch's memory ends in the last
            failed += 1
            said = first_line(error)
            _complain(said if isinstance(error, ImageError) else f"{sources[0]}: {said}")
    done, skipped = len(todo) - failed, len(jobs) - len(todo)
    failed += len(planned.problems)
    notes = [f"{skipped} were there already (--overwrite redoes them)"] * bool(skipped)
    notes += [f"{failed} failed"] * bool(failed)
    print("; ".join([f"restored {done} of {len(jobs) + len(planned.problems)} to {out}", *notes]))
    return 1 if failed else 0


def _check_told(recipe: Recipe, options: dict[str, Any], model: str) -> None:
    """Lenses are given where they are needed, and only there."""
    given = len(options.get("condition", recipe.sampling.condition))
    if given != recipe.conditions:
        lens = "--source-lens, --target-lens and --disparity"
        raise ValueError(f"{model} takes no lens: leave out {lens}" if given else f"{model} needs {lens}")


def _exist(targets: Files) -> bool:
    return all(target.exists() for target in targets)


def _restore_one(
    restorer: Restorer,
    sources: Files,
    targets: Files,
    options: dict[str, Any],
    extras: Extras,
    masks: Mapping[Path, Path],
) -> None:
    """Read a scene, restore it and write it."""
    _PICTURE.set(f"{sources[0]}: ")
    pictures = [image.read(source) for source in sources]
    if len({picture.size for picture in pictures}) > 1:
        named = " and ".join(map(str, sources))
        raise ImageError(f"{named} have sizes {image.sized(*pictures)}: give views of one size")
    for target in targets:
        target.parent.mkdir(parents=True, exist_ok=True)
    results = _results(restorer, pictures, sources[0], targets[0], options, extras, masks)
    for source, picture, result, target in zip(sources, pictures, results, targets, strict=True):
        if np.abs(result.pixels - restorer.prepared(picture).pixels).max() < 1 / 255:
            _complain(f"{source}: nothing changed; is this a picture for this model?")
        image.write(result, target)


def _results(
    restorer: Restorer,
    pictures: Sequence[image.Image],
    source: Path,
    target: Path,
    options: dict[str, Any],
    extras: Extras,
    masks: Mapping[Path, Path],
) -> tuple[image.Image, ...]:
    """The restored views of a scene; what the extras ask for besides is written."""
    picture = pictures[0]
    if extras.mask or extras.hole_colour:
        return (restorer.fill(picture, _holes(picture, source, extras, masks), **options),)
    if extras.samples > 1:
        drawn = restorer.samples(picture, extras.samples, **options)
        if extras.uncertainty:
            shown = image.from_array((10 * drawn.deviation).clip(0, 1))
            image.write(shown, target.with_name(f"{target.stem}-uncertainty.png"))
        return (drawn.mean,)
    if extras.trajectory:
        frames = list(restorer.trajectory(picture, **options))
        image.write_gif([restorer.prepared(picture), *frames], extras.trajectory)
        return (frames[-1],)
    return restorer.views(pictures, **options)


def _masks(folder: Path) -> dict[Path, Path]:
    """The masks of a folder by their paths in it, without suffix."""
    return {path.relative_to(folder).with_suffix(""): path for path in image.find([folder])}


def _mask_of(source: Path, folder: Path, masks: Mapping[Path, Path]) -> Path:
    """The mask with a picture's name; where there are several, in folders of the same names, too."""
    parts = source.resolve().with_suffix("").parts[1:]
    for i in range(len(parts)):
        if found := masks.get(Path(*parts[i:])):
            return found
    raise ImageError(f"{source}: no mask of its name in {folder}")


def _holes(picture: image.Image, source: Path, extras: Extras, masks: Mapping[Path, Path]) -> np.ndarray:
    """(h, w), 1 where the picture is missing."""
    mask = extras.mask
    if mask is None:
        return painted(picture.tensor(), extras.hole_colour or "")[0].numpy()
    if mask.is_dir():
        mask = _mask_of(source, mask, masks)
    read = image.read(mask)
    if read.size != picture.size:
        sizes = image.sized(read, picture)
        raise ImageError(f"{mask} and {source} have sizes {sizes}: give a mask of the picture's size")
    return (read.pixels.mean(-1) > 0.5).astype(np.float32)


@app.command
def train(
    recipe: Path,
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=True)],
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    from_model: Annotated[str | None, Parameter(name="--from")] = None,
    devices: int | None = None,
    nodes: int = 1,
    dry_run: bool = False,
) -> None:
    """Train a model from a recipe; the same command resumes a run that was stopped.

    Args:
        recipe: A YAML file.
        overrides: Any value of the recipe, as --training.steps 1000 or --data.folder pairs.
        out: The run's folder; by default runs/ and the recipe's name.
        from_model: Start from the weights of this model (fine-tuning).
        devices: Processes on each machine; by default all accelerators, or one CPU.
        nodes: Machines.
        dry_run: Print the whole recipe, the size and the expected memory, and stop.
    """
    described = load_yaml(recipe, list(_pairs_of(overrides)))
    if dry_run:
        from refusion.cost import cost

        expected = cost(described)
        print(f"{described.to_yaml()}\n{expected}")
        return
    try:
        from refusion.train import train as run
    except ModuleNotFoundError as error:
        raise RefusionError(f"training needs {error.name}: pip install 'refusion[train]'") from error
    run(described, out or Path("runs") / recipe.stem, from_model, devices, nodes)


def _pairs_of(tokens: Iterable[str]) -> Iterator[str]:
    """`--a.b 1` and `--a.b=1` as "a.b=1"."""
    rest = iter(tokens)
    for token in rest:
        name, equals, value = token.removeprefix("--").partition("=")
        if not token.startswith("--") or (not equals and (value := next(rest, "")) == ""):
            raise RefusionError(f"{token}: give overrides as --training.steps 1000")
        yield f"{name}={value}"


@app.command
@_log_shown()
def evaluate(
    data: Path,
    *,
    model: str = "shadow-removal",
    protocol: Annotated[str | None, Parameter(help=PROTOCOL_HELP)] = None,
    how: How = How(),
    border: int | None = None,
    metric: Annotated[tuple[str, ...], Parameter(help=METRIC_HELP, negative="")] = (),
    csv: Path | None = None,
    save: Path | None = None,
    device: Device = None,
) -> None:
    """Measure a model on a folder of pairs: PSNR and SSIM in RGB and Y, of the input and the output.

    Args:
        data: A folder with lq/ and gt/, paired by file stem; or for a model whose pairs are made, of
            clean pictures.
        model: A bundled name or a file.
        border: Pixels left out on each side; by default 0.
        csv: Write the scores of every picture to this file.
        save: Write the restored pictures to this folder.
    """
    pairs = checkpoint.read_header(checkpoint.resolve(model)).recipe.pairs(data)
    restorer = refusion.load(model, device)
    margin, options = _measured_as(protocol, border, how.options(), restorer.sde.steps)
    perceptual = load_metrics(metric, restorer.device)
    rows = []
    if save:
        save.mkdir(parents=True, exist_ok=True)
    measured = measuring.evaluate(restorer, pairs, margin, perceptual, **options)
    for row, restored in _progress(measured, "picture", len(pairs)):
        rows.append(row)
        if save:
            image.write(restored, save / f"{row.name}.png")
    if csv:
        measuring.write_csv(rows, csv)
    if maker := _maker(pairs):
        print(f"degraded pictures are made by {maker}")
    if protocol:
        print(f"protocol {protocol}: {PROTOCOLS[protocol]}")
    _print_scores(rows)


def _measured_as(
    name: str | None, border: int | None, options: dict[str, Any], steps: int
) -> tuple[int, dict[str, Any]]:
    """Border and options, those of a protocol if there is one: a number under its name is its number."""
    if name is None:
        return border or 0, options
    fixed = measuring.protocol(name)
    theirs = fixed.options(steps)
    given = ["--border"] * (border is not None) + [f"--{key}" for key in theirs if key in options]
    if given:
        raise ValueError(f"--protocol {name} fixes {' and '.join(given)}: leave out one or the other")
    return fixed.border, {**theirs, **options}


def _print_scores(rows: Sequence[measuring.Row]) -> None:
    more = measuring.perceived(rows)
    widths = {name: max(10, len(name) + 2) for name in more}
    heads = "".join(f"{name.upper():>{widths[name]}}" for name in more)
    print(f"{f'{len(rows)} pictures':12}    PSNR    SSIM  PSNR-Y  SSIM-Y{heads}")
    for i, side in enumerate(("input", "output")):
        mean = measuring.mean_scores([getattr(row, side) for row in rows])
        means = [(widths[name], float(np.mean(columns[i]))) for name, columns in more.items()]
        rest = "".join(f"{value:{width}.4f}" for width, value in means)
        print(f"{side:12}{mean.psnr:8.2f}{mean.ssim:8.4f}{mean.psnr_y:8.2f}{mean.ssim_y:8.4f}{rest}")


@app.command
def doctor(data: Path, *, recipe: Path | None = None, sheet: Path | None = None) -> int:
    """Look at a folder of pairs before training: what is in it, and all that is wrong with it.

    Args:
        data: A folder with lq/ and gt/, or with train/ and val/ that hold them.
        recipe: Whose degradation makes what is not there, and which enlarges.
        sheet: Write a contact sheet, degraded above clean, to this file.
    """
    described = load_yaml(recipe) if recipe else None
    how = (described.data.degradation, described.enlarge.factor) if described else ()
    folders = [data / part for part in ("train", "val") if (data / part).is_dir()] or [data]
    problems = 0
    if (data / "train").is_dir() and not (data / "val").is_dir():
        _complain(f"{data}: no val/; training chooses its model there")
        problems += 1
    for folder in folders:
        finding = inspect_pairs(folder, *how)
        if described and not finding.problems:
            try:
                described.pairs(folder)
            except DataError as error:
                finding.problems.append(str(error))
        sizes = ", ".join(f"{count} of {w}x{h}" for (w, h), count in sorted(finding.sizes.items())[:8])
        more = f" and {len(finding.sizes) - 8} other sizes" if len(finding.sizes) > 8 else ""
        made = f", degraded by {maker}" if (maker := _maker(finding.pairs)) else ""
        print(f"{folder}: {len(finding.pairs)} pairs{made}{': ' if sizes else ''}{sizes}{more}")
        for problem in finding.problems:
            _complain(problem)
        problems += len(finding.problems)
        if sheet and finding.pairs:
            target = sheet if len(folders) == 1 else sheet.with_stem(f"{sheet.stem}-{folder.name}")
            image.write(contact_sheet(finding.pairs), target)
            print(target)
    return 1 if problems else 0


def _maker(pairs: Sequence[Pair]) -> str:
    """The degradation that makes their degraded pictures; nothing where these are files."""
    return next((type(pair.degradation).__name__ for pair in pairs if not pair.lq), "")


@app.command
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
        end: The degraded one, of equal size.
        out: An animated GIF, or a folder for single pictures.
        noise_level: In units of the range [0, 1]; may be a fraction.
        steps: Training times T.
        schedule: constant, linear or cosine.
        mean: Without noise: an interpolation between the two pictures.
        seed: Seed of the noise.
    """
    import torch

    (gt,), (lq,), _ = Pair(lq=(start,), gt=(end,)).read()
    x0, mu = gt.tensor()[None], lq.tensor()[None]
    values = {"schedule": schedule, "steps": steps, "noise_level": noise_level}
    sde = validated(Process, values, "diffuse").build()
    assert isinstance(sde, MeanRevertingSDE)
    draw = (lambda: torch.zeros_like(mu)) if mean else noise_source(mu, seed)
    states = _progress(sde.forward(x0, mu, draw), "step", sde.steps + 1)
    frames = [gt.with_pixels(x[0]) for x in states]
    if out.suffix.lower() == ".gif":
        image.write_gif(frames, out)
    else:
        out.mkdir(parents=True, exist_ok=True)
        for t, frame in enumerate(frames):
            image.write(frame, out / f"{t:04}.png")
    print(out)


@app.command(name="import")
def import_(
    *files: Annotated[Path, Parameter(required=True)],
    out: Out = Path("model.safetensors"),
    task: str | None = None,
    partner: Path | None = None,
    known: Known = Known(),
) -> None:
    """Make a model of published weights of IR-SDE or Refusion.

    Args:
        files: The weights of the network and, of a latent model, of its autoencoder.
        out: The model, a file that every command takes.
        task: What the weights were trained for; needed where their shapes fit several tasks.
        partner: The weights of the autoencoder, if they are not among the files.
    """
    from refusion.importing import imported

    model = imported([*files, *([partner] if partner else [])], task, **known.facts())
    checkpoint.save(out, model.restorer, model.recipe, model.card)
    print("\n".join([*model.notes, str(out)]))


@app.command
def export(model: str, *, out: Out, to: Literal["published", "onnx", "hub"]) -> None:
    """Write a model for other programs.

    Args:
        model: A bundled name or a file.
        out: For published keys a file, NAME.pth or NAME.safetensors; else a folder.
        to: The keys of published weights; graphs for ONNX; or a folder of the Hugging Face hub.
    """
    from refusion import exporting, graphs, hub

    writers: dict[str, Callable[[str, Path], Iterable[object]]] = {
        "published": exporting.to_published,
        "onnx": graphs.to_onnx,
        "hub": lambda model, folder: [hub.save_pretrained(model, folder)],
    }
    for line in writers[to](model, out):
        print(line)


@app.command
def models() -> None:
    """List the bundled models."""
    for path in checkpoint.bundled_models():
        header = checkpoint.read_header(path)
        size = path.stat().st_size / 1e6
        print(f"{path.stem}: {header.recipe.task}, {header.parameters / 1e6:.1f} M parameters, {size:.0f} MB")
        for line in (header.card.summary, header.card.terms, _metrics(header.card)):
            print(f"    {line}")


@app.command
def info(model: str) -> None:
    """Print the card and the recipe of a model.

    Args:
        model: A bundled name or a file.
    """
    header = checkpoint.read_header(checkpoint.resolve(model))
    card = header.card
    for name in ("summary", "data", "terms", "training", "limits"):
        if text := getattr(card, name):
            print(f"{name}: {text}")
    print(f"measured: {_metrics(card)}\nparameters: {header.parameters}\n\n{header.recipe.to_yaml()}", end="")


def _metrics(card: Card) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in card.metrics.items())


def _progress(items: Iterable[T], unit: str, total: int | None = None) -> Iterable[T]:
    return tqdm(items, unit=unit, total=total, disable=None, leave=False)


def _complain(text: str) -> None:
    tqdm.write(f"refusion: {text}", file=sys.stderr)


def main() -> None:
    """Run a command; every foreseen failure is one line and exit status 1."""
    try:
        status = app(result_action="return_value", exit_on_error=False, print_error=False)
    except CycloptsError as error:
        _complain(" ".join(str(error).split()))
        status = 2
    except (RefusionError, ValueError, OSError) as error:
        _complain(str(error))
        status = 1
    except RuntimeError as error:
        if "memory" not in str(error):
            raise
        _complain(first_line(error))
        status = 1
    except KeyboardInterrupt:
        _complain("stopped")
        status = 130
    sys.exit(status if isinstance(status, int) else 0)
