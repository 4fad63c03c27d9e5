"""Training by a recipe: its stages run one after another in one folder."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.fabric import Fabric

from refusion.errors import RecipeError
from refusion.models import checkpoint
from refusion.nn.network import Network
from refusion.restoring.restorer import Restorer
from refusion.training.processes import launched, make_fabric
from refusion.training.recipe import Recipe
from refusion.training.run_dir import claim
from refusion.training.stages import CODEC, MEAN, stages
from refusion.training.stopping import Stop, stop_requests
from refusion.training.trainer import fit


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
        RecipeError: `out` holds a run of another recipe, see `check_run_dir`, `start` is another kind of
            model, the last steps would not be validated, or `devices` or `nodes` is below 1.
        DataError: see `Recipe.pairs`.
        CheckpointError: every checkpoint of the run is damaged.
        RefusionError: another training holds `out`, a file cannot be written, as on a full disk, the run
            diverged before its first validation, or the gain of the codec is below the recipe's gate.
        KeyboardInterrupt or SystemExit: SIGINT or SIGTERM asked to stop; the run resumes where it stopped.
    """
    for name in ("codec_training", "mean_training", "training"):
        loop = getattr(recipe, name)
        if loop.steps % loop.validated_every:
            multiple = f"no multiple of validate_every {loop.validate_every}"
            raise RecipeError(f"{name}.steps {loop.steps} is {multiple}: the end is lost")
    with stop_requests() as stop:
        source = _fine_tuned(recipe, start) if start else None
        fabric = make_fabric(devices, nodes)
        with launched(fabric):
            stop.raise_agreed(fabric)
            with claim(out, recipe, fabric):
                return _train(recipe, out, source, fabric, stop)


def _train(recipe: Recipe, out: Path, source: Restorer | None, fabric: Fabric, stop: Stop) -> Path:
    """Run the stages of a recipe in a folder that is held."""
    torch.manual_seed(recipe.training.seed)
    restorer = recipe.model.build()
    if source is not None:
        if restorer.mean is None or source.mean is not None:
            _start_from(restorer.network, source.network)
        if restorer.mean is not None:
            _start_from(restorer.mean, source.network if source.mean is None else source.mean)
            checkpoint.write_weights(out / MEAN, restorer.mean)
        if source.codec.state_dict():
            checkpoint.write_weights(out / CODEC, source.codec)
    metrics: dict[str, float] = {}
    for stage_type in stages(recipe):
        stage = stage_type(restorer, recipe, out, metrics)
        if not stage.done:
            fit(stage, fabric, stop)
        metrics |= stage.finish(fabric, stop)
    return out / checkpoint.MODEL


def _start_from(network: Network, source: Network) -> None:
    """Load the weights of a network; what it lacks starts without effect.

    A network of single views lacks the attention between two views, one without guides or the degraded
    picture the last weights of the first convolution, and a shallower one some blocks.
    """
    weights = source.state_dict()
    for name, weight in network.state_dict().items():
        lacking = weight.shape[1] - weights[name].shape[1] if name in weights and weight.ndim > 1 else 0
        if lacking:
            weights[name] = F.pad(weights[name], (0, 0, 0, 0, 0, lacking))
    rest = network.load_state_dict(weights, strict=False)
    assert not rest.unexpected_keys, rest


def _fine_tuned(recipe: Recipe, start: str | Path) -> Restorer:
    """Load the model to fine-tune, which must have the recipe's specification; but a network of two views may
    start from one of single views, one with guides from one without, and a deeper one from one with fewer
    blocks, and a model of one step may be the mean of one that has a mean."""
    header = checkpoint.read_header(checkpoint.resolve(start))
    spec = header.spec
    if recipe.model.mean is not None and spec.mean is None:
        parts = {"network": "mean", "codec": "codec"}
    else:
        parts = {name: name for name in ("network", "codec", "process", "prediction", "mean")}
    for part, becomes in parts.items():
        was, now = getattr(spec, part), getattr(recipe.model, becomes)
        if now is None and was is not None:
            raise RecipeError(f"{start} has a {part}, and the recipe none: fine-tuning changes neither")
        if was != _as_source(now, was):
            raise RecipeError(
                f"{part} of {start} is {was}, {becomes} of the recipe {now}: fine-tuning changes neither"
            )
    return checkpoint.load(header, "cpu")


def _as_source(now: Any, was: Any) -> Any:
    """Return the settings of a part, but for what the part that it starts from may lack."""
    changes: dict[str, object] = {}
    if getattr(was, "stereo", None) is False and getattr(now, "stereo", None) is True:
        changes |= {"stereo": False, "downscale": was.downscale}
    # What is new gets the last weights, and the degraded picture comes last: guides are not added before it.
    if getattr(was, "sees_lq", None) is False:
        changes["sees_lq"] = False
        if was.guides == 0:
            changes["guides"] = 0
    if getattr(was, "name", None) == "ConditionalNAFNet" and _grows(was, now):
        changes |= {"encoder": was.encoder, "middle": was.middle, "decoder": was.decoder}
    return now.model_copy(update=changes) if changes else now


def _grows(was: Any, now: Any) -> bool:
    """Return whether a NAFNet has the levels of the one that it starts from, and no fewer blocks in any."""
    if now.name != was.name or len(now.encoder) != len(was.encoder):
        return False
    before, after = ((*net.encoder, net.middle, *net.decoder) for net in (was, now))
    return all(a <= b for a, b in zip(before, after, strict=True))
