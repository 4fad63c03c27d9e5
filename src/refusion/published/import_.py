"""Import of published weights; facts that tensors do not determine are taken as published for the task."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from refusion import published
from refusion.errors import CheckpointError, RecipeError, hint
from refusion.models.settings import validated
from refusion.models.spec import Card, ModelSpec
from refusion.nn.network import Network
from refusion.published import Facts, Inferred, Weights
from refusion.restoring.codec import Codec
from refusion.restoring.restorer import Restorer

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
"""Facts that a user may override, and the option of `refusion import` for each."""


class Imported(NamedTuple):
    """A model for `checkpoint.save`, and lines for the user: the files read, the facts assumed."""

    restorer: Restorer
    spec: ModelSpec
    card: Card
    notes: list[str]


class _Part(NamedTuple):
    path: Path
    weights: Weights
    inferred: Inferred


def imported(files: Sequence[str | Path], task: str | None = None, **known: Any) -> Imported:
    """Return a model of published weights.

    Args:
        files: weights of the network and, for latent tasks, of its autoencoder, in any order.
        task: a name in `published.REFUSION`; may be left out if the tensors fit one task only.
        known: fields of `published.Facts` that replace those published for the task; a noise level may be
            a fraction, "50/255".

    Raises:
        TypeError: a field of `known` is unknown.
        CheckpointError: see `published.read` and `published.build`; or there is not one network, the task is
            missing or does not fit, the autoencoder is missing or not needed, or a fact is out of range.
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
    spec = _spec(part, task, facts, described, described_codec)
    restorer = replace(spec.outline, network=network, codec=codec or spec.outline.codec)
    notes = [*map(_read_as, parts), *_taken(part, task, facts, known)]
    return Imported(restorer, spec, _card(parts, task), notes)


def _read(path: Path) -> _Part:
    weights = published.read(path)
    try:
        return _Part(path, weights, published.infer(weights.tensors))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _roles(parts: Sequence[_Part]) -> tuple[_Part, _Part | None]:
    """Return the network and the autoencoder."""
    codecs = [part for part in parts if part.inferred.cls == "UNet"]
    networks = [part for part in parts if part.inferred.cls != "UNet"]
    if not networks:
        raise CheckpointError(f"{codecs[0].path}: an autoencoder; give the network of its latents, too")
    for several in (networks, codecs):
        if len(several) > 1:
            names = " and ".join(str(part.path) for part in several)
            raise CheckpointError(
                f"{names}: {several[0].inferred.cls} each; give one network and its autoencoder"
            )
    return networks[0], codecs[0] if codecs else None


def _task(part: _Part, task: str | None) -> str:
    fitting = part.inferred.facts
    tasks = published.TABLES[part.inferred.cls]
    if task is None and len(fitting) > 1:
        raise CheckpointError(f"{part.path}: fits {', '.join(fitting)}; choose one with --task")
    task = task or next(iter(fitting))
    if task not in tasks:
        raise CheckpointError(f"task {task}{hint(task, tasks)}: there are {', '.join(tasks)}")
    return task


def _facts(part: _Part, task: str, known: dict[str, Any]) -> Facts:
    names = [field.name for field in fields(Facts)]
    for name in known:
        if name not in names:
            raise TypeError(f"unknown fact {name}{hint(name, names)}: there are {', '.join(names)}")
    for name in ("long_skip", "local"):
        if known.get(name) and part.inferred.cls != "ConditionalNAFNet":
            raise CheckpointError(
                f"{part.path}: {part.inferred.cls} has no such variant; leave out {OPTIONS[name]}"
            )
    return replace(part.inferred.facts.get(task, published.TABLES[part.inferred.cls][task]), **known)


def _network(part: _Part, task: str, facts: Facts) -> tuple[Network, dict[str, Any]]:
    """Return our network, with its name and arguments."""
    settings = {**part.inferred.settings, "task": task}
    if part.inferred.cls == "ConditionalNAFNet":
        settings |= {"long_skip": facts.long_skip, "train_size": facts.local}
    return _built(part, settings, "network")


def _codec(
    part: _Part, partner: _Part | None, task: str, facts: Facts
) -> tuple[Codec | None, dict[str, Any]]:
    """Return our codec, None if it has no weights, with its name and arguments."""
    if facts.partner is None:
        if partner:
            raise CheckpointError(f"{task} works on pixels, without an autoencoder: leave {partner.path} out")
        return None, {"name": "Pixels", "bounded": False, "channels": 3}
    if partner is None:
        raise CheckpointError(f"{part.path}: {task} works in latents; give their autoencoder with --partner")
    codec, described = _built(partner, partner.inferred.settings, "codec")
    for name, value in published.AS_THEY_ARE.items():
        codec.get_buffer(name).fill_(value)
    return codec, {**described, "channels": described["latent_channels"]}


def _built(part: _Part, settings: dict[str, Any], name: str) -> tuple[Any, dict[str, Any]]:
    try:
        kind, arguments = published.from_published(part.inferred.cls, settings)
        built = published.build(part.inferred.cls, settings, part.weights.tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{part.path}: {error}") from error
    return getattr(built, name), {"name": kind.__name__, **arguments}


def _spec(part: _Part, task: str, facts: Facts, network: dict[str, Any], codec: dict[str, Any]) -> ModelSpec:
    denoises = task == "denoising-sde"
    process = {name: getattr(facts, name) for name in ("schedule", "steps", "delta", "noise_level")}
    values = {
        "network": network,
        "codec": codec,
        "process": {"kind": "denoising" if denoises else "mean-reverting", **process},
        "prediction": "noise",
        "enlarge": {"factor": facts.enlarge, "mode": facts.mode},
        "sampling": {"steps": facts.steps, "sampler": "euler-ode" if denoises else "posterior"},
    }
    try:
        return validated(ModelSpec, values, str(part.path))
    except RecipeError as error:
        raise CheckpointError(str(error)) from error


def _card(parts: Sequence[_Part], task: str) -> Card:
    sources = ", ".join(f"{part.path.name} ({part.weights.what})" for part in parts)
    return Card(
        task=task,
        summary=f"Published weights for {task}.",
        terms="Those of the weights' publisher.",
        training=f"By their publisher; imported from {sources}.",
    )


def _read_as(part: _Part) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in part.inferred.settings.items())
    return f"{part.path}: {part.weights.what}; {part.inferred.cls}, {settings}"


def _taken(part: _Part, task: str, facts: Facts, known: dict[str, Any]) -> list[str]:
    """Return a line for each fact that was assumed as published, with the option that overrides it."""
    relevant = ["noise_level", "steps", "delta", "schedule"]
    if part.inferred.cls == "ConditionalNAFNet":
        relevant.append("long_skip")
    if facts.enlarge > 1:
        relevant += ["enlarge", "mode"]
    lines = []
    for name in relevant:
        if name not in known:
            value = getattr(facts, name)
            text = f"{255 * value:g}/255" if name == "noise_level" else str(value).lower()
            lines.append(f"{name} {text}, as published for {task}; {OPTIONS[name]} says otherwise")
    if facts.unsure and "noise_level" not in known:
        lines.append(f"unsure: {facts.unsure}")
    return lines
