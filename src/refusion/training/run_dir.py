"""The folder of a run: whose recipe and data it holds, and that one training at a time writes to it."""

import contextlib
import hashlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.fabric import Fabric

from refusion.errors import RecipeError, RefusionError, printable
from refusion.files import atomic
from refusion.training.checkpoints import newest, writing
from refusion.training.optimizer import rate_factor
from refusion.training.recipe import Loop, Recipe, load_yaml
from refusion.training.stages import CODEC, MEAN

try:
    import fcntl
except ModuleNotFoundError:  # Windows has other locks; there two trainings in a folder are not refused
    fcntl = None  # type: ignore[assignment]

RECIPE, DATA, LOCK = "recipe.yaml", "data.sha256", ".lock"
FINISHED = {"codec_training": CODEC, "mean_training": MEAN}
"""The files that stages leave when they are done, by the names of their settings."""
FOLDERS = {**{loop: file.parent for loop, file in FINISHED.items()}, "training": Path()}
"""The folders of the stages in that of the run."""
LOOPS = tuple(FOLDERS)
FREE = {
    "task",
    "codec_training.gate",
    *(
        f"{loop}.{key}"
        for loop in LOOPS
        for key in ("workers", "keep", "save_every", "perceptual", "precision")
    ),
}
"""Values that change no weights, or of which `stage.resume` says that they do. So do those of the card."""
PER_STEP = {f"{loop}.{key}" for loop in LOOPS for key in ("batch", "accumulate")}
"""Values that change no weights if batch x accumulate x processes stays, see `stage.resume`."""


@contextlib.contextmanager
def claim(out: Path, recipe: Recipe, fabric: Fabric) -> Iterator[None]:
    """Hold the folder of a run, if it is free and its run is of this recipe; say what changed.

    Raises:
        RefusionError: another training holds it, or it cannot be written; see `check_run_dir`.
    """
    refusal: RefusionError | None = None
    with contextlib.ExitStack() as held:
        if fabric.is_global_zero:
            try:
                held.enter_context(lock(out))
                with writing(out):
                    sweep(out)
                    for line in check_run_dir(out, recipe):
                        print(printable(f"{out}: {line}"), flush=True)
            except RefusionError as error:
                refusal = error
        refusal = fabric.broadcast(refusal)
        if refusal is not None:
            raise refusal
        yield


@contextlib.contextmanager
def lock(out: Path) -> Iterator[None]:
    """Hold the folder of a run until the block or the process ends, however it ends.

    Raises:
        RefusionError: another process, or another call in this one, holds it; or it cannot be written.
    """
    with contextlib.ExitStack() as held:
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
            file = held.enter_context((out / LOCK).open("a+", encoding="utf-8"))
            if fcntl is not None:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    file.seek(0)
                    holder = file.read().strip() or "another process"
                    raise RefusionError(
                        f"{out}: {holder} is training there: wait for it, or give another folder"
                    ) from error
                except OSError:  # a file system without locks
                    pass
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        yield


def sweep(out: Path) -> None:
    """Delete what runs that were killed had half written."""
    for name in FOLDERS.values():
        for folder in (out / name, out / name / "pictures"):
            for part in folder.glob(".*.part"):
                part.unlink(missing_ok=True)


def check_run_dir(out: Path, recipe: Recipe) -> list[str]:
    """Write recipe and data of a run to its folder, or check that they are those of the run in it.

    Steps may grow, and the precision may change. What changes no weights may change: `FREE`, the card, batch
    and processes where the samples of a step stay as many, and the place of equal data. A folder in which
    nothing was trained takes any recipe.

    Returns:
        What changed and has an effect, a line each.

    Raises:
        RecipeError: `out` holds a run with other values.
    """
    lines: list[str] = []
    note, data = out / RECIPE, fingerprint(recipe)
    if note.exists() and _begun(out):
        earlier = load_yaml(note)
        lines = _check_values(out, earlier, recipe) + _check_data(out, earlier, recipe, data)
    for name, text in ((RECIPE, recipe.to_yaml()), (DATA, data + "\n")):
        with atomic(out / name) as part:
            part.write_text(text, encoding="utf-8")
    return lines


