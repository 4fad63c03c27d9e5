"""Restoring with ONNX Runtime: graphs stand for the network, and for that of the codec.

Channel attention takes means over the state, or over patches of it, or means that were measured before, see
`Network`. One graph computes all three: the means of each attention are `mixing` times those of every
picture, plus `given`. `mixing` is the identity, an average over the patches of a view, or 0. So tiling is the
same code as with torch, and a graph need not be cut at its attentions, where layouts would be converted.

Graphs are made once for each model and kept beside its file, or else in the user's cache.
"""

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

import refusion
from refusion.backends.graphs import Graph, Inputs, answers, check_traceable, require, session, write_checked
from refusion.errors import CheckpointError
from refusion.files import atomic, user_cache
from refusion.models.checkpoint import Model
from refusion.nn.network import Network
from refusion.nn.pooling import Pool, whole_mean
from refusion.nn.precision import Precision
from refusion.restoring.codec import Codec

TOLERANCE = 1e-5
"""Largest difference between graph and module, relative to the largest value if that is above 1."""
FORMAT = 2
"""Of the cached graphs; a change makes all of them anew."""
PRECISIONS: tuple[Precision, ...] = ("auto", "32")
"""The precisions that a request may ask for; both are float32."""
SCORES_BYTES = 8 * 1024
"""Memory for each position of two views that onnxruntime needs besides: two rows of attention scores."""


class _Pooled(nn.Module):
    """The network with `mixing` (b, 1, b) and, for each channel attention, `given` (b, c)."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, x_t: Tensor, mu: Tensor, embedding: Tensor, mixing: Tensor, given: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        means: list[Tensor] = []

        def pool(x: Tensor) -> Tensor:
            means.append(mixing[:, 0] @ x.mean((2, 3)) + given[len(means)])
            return means[-1][..., None, None]

        output: Tensor = self.network(x_t, mu, embedding[:, 0], embedding, pool)  # the time is in it
        return (output, *means)


class _Part(nn.Module):
    """A part of a codec, see `Codec.parts`: of a tensor, and of features if it takes them."""

    def __init__(self, codec: Codec, name: str, featured: bool) -> None:
        super().__init__()
        self.codec, self.name, self.featured = codec, name, featured

    def forward(self, x: Tensor, features: Sequence[Tensor]) -> Any:
        part = getattr(self.codec, self.name)
        return part(x, tuple(features)) if self.featured else part(x)


class OnnxNetwork(Network):
    """A network whose predictions a graph of `_Pooled` computes; torch computes its embedding.

    Args:
        network: the network that was traced.
        running: a session.
    """

    def __init__(self, network: Network, running: Any) -> None:
        super().__init__()
        self.network, self._running = network, running
        self.declare_like(network)
        self.precisions = PRECISIONS
        if self.num_views > 1:
            self.working_bytes += SCORES_BYTES
        self._widths = [given.shape[1] for given in running.get_inputs()[4:]]

    def embed(
        self, t: Float[Tensor, " b"], condition: Float[Tensor, "b conditions"] | None = None
    ) -> Float[Tensor, "b modulations"]:
        return self.network.embed(t, condition)

    def forward(
        self,
        x_t: Float[Tensor, "b c h w"],
        mu: Float[Tensor, "b seen h w"],
        t: Float[Tensor, " b"],
        embedding: Float[Tensor, "b modulations"] | None = None,
        pool: Pool = whole_mean,
    ) -> Float[Tensor, "b c h w"]:
        """Return the prediction, see `Network.forward`; means are of each picture; `pool` is not used."""
        embedding = self.embed(t) if embedding is None else embedding
        return self._answers(x_t, mu, embedding, torch.eye(len(x_t)))[0]

    def measure_means(
        self,
        x_t: Float[Tensor, "b c h w"],
        mu: Float[Tensor, "b seen h w"],
        t: Float[Tensor, " b"],
        embedding: Float[Tensor, "b modulations"],
    ) -> list[Float[Tensor, "views _ 1 1"]]:
        count = len(x_t) // self.num_views
        mixing = torch.eye(self.num_views).repeat(count, count) / count
        means = self._answers(x_t, mu, embedding, mixing)[1:]
        return [z[: self.num_views, :, None, None] for z in means]

    def with_means(
        self,
        x_t: Float[Tensor, "views c h w"],
        mu: Float[Tensor, "views seen h w"],
        t: Float[Tensor, " views"],
        embedding: Float[Tensor, "views modulations"],
        means: Sequence[Float[Tensor, "views _ 1 1"]],
    ) -> Float[Tensor, "views c h w"]:
        given = [z.flatten(1) for z in means]
        return self._answers(x_t, mu, embedding, torch.zeros(len(x_t), len(x_t)), given)[0]

    def _answers(
        self, x_t: Tensor, mu: Tensor, embedding: Tensor, mixing: Tensor, given: Sequence[Tensor] = ()
    ) -> list[Tensor]:
        given = given or [torch.zeros(len(x_t), width) for width in self._widths]
        return answers(self._running, [x_t, mu, embedding, mixing[:, None], *given])


def with_onnx(model: Model, report: Callable[[str], object] = lambda _: None) -> Model:
    """Return a model that restores with ONNX Runtime what the given one restores, on the CPU in float32.

    Args:
        model: on the CPU.
        report: called with a line before graphs are made, which takes minutes.

    Raises:
        RefusionError: onnx, onnxscript or onnxruntime is not installed.
        CheckpointError: the model is not on the CPU, or has no graphs for all sizes.
        OSError: the graphs can be written neither beside the model nor into the user's cache.
    """
    require()
    if model.device.type != "cpu":
        raise CheckpointError(f"{model.name} is on {model.device}: onnxruntime needs the device cpu")
    networks = {"network": model.network} | ({} if model.mean is None else {"mean": model.mean})
    for network in networks.values():
        check_traceable(network, model.name, "leave out the backend")
    whole = [_network_graph(name, network, model.codec) for name, network in networks.items()]
    parts = list(_part_graphs(model.codec))
    folder = _written(model, [*whole, *parts], report)
    codec = copy.copy(model.codec)
    for part in parts:
        _, layout = tree_flatten(part.module(*part.example(1, 1, 1)))
        setattr(codec, part.name, _Answer(session(graph_file(folder, part.name)), layout))
    running = {
        name: OnnxNetwork(network, session(graph_file(folder, name))) for name, network in networks.items()
    }
    return replace(model, network=running["network"], codec=codec, mean=running.get("mean"))


class _Answer:
    """A session in the place of a codec's part."""

    def __init__(self, running: Any, layout: TreeSpec) -> None:
        self._running, self._layout = running, layout

    def __call__(self, *inputs: Any) -> Any:
        return tree_unflatten(answers(self._running, tree_leaves(inputs)), self._layout)


