"""ONNX Runtime restores what torch restores: whole pictures, tiles, views and lenses."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from test_onnx import LATENT, save_model
from torch.utils._pytree import tree_leaves

from refusion.backends import runtime
from refusion.backends.graphs import Graph
from refusion.backends.runtime import with_onnx
from refusion.errors import CheckpointError, RefusionError
from refusion.files import user_cache
from refusion.models import checkpoint
from refusion.restoring.restorer import Restorer
from refusion.restoring.tiling import TilingPolicy
from tiny import SMALLEST

UNET = {"name": "ConditionalUNet", "width": 4, "multipliers": [1, 2], "conditional": False}
MODELS: dict[str, dict[str, Any]] = {
    "pixels": {},
    "pyramid": {"model.codec": {"name": "Pyramid", "factor": 2, "longest_side": 60}},
    "latents": {"model.codec": {**LATENT, "attention": True}},
    "skips": {"model.codec": {**LATENT, "skips": 1}},
    "bokeh": {"model.network.conditions": 3},
    "guides": {"model.network.guides": 1},
    "stereo": {"model.network.stereo": True, "model.network.downscale": 1},
    "mean": {"model.mean": SMALLEST["model"]["network"]},
    "unet": {"model.network": UNET, "model.process.kind": "denoising"},
}
TILED = TilingPolicy(max_whole=300, patch=8, max_patches=3, min_tile=16, min_state_tile=8)


class Session:
    """What onnxruntime has for a graph, computed by its module."""

    def __init__(self, graph: Graph) -> None:
        self.module = graph.module
        inputs = tree_leaves(graph.example(2, 1, 1))
        self.inputs = [SimpleNamespace(name=str(i), shape=tuple(x.shape)) for i, x in enumerate(inputs)]

    def get_inputs(self) -> list[SimpleNamespace]:
        return self.inputs

    @torch.no_grad()
    def run(self, names: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        values = [torch.from_numpy(feed[i.name]) for i in self.inputs]
        plain = 4 if isinstance(self.module, runtime._Pooled) else 1
        return [x.numpy() for x in tree_leaves(self.module(*values[:plain], values[plain:]))]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The graphs that were written, in whose place modules compute."""
    made: dict[str, Graph] = {}
    paths: list[Path] = []

    def write_checked(graph: Graph, path: Path, *rest: Any) -> float:
        made[graph.name] = graph
        paths.append(path)
        path.write_bytes(b"a graph")
        return 0.0

    monkeypatch.setattr(runtime, "require", lambda: None)
    monkeypatch.setattr(runtime, "write_checked", write_checked)
    monkeypatch.setattr(runtime, "session", lambda path: Session(made[path.stem]))
    return paths