def fingerprint(recipe: Recipe) -> str:
    """Return a digest of the data: the relative names and the sizes of all files, wherever they lie."""
    digest = hashlib.sha256()
    folder = Path(recipe.data.folder)
    for root in (folder / "train", folder / "val", *map(Path, recipe.data.scenes)):
        digest.update(b"folder\n")
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root)
            if path.is_file() and not any(part.startswith(".") for part in name.parts):
                digest.update(f"{name.as_posix()}\0{path.stat().st_size}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _begun(out: Path) -> bool:
    """Whether something was trained in a folder."""
    return any((out / file).exists() for file in FINISHED.values()) or any(
        any((out / folder).glob("*.ckpt")) for folder in FOLDERS.values()
    )


def _check_values(out: Path, earlier: Recipe, recipe: Recipe) -> list[str]:
    """Compare all values but those of the data's place; return what longer schedules mean."""
    before, now = (dict(_flat(r.model_dump(exclude={"card"}))) for r in (earlier, recipe))
    keys = dict.fromkeys([*now, *before])  # the keys of a component depend on its class
    free = {*FREE, "data.folder", "data.scenes"}
    lines, changed = [], []
    for key in keys:
        part, _, name = key.partition(".")
        if before.get(key) == now.get(key) or key in free:
            continue
        if key in PER_STEP and _tells_samples(out / FOLDERS[part]):
            continue
        if name == "steps" and part in LOOPS and now[key] > before[key] and _grows(out, part):
            lines.append(_longer(part, getattr(earlier, part), getattr(recipe, part)))
        else:
            changed.append(f"{key} {before.get(key)} -> {now.get(key)}")
    if changed:
        raise RecipeError(f"{out} holds a run with other values ({'; '.join(changed)}): give another folder")
    return lines


def _grows(out: Path, part: str) -> bool:
    """Whether more steps of a stage still have an effect."""
    return part == "training" or not (out / FINISHED[part]).exists()


def _tells_samples(folder: Path) -> bool:
    """Whether the checkpoint of a stage tells the samples of a step, as those of earlier versions do not."""
    found = newest(folder)
    return found is None or "samples" in found.content


def _longer(part: str, before: Loop, now: Loop) -> str:
    """Return what it means that a run gets more steps."""
    said = f"{part}.steps {before.steps} -> {now.steps}"
    if now.lr_schedule == "constant":
        return f"{said}: the learning rate is constant, so the run is as one that was begun with {now.steps}"
    ended = before.learning_rate * rate_factor(before, before.steps - 1)
    goes_on = now.learning_rate * rate_factor(now, before.steps)
    return (
        f"{said}: from here on the learning rate is that of {now.steps} steps, {goes_on:.3g} at step "
        f"{before.steps}, where that of {before.steps} ends with {ended:.3g}; so the weights will not be "
        f"those of a run that was begun with {now.steps}"
    )


def _check_data(out: Path, earlier: Recipe, recipe: Recipe, data: str) -> list[str]:
    """Compare the data: elsewhere they must be equal; in their place a change is told."""
    note = out / DATA
    known = note.exists()
    before = note.read_text(encoding="utf-8").strip() if known else fingerprint(earlier)
    if before == data:
        return []
    moved = [
        f"data.{key} {was} -> {now}"
        for key in ("folder", "scenes")
        if (was := getattr(earlier.data, key)) != (now := getattr(recipe.data, key))
    ]
    if moved:
        raise RecipeError(
            f"{out} holds a run on other data ({'; '.join(moved)}): names or sizes of the files differ; give "
            "another folder"
        )
    return ["the pictures are not those that the run was begun with: its rest is drawn from the new ones"]


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
