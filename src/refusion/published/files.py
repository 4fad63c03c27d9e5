"""Files of weights: tensors by name, and in what they were wrapped."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from refusion.errors import CheckpointError
from refusion.files import load_tensors

Tensors = dict[str, Tensor]


class Weights(NamedTuple):
    """Tensors under published names, and in what they were wrapped."""

    tensors: Tensors
    what: str


WRAPPERS = (
    *("params_ema", "ema_state_dict", "state_dict_ema", "model_ema", "ema"),
    *("params", "state_dict", "model_state_dict", "model", "network", "net", "generator", "weights"),
)
"""Keys under which files keep weights among other things; averaged weights come first."""
ANCHORS = ("intro.weight", "init_conv.weight")
"""Of which every published network has one; what precedes it in a key precedes all keys."""
DEEPEST = 4
"""Wrappers in one another."""


def read(path: str | Path) -> Weights:
    """The weights in a safetensors file or one that `torch.save` wrote. Nothing in it is executed.

    Raises:
        CheckpointError: there is no such file, it is damaged or holds objects; or see `unwrap`.
    """
    content = load_tensors(Path(path), "give a file of weights")
    try:
        return unwrap(content)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def unwrap(content: object) -> Weights:
    """The weights in what a file holds: a state dict, wrapped or under prefixes or not.

    Averaged weights are taken where there are any.

    Raises:
        CheckpointError: there are no weights of a published network, or of several, or they are not
            floating-point numbers, or not finite.
    """
    state, said = _by_name(content), list[str]()
    while found := [name for name in WRAPPERS if isinstance(state.get(name), Mapping)]:
        said.append(found[0])
        if len(said) > DEEPEST:
            raise CheckpointError(f"{', '.join(said)} ...: wrapped too often; give a state dict")
        state = _by_name(state[found[0]])
    prefix = _prefix(state)
    kept = {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}
    for name, value in kept.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or not value.is_floating_point():
            raise CheckpointError(f"{name} is no tensor of floating-point numbers; give a state dict")
        if not bool(value.isfinite().all()):
            raise CheckpointError(f"{name} holds NaN or infinity; the file is broken")
    said += [prefix] if prefix else []
    said += [f"without {len(state) - len(kept)} others"] if len(kept) < len(state) else []
    return Weights({name: value.detach() for name, value in kept.items()}, ", ".join(said) or "a state dict")


def _by_name(content: object) -> Mapping[str, Any]:
    if not isinstance(content, Mapping) or not content or not all(isinstance(name, str) for name in content):
        raise CheckpointError(f"a {type(content).__name__} instead of tensors by name; give a state dict")
    return content


def _prefix(content: Mapping[str, Any]) -> str:
    """What precedes all keys of the one network in it."""
    found = {
        name.removesuffix(anchor)
        for name in content
        for anchor in ANCHORS
        if name == anchor or name.endswith(f".{anchor}")
    }
    averaged = {prefix for prefix in found if "ema" in prefix.replace("_", ".").split(".")}
    chosen = averaged or found
    if not chosen:
        first = next(iter(content))
        raise CheckpointError(f"no published network: neither {' nor '.join(ANCHORS)}, but {first}")
    if len(chosen) > 1:
        names = ", ".join(repr(prefix) for prefix in sorted(chosen))
        raise CheckpointError(f"several networks under the prefixes {names}; give a file of one")
    return chosen.pop()
