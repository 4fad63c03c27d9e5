"""Training by a recipe: its stages run one after another in one folder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from refusion.errors import RecipeError
from refusion.files import atomic
from refusion.models import checkpoint
from refusion.restoring.restorer import Restorer
from refusion.training.recipe import Recipe, load_yaml
from refusion.training.stages import CODEC, stages
from refusion.training.trainer import fit, make_fabric

RECIPE = "recipe.yaml"


def train(
    recipe: Recipe, out: Path, start: str | Path | None = None, devices: int | None = None, nodes: int = 1
) -> Path:
    """Train a model by a recipe, resuming where an earlier call in the same folder stopped.

    Args:
        recipe: of the model.
        out: folder of the run, for last.ckpt, the best checkpoints, logs, pictures and model.safetensors.
        start: model to fine-tune, a bundled name or a file.
        devices: processes on each machine; None for all accelerators, or one CPU.
        nodes: machines.

    Returns:
        The file of the released model, that with the best validation score.

    Raises:
        RecipeError: `out` holds a run of another recipe, `start` is another kind of model, or the last
            steps would not be validated.
        DataError: see `Recipe.pairs`.
        RefusionError: the run diverged before its first validation, or the gain of the codec is below
            the recipe's gate.
    """
    for name, loop in (("codec_training", recipe.codec_training), ("training", recipe.training)):
        if loop.steps % loop.validated_every:
            multiple = f"no multiple of validate_every {loop.validate_every}"
            raise RecipeError(f"{name}.steps {loop.steps} is {multiple}: the end is lost")
    source = _fine_tuned(recipe, start) if start else None
    fabric = make_fabric(devices, nodes)
    fabric.launch()
    out.mkdir(parents=True, exist_ok=True)
    check_run_dir(out, recipe)
    torch.manual_seed(recipe.training.seed)
    restorer = recipe.model.build()
    if source is not None:
        # A model of single views lacks the attention between two views, which starts at zero.
        alike = source.network.num_views == restorer.network.num_views
        restorer.network.load_state_dict(source.network.state_dict(), strict=alike)
        if source.codec.state_dict():
            checkpoint.write_weights(out / "codec" / CODEC, source.codec)
    metrics: dict[str, float] = {}
    for stage_type in stages(recipe):
        stage = stage_type(restorer, recipe, out, metrics)
        if not stage.done:
            fit(stage, fabric)
        metrics |= stage.finish(fabric)
    return out / checkpoint.MODEL


def _fine_tuned(recipe: Recipe, start: str | Path) -> Restorer:
    """Load the model to fine-tune, which must have the recipe's specification; but a network of two views may
    start from one of single views."""
    header = checkpoint.read_header(checkpoint.resolve(start))
    for part in ("network", "codec", "process", "prediction"):
        was, now = getattr(header.spec, part), getattr(recipe.model, part)
        expected = now
        if getattr(was, "stereo", None) is False and getattr(now, "stereo", None) is True:
            expected = now.model_copy(update={"stereo": False, "downscale": was.downscale})
        if was != expected:
            raise RecipeError(f"{part} of {start} is {was}, of the recipe {now}: fine-tuning changes neither")
    return checkpoint.load(header, "cpu")


def check_run_dir(out: Path, recipe: Recipe) -> None:
    """Write the recipe to the folder of a run, or check that the one in it has the same values."""
    note = out / RECIPE
    if not note.exists():
        with atomic(note) as part:
            part.write_text(recipe.to_yaml(), encoding="utf-8")
        return
    earlier = dict(_flat(load_yaml(note).model_dump()))
    now = dict(_flat(recipe.model_dump()))
    keys = dict.fromkeys([*now, *earlier])  # the keys of a component depend on its class
    keys.pop("codec_training.gate")  # has no effect on the weights
    changed = [f"{k} {earlier.get(k)} -> {now.get(k)}" for k in keys if earlier.get(k) != now.get(k)]
    if changed:
        raise RecipeError(f"{out} holds a run with other values ({'; '.join(changed)}): give another folder")


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
