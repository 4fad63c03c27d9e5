"""Reading of files of weights, which may be wrapped in other dictionaries."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from refusion.errors import CheckpointError
from refusion.files import load_tensors

Tensors = dict[str, Tensor]


class Weights(NamedTuple):
    """Tensors under published names, and a description of their wrapping."""

    tensors: Tensors
    what: str


WRAPPERS = (
    *("params_ema", "ema_state_dict", "state_dict_ema", "model_ema", "ema"),
    *("params", "state_dict", "model_state_dict", "model", "network", "net", "generator", "weights"),
)
"""Keys under which files store weights beside other values; those of averaged weights come first."""
ANCHORS = ("intro.weight", "init_conv.weight")
"""Keys of which every published network has one; a prefix before it is a prefix of all keys."""
DEEPEST = 4
"""Largest number of nested wrappers."""


def read(path: str | Path) -> Weights:
    """Read weights from a safetensors file or one that `torch.save` wrote. Nothing in it is executed.

    Raises:
        CheckpointError: see `refusion.files.load_tensors` and `unwrap`.
    """
    content = load_tensors(Path(path), "give a file of weights")
    try:
        return unwrap(content)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def unwrap(content: object) -> Weights:
    """Return the weights in the content of a file: a state dict, possibly wrapped or with prefixed keys.

    Averaged weights are preferred.

    Raises:
        CheckpointError: the content has no weights of a published network, or those of several, or they are
            not floating-point numbers, or not finite.
    """
    state = _by_name(content)
    description: list[str] = []
    while wrappers := [name for name in WRAPPERS if isinstance(state.get(name), Mapping)]:
        description.append(wrappers[0])
        if len(description) > DEEPEST:
            raise CheckpointError(f"{', '.join(description)} ...: wrapped too often; give a state dict")
        state = _by_name(state[wrappers[0]])
    prefix = _prefix(state)
    kept = {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}
    for name, value in kept.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or not value.is_floating_point():
            raise CheckpointError(f"{name} is no tensor of floating-point numbers; give a state dict")
        if not bool(value.isfinite().all()):
            raise CheckpointError(f"{name} holds NaN or infinity; the file is broken")
    if prefix:
        description.append(prefix)
    if len(kept) < len(state):
        description.append(f"without {len(state) - len(kept)} others")
    tensors = {name: value.detach() for name, value in kept.items()}
    return Weights(tensors, ", ".join(description) or "a state dict")


def _by_name(content: object) -> Mapping[str, Any]:
    if not isinstance(content, Mapping) or not content or not all(isinstance(name, str) for name in content):
        raise CheckpointError(f"a {type(content).__name__} instead of tensors by name; give a state dict")
    return content


def _prefix(content: Mapping[str, Any]) -> str:
    """Return the prefix of all keys of the network in a state dict, which must be the only one."""
    prefixes = {
        name.removesuffix(anchor)
        for name in content
        for anchor in ANCHORS
        if name == anchor or name.endswith(f".{anchor}")
    }
    averaged = {prefix for prefix in prefixes if "ema" in prefix.replace("_", ".").split(".")}
    chosen = averaged or prefixes
    if not chosen:
        first = next(iter(content))
        raise CheckpointError(f"no published network: neither {' nor '.join(ANCHORS)}, but {first}")
    if len(chosen) > 1:
        names = ", ".join(repr(prefix) for prefix in sorted(chosen))
        raise CheckpointError(f"several networks under the prefixes {names}; give a file of one")
    return chosen.pop()
