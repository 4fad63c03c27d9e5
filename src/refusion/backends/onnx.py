"""A model as ONNX graphs for batches and pictures of any size, each checked against the model."""

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from refusion import checkpoint
from refusion.errors import CheckpointError, RefusionError, first_line
from refusion.files import atomic
from refusion.restorer import Restorer
from refusion.tiling import conditions, views

TRACED = (2, 5, 7)
"""Pictures, height and width, in units of what sides are padded to, with which a module is traced."""
CHECKED = ((1, 3, 6), (3, 9, 4))
"""The same of the two sizes at which a graph is checked; each side is one position less."""
TOLERANCE = 1e-4
"""Largest difference, relative to the largest value where that is above 1."""

Inputs = tuple[Any, ...]


class Graph(NamedTuple):
    """What one file holds."""

    name: str
    module: nn.Module
    inputs: Callable[[int, int, int], Inputs]
    """Of so many pictures of height and width: tensors, the last of them a list of any number."""
    names: Sequence[str]
    """Of the inputs; those in the list are numbered."""
    unit: int
    """What sides are padded to."""


class Denoise(nn.Module):
    """(x_t, mu, t and what else is known of each picture) -> the network's output."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_t: Tensor, mu: Tensor, t: Tensor, condition: Sequence[Tensor]) -> Tensor:
        output: Tensor = self.network(x_t, mu, t, self.network.embed(t, *condition))
        return output


class Encode(nn.Module):
    """A picture -> mu and the features."""

    def __init__(self, codec: Any) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, image: Tensor, nothing: Sequence[Tensor]) -> tuple[Tensor, ...]:
        encoded = self.codec.encode(image)
        return (encoded.mu, *encoded.features)


class Decode(nn.Module):
    """A state, the degraded picture, whose size the result takes, and its features -> the result."""

    def __init__(self, codec: Any) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, state: Tensor, image: Tensor, feature: Sequence[Tensor]) -> Tensor:
        size = (image.shape[-2], image.shape[-1])
        picture: Tensor = self.codec.decode(state, tuple(feature), size)
        return picture


def to_onnx(model: str | Path, folder: str | Path) -> Iterator[str]:
    """Write denoiser.onnx, encoder.onnx and decoder.onnx in float32. The metadata of each has the model's
    recipe and card under "refusion", as JSON.

    The denoiser takes x_t and mu (b, c, h, w), t (b,) and for bokeh condition_0 (b, 3); the encoder takes
    image (b, 3, h, w); the decoder state, image and feature_0, feature_1, ... Tracing takes minutes.

    Args:
        model: see `checkpoint.load`.

    Yields:
        What was written, and by how much it differs from the model at two sizes.

    Raises:
        RefusionError: onnx, onnxscript or onnxruntime are not installed.
        CheckpointError: see `checkpoint.load`; or the network or the codec has no graph for all sizes.
    """
    try:
        import onnx, onnxruntime, onnxscript  # noqa: E401, F401, I001
    except ModuleNotFoundError as error:
        raise RefusionError(f"ONNX needs {error.name}: pip install 'refusion[onnx]'") from error
    header, folder = checkpoint.read_header(checkpoint.resolve(model)), Path(folder)
    about = {"recipe": header.recipe.model_dump(mode="json"), "card": header.card.model_dump()}
    folder.mkdir(parents=True, exist_ok=True)
    for graph in graphs(checkpoint.load(model, "cpu")):
        path = folder / f"{graph.name}.onnx"
        with atomic(path) as part:
            write(graph, part, {"refusion": json.dumps(about)})
            difference = largest_difference(graph, part)
            if not difference <= TOLERANCE:
                raise CheckpointError(f"{path}: differs by {difference:.1e} from the model; report it")
        yield f"{path}: differs by {difference:.1e} at most"


def graphs(restorer: Restorer) -> Iterator[Graph]:
    """The graphs of a model.

    Raises:
        CheckpointError: the network's attention depends on the size in ways that a graph does not express.
    """
    network, codec = restorer.network, restorer.codec
    if views(network) > 1 or getattr(network, "local", None):
        raise CheckpointError("networks of two views or local means have no ONNX graph: use refusion itself")
    unit, padded = int(getattr(network, "multiple", 8)), int(getattr(codec, "multiple", 8))

    def noisy(count: int, height: int, width: int) -> Inputs:
        x_t, mu = torch.rand(2, count, codec.channels, height, width)
        known = [torch.rand(count, n)] if (n := conditions(network)) else []
        return x_t, mu, 10 * torch.arange(1.0, count + 1), known

    def pictures(count: int, height: int, width: int) -> Inputs:
        return torch.rand(count, 3, height, width), []

    def encoded(count: int, height: int, width: int) -> Inputs:
        (image, _) = pictures(count, height, width)
        mu, features, _ = codec.encode(image)
        return mu, image, list(features)

    yield Graph("denoiser", Denoise(network), noisy, ("x_t", "mu", "t", "condition"), unit)
    yield Graph("encoder", Encode(codec), pictures, ("image", "nothing"), padded)
    yield Graph("decoder", Decode(codec), encoded, ("state", "image", "feature"), padded)


@torch.no_grad()
def write(graph: Graph, path: Path, metadata: dict[str, str]) -> None:
    """Trace a graph and write it.

    Raises:
        CheckpointError: the module has none for all sizes.
    """
    count, height, width = TRACED
    inputs = graph.inputs(count, height * graph.unit, width * graph.unit)
    dynamic = torch.export.Dim.AUTO
    shapes = tree_map(lambda x: {i: dynamic for i in range(x.ndim) if i != 1}, inputs)
    *plain, listed = graph.names
    names = [*plain, *(f"{listed}_{i}" for i in range(len(inputs[-1])))]
    with _quiet():
        try:
            program = torch.onnx.export(
                graph.module, inputs, input_names=names, dynamic_shapes=shapes, dynamo=True, verbose=False
            )
            assert program is not None
        except Exception as error:  # whatever tracing makes of what it cannot follow
            raise CheckpointError(f"{graph.name}: no ONNX graph for all sizes ({_reason(error)})") from error
    program.model.metadata_props.update(metadata)
    program.save(path)


@torch.no_grad()
def largest_difference(graph: Graph, path: Path) -> float:
    """Between a written graph, run by onnxruntime, and the module, at two sizes that it was not traced
    with; relative to the largest value where that is above 1."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    worst = 0.0
    for count, height, width in CHECKED:
        inputs = graph.inputs(count, height * graph.unit - 1, width * graph.unit - 1)
        taken = [x.numpy() for x in tree_leaves(inputs)]
        given = session.run(None, {i.name: x for i, x in zip(session.get_inputs(), taken, strict=True)})
        for have, want in zip(given, tree_leaves(graph.module(*inputs)), strict=True):
            if have.shape != want.shape:
                return float("inf")
            difference = (torch.from_numpy(have) - want).abs().max() / max(1.0, float(want.abs().max()))
            worst = max(worst, float(difference))
    return worst


def _reason(error: BaseException) -> str:
    """What was first, in a line."""
    while error.__cause__:
        error = error.__cause__
    return first_line(error)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what tracing has to say of itself and of packages that it would not need."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
