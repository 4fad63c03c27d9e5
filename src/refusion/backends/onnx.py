"""Export of a model as ONNX graphs for any batch and picture size, each checked against the model."""

import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from refusion.errors import CheckpointError, RefusionError, first_line
from refusion.models import checkpoint
from refusion.restoring.codec import Pictures, States
from refusion.restoring.restorer import Restorer

TRACED = (2, 5, 7)
"""Batch, height and width of the inputs for tracing; sides in units of `Graph.unit`."""
CHECKED = ((1, 3, 6), (3, 9, 4))
"""The same for the two sizes at which a graph is checked; each side is one position less."""
TOLERANCE = 1e-4
"""Largest difference between graph and model, relative to the largest value if that is above 1."""

Inputs = tuple[Any, ...]


class Graph(NamedTuple):
    """The content of one ONNX file."""

    name: str
    module: nn.Module
    inputs: Callable[[int, int, int], Inputs]
    """Makes inputs for a batch size, height and width: tensors, and last a list of tensors."""
    names: Sequence[str]
    """Names of the inputs; those in the list are numbered."""
    unit: int
    """Sides are padded to multiples of this."""


class Denoise(nn.Module):
    """The network with its embedding: (x_t, mu, t, condition) -> output."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        x_t: Float[Tensor, "b c h w"],
        mu: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        condition: Sequence[Tensor],
    ) -> Float[Tensor, "b c h w"]:
        output: Tensor = self.network(x_t, mu, t, self.network.embed(t, *condition))
        return output


class Encode(nn.Module):
    """The encoder: picture -> mu and features. `nothing` is an empty list."""

    def __init__(self, codec: Any) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, image: Pictures, nothing: Sequence[Tensor]) -> tuple[Tensor, ...]:
        encoded = self.codec.encode(image)
        return (encoded.mu, *encoded.features)


class Decode(nn.Module):
    """The decoder: (state, degraded picture, its features) -> picture, in the size of the degraded one."""

    def __init__(self, codec: Any) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, state: States, image: Pictures, feature: Sequence[Tensor]) -> Tensor:
        size = (image.shape[-2], image.shape[-1])
        picture: Tensor = self.codec.decode(state, tuple(feature), size)
        return picture


def to_onnx(model: str | Path, folder: str | Path) -> Iterator[str]:
    """Write denoiser.onnx, encoder.onnx and decoder.onnx in float32.

    The inputs of the denoiser are x_t and mu (b, c, h, w), t (b,) and for bokeh condition_0 (b, 3); that of
    the encoder is image (b, 3, h, w); those of the decoder are state, image and feature_0, feature_1, ... The
    metadata of each file has the model's spec and card under "refusion", as JSON. Tracing takes minutes. The
    folder appears when all files are whole.

    Args:
        model: see `checkpoint.load`.
        folder: for the files.

    Yields:
        A line for each graph, with its difference from the model at two sizes.

    Raises:
        RefusionError: onnx, onnxscript or onnxruntime is not installed.
        CheckpointError: see `checkpoint.load` and `check`; or a graph differs from the model; or `folder` is
            a file.
    """
    try:
        import onnx, onnxruntime, onnxscript  # noqa: E401, F401, I001
    except ModuleNotFoundError as error:
        raise RefusionError(f"ONNX needs {error.name}: pip install 'refusion[onnx]'") from error
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file: name a folder for the graphs")
    loaded = checkpoint.load(model, "cpu")
    check(loaded)
    about = {"spec": loaded.spec.model_dump(mode="json"), "card": loaded.card.model_dump()}
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    with tempfile.TemporaryDirectory(prefix=".", suffix=".part", dir=nearest) as parts:
        for graph in graphs(loaded):
            name = f"{graph.name}.onnx"
            part = Path(parts, name)
            write(graph, part, {"refusion": json.dumps(about)})
            difference = largest_difference(graph, part)
            if not difference <= TOLERANCE:
                raise CheckpointError(f"{name}: differs by {difference:.1e} from the model; report it")
            yield f"{folder / name}: differs by {difference:.1e} at most"
        folder.mkdir(parents=True, exist_ok=True)
        for part in Path(parts).iterdir():
            part.replace(folder / part.name)


def check(restorer: Restorer) -> None:
    """Check, without tracing, that there are graphs of a model for all sizes of pictures.

    Raises:
        CheckpointError: the network has two views or local means, or the codec a size of its own.
    """
    network, codec = restorer.network, restorer.codec
    reasons = {
        "its network sees two views": network.num_views > 1,
        "its network takes local means": bool(network.local),
        f"its codec {type(codec).__name__} computes at a size of its own": not codec.traceable,
    }
    for reason, holds in reasons.items():
        if holds:
            raise CheckpointError(f"{restorer.name}: {reason}, which has no ONNX graph: use refusion itself")


def graphs(restorer: Restorer) -> Iterator[Graph]:
    """Yield the graphs of a model that `check` passed."""
    network, codec = restorer.network, restorer.codec
    unit, padded = max(8, network.multiple), max(8, codec.multiple)

    def noisy(count: int, height: int, width: int) -> Inputs:
        x_t, mu = torch.rand(2, count, codec.channels, height, width)
        condition = [torch.rand(count, network.num_conditions)] if network.num_conditions else []
        return x_t, mu, 10 * torch.arange(1.0, count + 1), condition

    def pictures(count: int, height: int, width: int) -> Inputs:
        return torch.rand(count, 3, height, width), []

    def encoded(count: int, height: int, width: int) -> Inputs:
        image, _ = pictures(count, height, width)
        mu, features, _ = codec.encode(image)
        return mu, image, list(features)

    yield Graph("denoiser", Denoise(network), noisy, ("x_t", "mu", "t", "condition"), unit)
    yield Graph("encoder", Encode(codec), pictures, ("image", "nothing"), padded)
    yield Graph("decoder", Decode(codec), encoded, ("state", "image", "feature"), padded)


@torch.no_grad()
def write(graph: Graph, path: Path, metadata: dict[str, str]) -> None:
    """Trace a module and write its graph.

    Raises:
        CheckpointError: the module cannot be traced for all sizes.
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
        except Exception as error:  # tracing raises many types
            raise CheckpointError(f"{graph.name}: no ONNX graph for all sizes ({_reason(error)})") from error
    program.model.metadata_props.update(metadata)
    program.save(path)


@torch.no_grad()
def largest_difference(graph: Graph, path: Path) -> float:
    """Return the largest difference between a graph, run by onnxruntime, and its module.

    It is taken at two sizes that were not used for tracing, relative to the largest value if that is above 1;
    infinite if a shape differs.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    worst = 0.0
    for count, height, width in CHECKED:
        inputs = graph.inputs(count, height * graph.unit - 1, width * graph.unit - 1)
        arrays = [x.numpy() for x in tree_leaves(inputs)]
        feed = {i.name: x for i, x in zip(session.get_inputs(), arrays, strict=True)}
        expected = tree_leaves(graph.module(*inputs))
        for have, want in zip(session.run(None, feed), expected, strict=True):
            if have.shape != want.shape:
                return float("inf")
            difference = (torch.from_numpy(have) - want).abs().max() / max(1.0, float(want.abs().max()))
            worst = max(worst, float(difference))
    return worst


def _reason(error: BaseException) -> str:
    """Return the first line of the error that caused all others."""
    while error.__cause__:
        error = error.__cause__
    return first_line(error)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the log and the warnings of tracing."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
