"""Export of a model as weights with published keys, if the published code computes the same."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save as serialize
from torch import Tensor, nn

from refusion import published
from refusion.errors import CheckpointError
from refusion.files import atomic
from refusion.models.checkpoint import load
from refusion.models.spec import ModelSpec
from refusion.restoring.restorer import Restorer

REMEDY = "export it --to onnx or hub"


class Exported(NamedTuple):
    """Weights that published code can load: the class, its settings and tensors by name."""

    cls: str
    settings: dict[str, Any]
    tensors: dict[str, Tensor]


def write_published(model: str | Path, out: str | Path) -> list[str]:
    """Write the state dict of a model's network and, for a latent model, that of its autoencoder.

    Args:
        model: see `checkpoint.load`.
        out: NAME.pth, in the format of `torch.save`, or NAME.safetensors; the autoencoder is written to
            NAME-autoencoder beside it.

    Returns:
        Lines for the user: the files, and the settings with which to load them.

    Raises:
        CheckpointError: see `checkpoint.load` and `exported`; or the suffix is another one.
    """
    out = Path(out)
    if out.suffix not in (".pth", ".pt", ".safetensors"):
        raise CheckpointError(
            f"{out}: published weights are files; give a name ending in .pth or .safetensors"
        )
    loaded = load(model, "cpu")
    parts = exported(loaded, loaded.spec)
    lines = []
    for path, part in zip((out, out.with_stem(f"{out.stem}-autoencoder")), parts, strict=False):
        _write(path, part.tensors)
        settings = ", ".join(f"{name} {value}" for name, value in part.settings.items())
        lines.append(f"{path}: {part.cls}, {settings}")
    process = loaded.spec.process
    level = f"max_sigma {255 * process.noise_level:g}, T {process.steps}"
    return [*lines, f"the SDE: {level}, schedule {process.schedule}, eps {process.delta:g}"]


def exported(restorer: Restorer, spec: ModelSpec) -> list[Exported]:
    """Return the weights of a model under published keys: of the network and, if latent, of its autoencoder.

    Raises:
        CheckpointError: published code would compute something else; the message names the first difference.
    """
    if spec.prediction != "noise":
        raise CheckpointError(f"prediction is {spec.prediction}, and published is noise; {REMEDY}")
    if spec.mean is not None:
        raise CheckpointError(f"there is a mean stage, and none is published; {REMEDY}")
    parts = [_part(restorer.network, "network", spec.network.model_dump())]
    codec: dict[str, Any] = spec.codec.model_dump()
    state = restorer.codec.state_dict()
    if not state:
        if (codec["name"], codec.get("factor")) != ("Pixels", 1):
            raise CheckpointError(f"codec is {codec}, and published are pixels and latents; {REMEDY}")
        return parts
    if any((state[name] != value).any() for name, value in published.AS_THEY_ARE.items()):
        raise CheckpointError(f"codec normalises its latents, and a published one does not; {REMEDY}")
    return [*parts, _part(restorer.codec, "codec", codec)]


def _part(network: nn.Module, where: str, described: Mapping[str, Any]) -> Exported:
    """Return a network, if the published class inferred from its tensors has the same arguments."""
    tensors = published.to_published(network)
    inferred = published.infer(tensors)
    arguments = {name: value for name, value in described.items() if name != "name"}
    differing = []
    for task in inferred.facts or [None]:
        settings = {**inferred.settings, "task": task, "train_size": arguments.get("local", ())}
        if "long_skip" in arguments:
            settings["long_skip"] = arguments["long_skip"]
        _, published_arguments = published.from_published(inferred.cls, settings)
        differing = [
            name for name, value in arguments.items() if _plain(published_arguments[name]) != _plain(value)
        ]
        if not differing:
            return Exported(inferred.cls, inferred.settings, tensors)
    name = differing[0]
    value = f"{where}.{name} is {described[name]}"
    raise CheckpointError(f"{value}, and published {inferred.cls} has {published_arguments[name]}; {REMEDY}")


def _plain(value: object) -> object:
    return list(value) if isinstance(value, Sequence) else value


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as part:
        if path.suffix == ".safetensors":
            part.write_bytes(serialize(tensors))
        else:
            torch.save(tensors, part)
