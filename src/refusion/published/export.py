"""A model leaves as published weights: their keys, and only what their code computes alike."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save as serialize
from torch import Tensor, nn

from refusion import published
from refusion.checkpoint import load, read_header, resolve
from refusion.errors import CheckpointError
from refusion.files import atomic
from refusion.recipe import Recipe
from refusion.restorer import Restorer

REMEDY = "export it --to onnx or hub"


class Exported(NamedTuple):
    """Weights that published code loads: the class, its settings and tensors by name."""

    cls: str
    settings: dict[str, Any]
    tensors: dict[str, Tensor]


def to_published(model: str | Path, out: str | Path) -> list[str]:
    """Write the state dicts of a model that published code can run: its network's and, of a latent model,
    its autoencoder's beside it (NAME-autoencoder).

    Args:
        model: see `checkpoint.load`.
        out: NAME.pth, as `torch.save` writes, or NAME.safetensors.

    Returns:
        What was written and with which settings to load it, line by line.

    Raises:
        CheckpointError: see `checkpoint.load` and `exported`, or another suffix.
    """
    out, recipe = Path(out), read_header(resolve(model)).recipe
    if out.suffix not in (".pth", ".pt", ".safetensors"):
        raise CheckpointError(
            f"{out}: published weights are files; give a name ending in .pth or .safetensors"
        )
    parts = exported(load(model, "cpu"), recipe)
    lines = []
    for path, part in zip((out, out.with_stem(f"{out.stem}-autoencoder")), parts, strict=False):
        _write(path, part.tensors)
        settings = ", ".join(f"{name} {value}" for name, value in part.settings.items())
        lines.append(f"{path}: {part.cls}, {settings}")
    process = recipe.process
    level = f"max_sigma {255 * process.noise_level:g}, T {process.steps}"
    return [*lines, f"the SDE: {level}, schedule {process.schedule}, eps {process.delta:g}"]


def exported(restorer: Restorer, recipe: Recipe) -> list[Exported]:
    """The weights of a model under published keys: the network's and, of a latent model, its autoencoder's.

    Raises:
        CheckpointError: published code would compute something else; what it lacks is named.
    """
    if recipe.prediction != "noise":
        raise CheckpointError(f"prediction is {recipe.prediction}, and published is noise; {REMEDY}")
    parts = [_part(restorer.network, "network", recipe.network.model_dump())]  # type: ignore[attr-defined]
    codec: dict[str, Any] = recipe.codec.model_dump()  # type: ignore[attr-defined]
    state = restorer.codec.state_dict()
    if not state:
        if (codec["name"], codec.get("factor")) != ("Pixels", 1):
            raise CheckpointError(f"codec is {codec}, and published are pixels and latents; {REMEDY}")
        return parts
    if any((state[name] != value).any() for name, value in published.AS_THEY_ARE.items()):
        raise CheckpointError(f"codec normalises its latents, and a published one does not; {REMEDY}")
    return [*parts, _part(restorer.codec, "codec", codec)]


def _part(network: nn.Module, where: str, described: Mapping[str, Any]) -> Exported:
    """One network, if a published class of the settings that its tensors tell has all of its arguments."""
    tensors = published.theirs(network)
    told = published.infer(tensors)
    wanted = {name: value for name, value in described.items() if name != "name"}
    differing = []
    for task in told.facts or [None]:
        settings = {**told.settings, "task": task, "train_size": wanted.get("local", ())}
        settings |= {"long_skip": wanted["long_skip"]} if "long_skip" in wanted else {}
        _, theirs = published.ours(told.cls, settings)
        differing = [name for name, x in wanted.items() if _plain(theirs[name]) != _plain(x)]
        if not differing:
            return Exported(told.cls, told.settings, tensors)
    name = differing[0]
    value = f"{where}.{name} is {described[name]}"
    raise CheckpointError(f"{value}, and published {told.cls} has {theirs[name]}; {REMEDY}")


def _plain(value: object) -> object:
    return list(value) if isinstance(value, Sequence) else value


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as part:
        if path.suffix == ".safetensors":
            part.write_bytes(serialize(tensors))
        else:
            torch.save(tensors, part)
