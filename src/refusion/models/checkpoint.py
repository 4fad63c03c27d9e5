"""One safetensors file holds a model: averaged weights, recipe and card. The only loader.

Nothing in the file is executed: the recipe is data, checked like any other, and the weights are
tensors whose names and shapes must be those of the network that the recipe describes.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from refusion.errors import CheckpointError, RecipeError, first_line
from refusion.files import atomic
from refusion.recipe import Card, Recipe, parse
from refusion.restorer import Restorer

FORMAT = 1
MODEL = "model.safetensors"
"""The released model in a training run's folder."""
BUNDLED = Path(__file__).parent / "models"


class Header(BaseModel):
    """What a file says of itself, readable without its weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: Recipe
    card: Card
    parameters: int


def save(
    path: Path, restorer: Restorer, recipe: Recipe, card: Card, dtype: torch.dtype = torch.float32
) -> None:
    """Write a model, whole or not at all. Folders of the data stay out of it.

    Args:
        dtype: of the stored weights; half precision halves the file.
    """
    nowhere = recipe.data.model_copy(update={"folder": "", "scenes": ()})
    public = recipe.model_copy(update={"data": nowhere, "card": Card()})
    content = {"format": FORMAT, "recipe": public.model_dump(mode="json"), "card": card.model_dump()}
    write_weights(path, _modules(restorer), dtype, {"refusion": json.dumps(content)})


def write_weights(
    path: Path, module: nn.Module, dtype: torch.dtype = torch.float32, metadata: dict[str, str] | None = None
) -> None:
    """Write a module's state as a safetensors file, whole or not at all."""
    tensors = {name: value.to("cpu", dtype).contiguous() for name, value in module.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as part:
        part.write_bytes(serialize(tensors, metadata))


def read_header(path: Path) -> Header:
    """Recipe and card of a file.

    Raises:
        CheckpointError: it is missing, truncated, no model of ours, or of another format.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; `refusion models` lists what is bundled")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            parameters = sum(_count(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
        content: dict[str, Any] = json.loads(metadata["refusion"])
        version = content["format"]
        if version != FORMAT:
            raise CheckpointError(
                f"{path}: format {version}, this version of refusion reads {FORMAT}: update it"
            )
        recipe = parse(content["recipe"], str(path))
        return Header(recipe=recipe, card=content["card"], parameters=parameters)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error})") from error
    except RecipeError as error:
        raise CheckpointError(str(error)) from error
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: a safetensors file without refusion's recipe and card") from error


def load(model: str | Path, device: str | torch.device | None = None) -> Restorer:
    """A bundled model by name, or a file.

    Args:
        device: as "cpu" or "cuda:1"; by default the best one there is.

    Raises:
        CheckpointError: see `read_header`; or the weights do not fit the recipe, or are not finite, or
            the device is not there.
    """
    path = resolve(model)
    header = read_header(path)
    try:
        with torch.device("meta"):
            restorer = header.recipe.build()
        modules = _modules(restorer)
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except (RecipeError, SafetensorError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    _check_fit(path, modules.state_dict(), tensors)
    modules.load_state_dict(tensors, assign=True)
    modules.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        return restorer.to(device or best_device())
    except (RuntimeError, AssertionError) as error:
        said = first_line(error)
        raise CheckpointError(f"device {device}: {said}; leave it out to take the best there is") from error


def resolve(model: str | Path) -> Path:
    """The file of a bundled name, of a training run's folder, or the given file.

    Raises:
        CheckpointError: there is nothing of that name.
    """
    path = Path(model)
    if path.is_dir():
        path = path / MODEL
    if path.exists():
        return path
    bundled = {file.stem: file for file in bundled_models()}
    if str(model) in bundled:
        return bundled[str(model)]
    names = ", ".join(bundled) or "none"
    raise CheckpointError(f"{model}: neither a file nor a bundled model; bundled are {names}")


def bundled_models() -> Iterator[Path]:
    """The files that come with the package, by name."""
    yield from sorted(BUNDLED.glob("*.safetensors"))


def best_device() -> torch.device:
    """CUDA or Apple's GPU where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _modules(restorer: Restorer) -> nn.ModuleDict:
    return nn.ModuleDict({"network": restorer.network, "codec": restorer.codec})


def _count(shape: list[int]) -> int:
    return int(torch.Size(shape).numel())


def _check_fit(path: Path, expected: dict[str, Tensor], given: dict[str, Tensor]) -> None:
    for name in [*expected, *given]:
        want = tuple(expected[name].shape) if name in expected else "no such tensor"
        have = tuple(given[name].shape) if name in given else "no such tensor"
        if want != have:
            raise CheckpointError(f"{path}: {name} is {have}, and its recipe means {want}")
    for name, value in given.items():
        if not bool(value.isfinite().all()):
            raise CheckpointError(f"{path}: {name} holds NaN or infinity; the file is broken")
