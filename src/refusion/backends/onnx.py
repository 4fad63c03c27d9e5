"""Export of a model as ONNX graphs for any batch and picture size, each checked against the model."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from refusion.backends.graphs import Graph, Inputs, check_traceable, require, write_checked
from refusion.errors import CheckpointError
from refusion.models import checkpoint
from refusion.restoring.codec import Pictures, States
from refusion.restoring.restorer import Restorer

TOLERANCE = 1e-4
"""Largest difference between graph and model, relative to the largest value if that is above 1."""


class Denoise(nn.Module):
    """The network with its embedding: (x_t, mu, t, condition) -> output."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        x_t: Float[Tensor, "b c h w"],
        mu: Float[Tensor, "b seen h w"],
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

    The inputs of the denoiser are x_t and mu (b, c, h, w), t (b,) and for bokeh condition_0 (b, 3); that
    of the encoder is image (b, 3, h, w); those of the decoder are state, image and feature_0, feature_1,
    ... With guides, their states are further channels of mu, see `Codec.encode_guides`. The metadata of
    each file has the model's spec and card under "refusion", as JSON. Tracing takes minutes. The folder
    appears when all files are whole.

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
    require()
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
            difference = write_checked(graph, Path(parts, name), {"refusion": json.dumps(about)}, TOLERANCE)
            yield f"{folder / name}: differs by {difference:.1e} at most"
        folder.mkdir(parents=True, exist_ok=True)
        for part in Path(parts).iterdir():
            part.replace(folder / part.name)


def check(restorer: Restorer) -> None:
    """Check, without tracing, that there are graphs of a model for all sizes of pictures.

    Raises:
        CheckpointError: the network cannot be traced, or the codec has a size of its own.
    """
    codec, remedy = restorer.codec, "use refusion itself"
    check_traceable(restorer.network, restorer.name, remedy)
    if restorer.mean is not None:
        raise CheckpointError(f"{restorer.name}: graphs of a mean stage are not exported: {remedy}")
    if not codec.traceable:
        reason = f"its codec {type(codec).__name__} computes at a size of its own"
        raise CheckpointError(f"{restorer.name}: {reason}, which has no ONNX graph: {remedy}")


def graphs(restorer: Restorer) -> Iterator[Graph]:
    """Yield the graphs of a model that `check` passed."""
    network, codec = restorer.network, restorer.codec
    unit, padded = max(8, network.multiple), max(8, codec.multiple)

    def noisy(count: int, height: int, width: int) -> Inputs:
        mu = torch.rand(count, codec.seen_channels(network), height, width)
        x_t = torch.rand(count, codec.channels, height, width)
        condition = [torch.rand(count, network.num_conditions)] if network.num_conditions else []
        return x_t, mu, 10 * torch.arange(1.0, count + 1), condition

    def pictures(count: int, height: int, width: int) -> Inputs:
        return torch.rand(count, 3, height, width), []

    def encoded(count: int, height: int, width: int) -> Inputs:
        image, _ = pictures(count, height, width)
        mu, features, _ = codec.encode(image)
        return mu, image, list(features)

    names = ("x_t", "mu", "t", "condition")
    yield Graph("denoiser", Denoise(network), noisy, names, unit, network.num_views)
    yield Graph("encoder", Encode(codec), pictures, ("image", "nothing"), padded)
    yield Graph("decoder", Decode(codec), encoded, ("state", "image", "feature"), padded)
