"""Model files: one safetensors file holds averaged weights, spec, card and the recipe of the training.

Nothing in the file is executed: the spec is validated data, and the weights are tensors whose names and
shapes must be those of the network that the spec describes. The recipe is provenance: it is stored as it was
written, so that no change of the training settings makes a model unreadable.

Format 2 has the keys "spec", "card" and "recipe". In format 1 the six keys of `ModelSpec` are in the recipe.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from refusion.errors import CheckpointError, RecipeError, first_line, hint
from refusion.files import atomic, user_cache
from refusion.models.settings import validated
from refusion.models.spec import Card, ModelSpec
from refusion.remote import Remote, place
from refusion.restoring.request import Sampling
from refusion.restoring.restorer import Restorer

FORMAT = 2
MODEL = "model.safetensors"
"""Name of the released model in the folder of a training run."""
BUNDLED = Path(__file__).parent


@dataclass(frozen=True)
class Header:
    """The contents of a model file but its weights.

    Args:
        spec: the specification of the model.
        card: the description for users.
        recipe: of the training; not interpreted here, see `refusion.training.recipe.from_provenance`.
        parameters: number of values in the file's tensors.
        path: of the file.
    """

    spec: ModelSpec
    card: Card
    recipe: Mapping[str, Any]
    parameters: int
    path: Path


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Model(Restorer):
    """A restorer that was loaded from a file, with the header of the file."""

    header: Header

    @property
    def spec(self) -> ModelSpec:
        return self.header.spec

    @property
    def card(self) -> Card:
        return self.header.card


def save(
    path: Path,
    restorer: Restorer,
    spec: ModelSpec,
    card: Card,
    recipe: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a model, whole or not at all.

    Args:
        path: of the file.
        restorer: the model whose weights are stored.
        spec: the specification of the model.
        card: the description for users.
        recipe: of the training, as JSON values.
        dtype: of the stored weights; half precision halves the file.
    """
    write_weights(path, _modules(restorer), dtype, _metadata(spec, card, recipe or {}))


def save_with_card(path: Path, header: Header, card: Card) -> None:
    """Write a model again with another card, whole or not at all; its tensors stay the same to the bit."""
    with safe_open(header.path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    _write(path, tensors, _metadata(header.spec, card, header.recipe))


def _metadata(spec: ModelSpec, card: Card, recipe: Mapping[str, Any]) -> dict[str, str]:
    content = {
        "format": FORMAT,
        "spec": spec.model_dump(mode="json"),
        "card": card.model_dump(),
        "recipe": dict(recipe),
    }
    return {"refusion": json.dumps(content)}


def write_weights(
    path: Path, module: nn.Module, dtype: torch.dtype = torch.float32, metadata: dict[str, str] | None = None
) -> None:
    """Write a module's state as a safetensors file, whole or not at all."""
    tensors = {name: value.to("cpu", dtype).contiguous() for name, value in module.state_dict().items()}
    _write(path, tensors, metadata)


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as part:
        part.write_bytes(serialize(tensors, metadata))


def read_header(path: Path) -> Header:
    """Read spec, card and recipe of a model file.

    Raises:
        CheckpointError: the file is missing, truncated, not a model of refusion, or of an unknown format.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; `refusion models` lists what is bundled")
    try:
        with safe_open(path, "pt") as file:
            return _header(file, path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error})") from error


def _header(file: Any, path: Path) -> Header:
    """Read the header of an open safetensors file."""
    parameters = sum(_count(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    try:
        content: dict[str, Any] = json.loads((file.metadata() or {})["refusion"])
        version = content["format"]
        if version not in (1, FORMAT):
            raise CheckpointError(
                f"{path}: format {version}, this version of refusion reads 1 and {FORMAT}: update it"
            )
        spec, card, recipe = (
            _from_format_1(content) if version == 1 else (content[k] for k in ("spec", "card", "recipe"))
        )
        return Header(
            validated(ModelSpec, spec, str(path)),
            validated(Card, card, str(path)),
            dict(recipe),
            parameters,
            path,
        )
    except RecipeError as error:
        raise CheckpointError(str(error)) from error
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: a safetensors file without refusion's spec and card") from error


_RENAMED = {"shrink": "downscale"}
"""Arguments of networks that had other names in format 1."""


def _from_format_1(content: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return spec, card and recipe of format 1, in which the recipe has the spec's keys at its top level.

    Keys of its sampling that are settings of a request or a machine are dropped.
    """
    recipe = {key: value for key, value in content["recipe"].items() if key != "card"}
    model = {key: recipe.pop(key) for key in ModelSpec.model_fields if key in recipe}
    sampling = model.pop("sampling", {})
    model["sampling"] = {f.name: sampling[f.name] for f in fields(Sampling) if f.name in sampling}
    network = dict(model["network"])
    model["network"] = {_RENAMED.get(key, key): value for key, value in network.items()}
    card = {"task": recipe.get("task", ""), **content["card"]}
    return model, card, {**recipe, "model": model}


def load(model: str | Path | Header, device: str | torch.device | None = None) -> Model:
    """Load a bundled model by name, or a file.

    Args:
        model: a bundled name, a file, the folder of a training run, or a header from `read_header`.
        device: as "cpu" or "cuda:1"; by default the best one available.

    Raises:
        CheckpointError: see `read_header`; or the weights do not fit the spec or are not finite, or the
            device is not available.
    """
    header = model if isinstance(model, Header) else read_header(resolve(model))
    path = header.path
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        with torch.device("meta"):
            restorer = header.spec.build(path.stem if path.parent == BUNDLED else path.name)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error})") from error
    modules = _modules(restorer)
    _check_fit(path, modules.state_dict(), tensors)
    modules.load_state_dict(tensors, assign=True)
    modules.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        modules.to(device or best_device())
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error)
        raise CheckpointError(f"device {device}: {reason}; leave it out to take the best there is") from error
    values = {f.name: getattr(restorer, f.name) for f in fields(Restorer)}
    return Model(**{**values, "std_scale": header.card.std_scale}, header=header)