def largest_difference(one: Restorer, other: Restorer, policy: TilingPolicy, size: tuple[int, int]) -> float:
    """Of what two restorers make of a picture or a scene, which must report the same."""
    rng = np.random.default_rng(0)
    network = one.network
    images = [rng.uniform(0.2, 0.8, (*size, 3)).astype(np.float32) for _ in range(network.num_views)]
    tile = 24 if policy is TILED else None
    lens = (0.1, 0.2, 0.3)[: network.num_conditions]
    first, second = (
        z.run(z.request(*images, steps=2, policy=policy, tile=tile, condition=lens)) for z in (one, other)
    )
    kinds = [notice.key for notice in first.notices]
    assert kinds == [notice.key for notice in second.notices]
    assert ("network-tiled" in kinds) == (policy is TILED and network.reach is not None)
    pairs = zip(first.images, second.images, strict=True)
    return max(float(np.abs(a.pixels - b.pixels).max()) for a, b in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("policy", [TilingPolicy(), TILED], ids=["whole", "tiles"])
def test_means_and_features_are_handed_on_as_with_torch(
    tmp_path: Path, written: list[Path], kind: str, policy: TilingPolicy
) -> None:
    """With modules in the place of graphs, which are compared with them when they are written."""
    model = checkpoint.load(save_model(tmp_path / "model.safetensors", MODELS[kind]), "cpu")
    fast = with_onnx(model)
    assert len(written) == 1 + (model.mean is not None) + len(model.codec.parts)
    assert largest_difference(model, fast, policy, (62, 87)) < 5e-5  # random weights amplify rounding


@pytest.mark.usefixtures("written")
@pytest.mark.parametrize("precision", ["bf16", "16"])
def test_a_precision_that_graphs_have_not_is_an_error(tmp_path: Path, precision: Any) -> None:
    fast = with_onnx(checkpoint.load(save_model(tmp_path / "model.safetensors", {}), "cpu"))
    picture = np.full((16, 16, 3), 0.5, np.float32)
    assert np.array_equal(fast(picture, steps=1, precision="32").pixels, fast(picture, steps=1).pixels)
    with pytest.raises(ValueError, match=f"^precision is {precision}: this model takes auto or 32$"):
        fast(picture, steps=1, precision=precision)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_graphs_restore_what_torch_restores(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("onnxruntime")
    model = checkpoint.load(save_model(tmp_path / "model.safetensors", MODELS[kind]), "cpu")
    jaxtyping.config.update("jaxtyping_disable", True)  # sizes are symbols while a graph is traced
    try:
        fast = with_onnx(model)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    for size in ((1, 1), (31, 18), (62, 87)):
        assert largest_difference(model, fast, TilingPolicy(), size) < 5e-5  # random weights amplify rounding
    assert largest_difference(model, fast, TILED, (62, 87)) < 5e-5  # random weights amplify rounding


# ---- files


def test_graphs_are_made_once_for_the_content_of_a_file(tmp_path: Path, written: list[Path]) -> None:
    path = save_model(tmp_path / "model.safetensors", {})
    said: list[str] = []
    with_onnx(checkpoint.load(path, "cpu"), said.append)
    (folder,) = tmp_path.glob("model-*.onnx")
    assert [file.name for file in folder.iterdir()] == ["network.onnx"]
    assert len(said) == len(written) == 1
    with_onnx(checkpoint.load(path, "cpu"), said.append)
    assert len(said) == len(written) == 1
    save_model(path, {"model.network.width": 6})
    with_onnx(checkpoint.load(path, "cpu"), said.append)
    assert len(said) == len(written) == len(list(tmp_path.glob("model-*.onnx"))) == 2


def test_where_the_model_is_cannot_be_written_graphs_go_to_the_users_cache(
    tmp_path: Path, written: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = save_model(tmp_path / "models" / "model.safetensors", {})
    made = Path.mkdir

    def mkdir(folder: Path, *args: Any, **rest: Any) -> None:
        if folder.parent == path.parent:
            raise PermissionError(13, "Permission denied")
        made(folder, *args, **rest)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    for _ in range(2):
        with_onnx(checkpoint.load(path, "cpu"))
    assert len(written) == 1
    assert len(list(user_cache().glob("model-*.onnx/network.onnx"))) == 1
    assert list(path.parent.iterdir()) == [path]


def test_a_graph_that_differs_is_not_kept(
    tmp_path: Path, written: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def differs(graph: Graph, path: Path, *rest: Any) -> float:
        path.write_bytes(b"wrong")
        raise CheckpointError("differs")

    monkeypatch.setattr(runtime, "write_checked", differs)
    model = checkpoint.load(save_model(tmp_path / "model.safetensors", {}), "cpu")
    with pytest.raises(CheckpointError, match="differs"):
        with_onnx(model)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "model.safetensors"]


# ---- what has no graphs


@pytest.mark.parametrize("network", [{"stereo": True}, {"local": [16, 16]}], ids=["stereo", "local"])
def test_what_has_no_graph_is_refused_before_anything_is_written(
    tmp_path: Path, written: list[Path], network: dict[str, Any]
) -> None:
    changes = {f"model.network.{name}": value for name, value in network.items()}
    model = checkpoint.load(save_model(tmp_path / "model.safetensors", changes), "cpu")
    with pytest.raises(CheckpointError, match="no ONNX graph: leave out the backend"):
        with_onnx(model)
    assert written == []


def test_a_model_elsewhere_is_refused(
    tmp_path: Path, written: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = checkpoint.load(save_model(tmp_path / "model.safetensors", {}), "cpu")
    monkeypatch.setattr(Restorer, "device", torch.device("cuda:0"))
    with pytest.raises(CheckpointError, match="is on cuda:0: onnxruntime needs the device cpu"):
        with_onnx(model)


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_without_the_library_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    model = checkpoint.load(save_model(tmp_path / "model.safetensors", {}), "cpu")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(RefusionError, match=rf"ONNX needs {missing}: pip install 'refusion\[onnx\]'"):
        with_onnx(model)