def _network_graph(name: str, network: Network, codec: Codec) -> Graph:
    channels, seen = codec.channels, codec.seen_channels(network)
    widths = _pooled_widths(network, channels, seen)

    def inputs(count: int, height: int, width: int) -> Inputs:
        x_t, mu = (torch.rand(count, planes, height, width) for planes in (channels, seen))
        condition = torch.rand(count, network.num_conditions) if network.num_conditions else None
        embedding = network.embed(10 * torch.arange(1.0, count + 1), condition)
        given = [torch.rand(count, width) for width in widths]
        return x_t, mu, embedding, torch.rand(count, 1, count), given

    names = ("x_t", "mu", "embedding", "mixing", "given")
    return Graph(name, _Pooled(network), inputs, names, max(8, network.multiple), network.num_views)


def _part_graphs(codec: Codec) -> Iterator[Graph]:
    for name in codec.parts:
        featured = len(_calls(codec, torch.rand(1, 3, codec.multiple, codec.multiple))[name]) > 1

        def inputs(count: int, height: int, width: int, name: str = name) -> Inputs:
            x, *features = _calls(codec, torch.rand(count, 3, height, width))[name]
            return x, [z for group in features for z in group]

        yield Graph(name, _Part(codec, name, featured), inputs, ("x", "feature"), max(8, codec.multiple))


@torch.no_grad()
def _calls(codec: Codec, image: Tensor) -> dict[str, Inputs]:
    """Return what each part of a codec is called with when it encodes and decodes a picture."""
    calls: dict[str, Inputs] = {}
    observed = copy.copy(codec)

    def observe(name: str) -> Callable[..., Any]:
        def call(*inputs: Any) -> Any:
            calls[name] = inputs
            return getattr(codec, name)(*inputs)

        return call

    for name in codec.parts:
        setattr(observed, name, observe(name))
    encoded = observed.encode(image)
    observed.decode(encoded.mu, encoded.features, encoded.size)
    return calls


@torch.no_grad()
def _pooled_widths(network: Network, channels: int, seen: int) -> list[int]:
    """Return the channels of the means of each channel attention."""
    states = torch.zeros(network.num_views, seen, network.multiple, network.multiple)
    times = torch.ones(network.num_views)
    condition = torch.zeros(len(times), network.num_conditions) if network.num_conditions else None
    embedding = network.embed(times, condition)
    means = network.measure_means(states[:, :channels], states, times, embedding)
    return [z.shape[1] for z in means]


def _written(model: Model, graphs: Sequence[Graph], report: Callable[[str], object]) -> Path:
    """Return the folder of a model's graphs, written if they are not there."""
    name = f"{model.header.path.stem}-{_key(model.header.path)}.onnx"
    beside, cache = model.header.path.parent / name, user_cache() / name
    for folder in (beside, cache):
        if all(graph_file(folder, graph.name).is_file() for graph in graphs):
            return folder
    report(f"{model.name}: ONNX graphs are made, once; this takes a minute or more")
    try:
        _write(graphs, beside)
    except OSError:
        _write(graphs, cache)
        return cache
    return beside


def _write(graphs: Sequence[Graph], folder: Path) -> None:
    """Write the graphs that are not there, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for graph in graphs:
        path = graph_file(folder, graph.name)
        if not path.is_file():
            with atomic(path) as part:
                write_checked(graph, part, {}, TOLERANCE)


def graph_file(folder: Path, name: str) -> Path:
    """Return the file of a graph."""
    return folder / f"{name}.onnx"


def _key(path: Path) -> str:
    """Return a hash of a model file and of what makes its graphs."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(f"{FORMAT} {refusion.__version__} {torch.__version__}".encode())
    return digest.hexdigest()[:16]
