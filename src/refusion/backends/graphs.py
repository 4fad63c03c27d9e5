"""ONNX graphs of modules, for any batch and size, each checked against its module."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from refusion.errors import CheckpointError, RefusionError, first_line
from refusion.nn.network import Network

TRACED = (2, 5, 7)
"""Batch, height and width of the inputs for tracing; sides in units of `Graph.unit`."""
CHECKED = ((1, 3, 6), (3, 9, 4))
"""The same for the two sizes at which a graph is checked; each side is one position less."""

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
    views: int = 1
    """Batch sizes are multiples of this."""

    def example(self, count: int, height: int, width: int, less: int = 0) -> Inputs:
        """Return inputs for sides in units, and so many positions less."""
        return self.inputs(self.views * count, height * self.unit - less, width * self.unit - less)


def require() -> None:
    """Check that the libraries are there.

    Raises:
        RefusionError: onnx, onnxscript or onnxruntime is not installed.
    """
    try:
        import onnx, onnxruntime, onnxscript  # noqa: E401, F401, I001
    except ModuleNotFoundError as error:
        raise RefusionError(f"ONNX needs {error.name}: pip install 'refusion[onnx]'") from error


def check_traceable(network: Network, name: str, remedy: str) -> None:
    """Check, without tracing, that a network has one graph for states of all sizes.

    Args:
        network: the network.
        name: of the model, for the message.
        remedy: what to do otherwise, for the message.

    Raises:
        CheckpointError: it has none.
    """
    if not network.traceable:
        reason = "its network takes local means or reduces two views"
        raise CheckpointError(f"{name}: {reason}, which has no ONNX graph: {remedy}")


def write_checked(graph: Graph, path: Path, metadata: dict[str, str], tolerance: float) -> float:
    """Trace a module, write its graph, and return the largest difference between the two.

    Raises:
        CheckpointError: the module cannot be traced for all sizes, or the graph differs by more than
            `tolerance`, relative to the largest value if that is above 1.
    """
    write(graph, path, metadata)
    difference = largest_difference(graph, path)
    if not difference <= tolerance:
        raise CheckpointError(f"{graph.name}.onnx: differs by {difference:.1e} from the model; report it")
    return difference


def session(path: Path) -> Any:
    """Return a session of onnxruntime with as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # see refusion.__main__
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def answers(of: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Return the outputs of a session for inputs on the CPU, in the order of the graph."""
    arrays = (x.detach().contiguous().numpy() for x in inputs)
    feed = {i.name: x for i, x in zip(of.get_inputs(), arrays, strict=True)}
    return [torch.from_numpy(x) for x in of.run(None, feed)]


@torch.no_grad()
def write(graph: Graph, path: Path, metadata: dict[str, str]) -> None:
    """Trace a module and write its graph.

    Raises:
        CheckpointError: the module cannot be traced for all sizes.
    """
    count, height, width = TRACED
    inputs = graph.example(count, height, width)
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
    running = session(path)
    worst = 0.0
    for count, height, width in CHECKED:
        inputs = graph.example(count, height, width, less=1)
        expected = tree_leaves(graph.module(*inputs))
        for have, want in zip(answers(running, tree_leaves(inputs)), expected, strict=True):
            if have.shape != want.shape:
                return float("inf")
            difference = (have - want).abs().max() / max(1.0, float(want.abs().max()))
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
