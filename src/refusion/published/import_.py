"""Published weights become a model: what tensors do not tell is taken as published for the task, and said."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from refusion import published
from refusion.codec import Codec
from refusion.errors import CheckpointError, RecipeError, hint
from refusion.published import Facts, Inferred, Weights
from refusion.recipe import Card, Recipe, parse
from refusion.restorer import Restorer

OPTIONS = {
    "noise_level": "--noise-level",
    "steps": "--steps",
    "delta": "--delta",
    "schedule": "--schedule",
    "long_skip": "--long-skip",
    "local": "--local",
    "enlarge": "--factor",
    "mode": "--enlarge",
}
"""What a user may know better, and the option of `refusion import` that says it."""


class Imported(NamedTuple):
    """A model, ready for `checkpoint.save`, and what was read and taken for granted, line by line."""

    restorer: Restorer
    recipe: Recipe
    card: Card
    notes: list[str]


class _Part(NamedTuple):
    path: Path
    weights: Weights
    told: Inferred


def imported(files: Sequence[str | Path], task: str | None = None, **known: Any) -> Imported:
    """A model of published weights.

    Args:
        files: the network's and, for latent tasks, its autoencoder's, in any order.
        task: a name in `published.REFUSION`; may be left out where the tensors fit one only.
        known: fields of `published.Facts` that replace those published for the task; a noise level may be
            written as a fraction, "50/255".

    Raises:
        CheckpointError: see `published.read` and `published.build`; or no network or several, a task that
            is missing or does not fit, an autoencoder too few or too many, or a fact is refused.
    """
    parts = [_read(Path(file)) for file in files]
    part, partner = _roles(parts)
    task = _task(part, task)
    facts = _facts(part, task, known)
    network, described = _network(part, task, facts)
    codec, described_codec = _codec(part, partner, task, facts)
    channels = described.pop("channels")
    if channels != described_codec.pop("channels"):
        seen = "latents of other channels" if partner else "pictures, which have 3; give the task of latents"
        raise CheckpointError(f"{part.path}: {channels} channels, and {task} sees {seen}")
    recipe, empty = _recipe(part, task, facts, described, described_codec)
    restorer = replace(empty, network=network, codec=codec or empty.codec)
    notes = [*map(_read_as, parts), *_taken(part, task, facts, known)]
    return Imported(restorer, recipe, _card(parts, task), notes)


def _read(path: Path) -> _Part:
    weights = published.read(path)
    try:
        return _Part(path, weights, published.infer(weights.tensors))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _roles(parts: Sequence[_Part]) -> tuple[_Part, _Part | None]:
    """The network and the autoencoder."""
    codecs = [part for part in parts if part.told.cls == "UNet"]
    networks = [part for part in parts if part.told.cls != "UNet"]
    if not networks:
        raise CheckpointError(f"{codecs[0].path}: an autoencoder; give the network of its latents, too")
    for several in (networks, codecs):
        if len(several) > 1:
            names = " and ".join(str(part.path) for part in several)
            raise CheckpointError(
                f"{names}: {several[0].told.cls} each; give one network and its autoencoder"
            )
    return networks[0], codecs[0] if codecs else None


def _task(part: _Part, task: str | None) -> str:
    fitting, there = part.told.facts, published.TABLES[part.told.cls]
    if task is None and len(fitting) > 1:
        raise CheckpointError(f"{part.path}: fits {', '.join(fitting)}; choose one with --task")
    task = task or next(iter(fitting))
    if task not in there:
        raise CheckpointError(f"task {task}{hint(task, there)}: there are {', '.join(there)}")
    return task


def _facts(part: _Part, task: str, known: dict[str, Any]) -> Facts:
    names = [field.name for field in fields(Facts)]
    for name in known:
        if name not in names:
            raise TypeError(f"unknown fact {name}{hint(name, names)}: there are {', '.join(names)}")
    for name in ("long_skip", "local"):
        if known.get(name) and part.told.cls != "ConditionalNAFNet":
            raise CheckpointError(
                f"{part.path}: {part.told.cls} has no such variant; leave out {OPTIONS[name]}"
            )
    return replace(part.told.facts.get(task, published.TABLES[part.told.cls][task]), **known)


def _network(part: _Part, task: str, facts: Facts) -> tuple[nn.Module, dict[str, Any]]:
    """Our network, and its name and arguments."""
    settings = {**part.told.settings, "task": task}
    if part.told.cls == "ConditionalNAFNet":
        settings |= {"long_skip": facts.long_skip, "train_size": facts.local}
    return _built(part, settings, "network")


def _codec(
    part: _Part, partner: _Part | None, task: str, facts: Facts
) -> tuple[Codec | None, dict[str, Any]]:
    """Our codec, if it has weights, and its name and arguments."""
    if facts.partner is None:
        if partner:
            raise CheckpointError(f"{task} works on pixels, without an autoencoder: leave {partner.path} out")
        return None, {"name": "Pixels", "bounded": False, "channels": 3}
    if partner is None:
        raise CheckpointError(f"{part.path}: {task} works in latents; give their autoencoder with --partner")
    codec, described = _built(partner, partner.told.settings, "codec")
    for name, value in published.AS_THEY_ARE.items():
        codec.get_buffer(name).fill_(value)
    return codec, {**described, "channels": described["latent_channels"]}


def _built(part: _Part, settings: dict[str, Any], name: str) -> tuple[Any, dict[str, Any]]:
    try:
        kind, arguments = published.ours(part.told.cls, settings)
        built = published.build(part.told.cls, settings, part.weights.tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{part.path}: {error}") from error
    return getattr(built, name), {"name": kind.__name__, **arguments}


def _recipe(
    part: _Part, task: str, facts: Facts, network: dict[str, Any], codec: dict[str, Any]
) -> tuple[Recipe, Restorer]:
    """The recipe, and what it builds, without memory."""
    denoises = task == "denoising-sde"
    process = {name: getattr(facts, name) for name in ("schedule", "steps", "delta", "noise_level")}
    values = {
        "task": task,
        "network": network,
        "codec": codec,
        "process": {"kind": "denoising" if denoises else "mean-reverting", **process},
        "prediction": "noise",
        "enlarge": {"factor": facts.enlarge, "mode": facts.mode},
        "sampling": {"steps": facts.steps, "sampler": "euler-ode" if denoises else "posterior"},
    }
    try:
        recipe = parse(values, str(part.path))
        with torch.device("meta"):
            return recipe, recipe.build()
    except RecipeError as error:
        raise CheckpointError(str(error)) from error


def _card(parts: Sequence[_Part], task: str) -> Card:
    sources = ", ".join(f"{part.path.name} ({part.weights.what})" for part in parts)
    return Card(
        summary=f"Published weights for {task}.",
        terms="Those of the weights' publisher.",
        training=f"By their publisher; imported from {sources}.",
    )


def _read_as(part: _Part) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in part.told.settings.items())
    return f"{part.path}: {part.weights.what}; {part.told.cls}, {settings}"


def _taken(part: _Part, task: str, facts: Facts, known: dict[str, Any]) -> list[str]:
    """What was taken as published, and how to say otherwise."""
    relevant = ["noise_level", "steps", "delta", "schedule"]
    relevant += ["long_skip"] * (part.told.cls == "ConditionalNAFNet")
    relevant += ["enlarge", "mode"] * (facts.enlarge > 1)
    lines = []
    for name in relevant:
        if name not in known:
            value = getattr(facts, name)
            said = f"{255 * value:g}/255" if name == "noise_level" else str(value).lower()
            lines.append(f"{name} {said}, as published for {task}; {OPTIONS[name]} says otherwise")
    return lines + [f"unsure: {facts.unsure}"] * bool(facts.unsure and "noise_level" not in known)