def resolve(model: str | Path) -> Path:
    """Return the model file of a bundled name, of a training run's folder, of a path, or of an address.

    What is elsewhere, as "s3://bucket/model.safetensors", is downloaded into the user's cache, once.

    Raises:
        CheckpointError: there is neither a file nor a bundled model of that name.
    """
    path = place(model)
    if isinstance(path, Remote):
        return _downloaded(path)
    if path.is_dir():
        path = path / MODEL
    if path.exists():
        return path
    bundled = {file.stem: file for file in bundled_models()}
    if str(model) in bundled:
        return bundled[str(model)]
    names = ", ".join(bundled) or "none"
    near = hint(str(model), bundled)
    raise CheckpointError(f"{model}: neither a file nor a bundled model{near}; bundled are {names}")


def _downloaded(model: Remote) -> Path:
    """Return the file of this machine for a model file elsewhere, or for that in a run's folder elsewhere."""
    file = model if model.suffix == Path(MODEL).suffix else model / MODEL
    try:
        version = hashlib.sha256(f"{file} {file.version()}".encode()).hexdigest()[:16]
        target = user_cache() / f"{file.stem}-{version}{file.suffix}"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic(target) as part:
                file.download(part)
    except OSError as error:
        raise CheckpointError(f"{file}: {error.strerror or error}; check its name and the access") from error
    return target


def bundled_models() -> Iterator[Path]:
    """Yield the model files that are bundled with the package, sorted by name."""
    yield from sorted(BUNDLED.glob("*.safetensors"))


def best_device() -> torch.device:
    """Return CUDA or Apple's GPU if available, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _modules(restorer: Restorer) -> nn.ModuleDict:
    return nn.ModuleDict(restorer.modules())


def _count(shape: list[int]) -> int:
    return int(torch.Size(shape).numel())


def _check_fit(path: Path, expected: dict[str, Tensor], given: dict[str, Tensor]) -> None:
    for name in [*expected, *given]:
        want = tuple(expected[name].shape) if name in expected else "no such tensor"
        have = tuple(given[name].shape) if name in given else "no such tensor"
        if want != have:
            raise CheckpointError(f"{path}: {name} is {have}, and its spec means {want}")
    for name, value in given.items():
        if not bool(value.isfinite().all()):
            raise CheckpointError(f"{path}: {name} holds NaN or infinity; the file is broken")
