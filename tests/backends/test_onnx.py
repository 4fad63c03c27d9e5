"""Graphs for ONNX compute what the model computes, for any number and size of pictures."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor, nn

from refusion.backends import graphs, onnx
from refusion.backends.graphs import Graph
from refusion.backends.onnx import to_onnx
from refusion.errors import CheckpointError, RefusionError
from refusion.models import checkpoint
from refusion.models.settings import validated
from refusion.models.spec import Card, ModelSpec
from refusion.training.recipe import parse
from tiny import SMALLEST

LATENT = {"name": "LatentUNet", "latent_channels": 4, "width": 4, "multipliers": [1, 2], "unshuffle": 2}
UNET = {"name": "ConditionalUNet", "width": 4, "multipliers": [1, 2], "conditional": False, "softmax": True}
MODELS: dict[str, dict[str, Any]] = {
    "latents": {"model.codec": {**LATENT, "attention": True}},
    "bokeh": {"model.network.conditions": 3},
    "guides": {"model.network.guides": 2},
    "stereo": {"model.network.stereo": True, "model.network.downscale": 1},
    "unet": {"model.network": UNET, "model.process.kind": "denoising"},
}


def save_model(path: Path, changes: dict[str, Any]) -> Path:
    """A model in which every weight counts."""
    spec = parse(SMALLEST, "test", changes).model
    restorer = spec.build()
    for parameter in nn.ModuleList([restorer.network, restorer.codec]).parameters():
        nn.init.normal_(parameter, std=0.3 if parameter.ndim < 2 else parameter[0].numel() ** -0.5)
    checkpoint.save(path, restorer, spec, Card(task="test", summary="For tests."))
    return path


@pytest.fixture
def _traceable() -> Iterator[None]:
    """Without the check of types: sizes are symbols while a graph is traced."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.slow
@pytest.mark.usefixtures("_traceable")
@pytest.mark.parametrize("kind", MODELS)
@torch.inference_mode()
def test_a_graph_is_the_model_at_every_size(tmp_path: Path, kind: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = save_model(tmp_path / "model.safetensors", MODELS[kind])
    said = list(to_onnx(model, tmp_path / "graphs"))
    assert len(said) == 3
    restorer = checkpoint.load(model, "cpu")
    sessions = {
        path.stem: onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for path in (tmp_path / "graphs").iterdir()
    }

    def run(name: str, *inputs: Tensor) -> list[Tensor]:
        session = sessions[name]
        taken = zip(session.get_inputs(), inputs, strict=True)
        return [torch.from_numpy(x) for x in session.run(None, {i.name: x.numpy() for i, x in taken})]

    for count, height, width in ((1, 22, 34), (3, 41, 19)):
        size = (count * restorer.network.num_views, 3, height, width)
        image = torch.rand(size)
        mu, *features = run("encoder", image)
        encoded = restorer.codec.encode(image)
        for ours, theirs in zip((encoded.mu, *encoded.features), (mu, *features), strict=True):
            torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4)
        t, x_t = torch.arange(1.0, size[0] + 1), torch.rand(mu.shape)
        condition = [torch.rand(size[0], 3)] if kind == "bokeh" else []
        maps = torch.rand(size[0], restorer.network.num_guides, *size[2:])
        seen = restorer.codec.seen(restorer.network, mu, maps, mu)
        (output,) = run("denoiser", x_t, seen, t, *condition)
        expected = restorer.network(x_t, seen, t, restorer.network.embed(t, *condition))
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-4)
        (picture,) = run("decoder", x_t, image, *features)
        expected = restorer.codec.decode(x_t, encoded.features, encoded.size)
        torch.testing.assert_close(picture, expected, rtol=0, atol=1e-4)
    about = json.loads(sessions["denoiser"].get_modelmeta().custom_metadata_map["refusion"])
    assert validated(ModelSpec, about["spec"], "graph") == restorer.spec
    assert about["card"]["task"] == "test"
    assert about["card"]["summary"] == "For tests."


class Fixed(nn.Module):
    """What is no graph for all sizes."""

    def __init__(self, branches: bool) -> None:
        super().__init__()
        self.branches = branches

    def forward(self, image: Tensor, nothing: list[Tensor]) -> Tensor:
        if self.branches and float(image.sum()) > 1:
            return image
        return image.reshape(2, 3, -1).flatten(0, 1)


@pytest.mark.slow
def test_what_is_no_graph_for_all_sizes_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    model = save_model(tmp_path / "model.safetensors", {})

    def fixed(*_: object) -> list[Graph]:
        def pictures(*size: int) -> tuple[Any, ...]:
            return torch.rand(size[0], 3, *size[1:]), []

        return [Graph("encoder", Fixed(branches=True), pictures, ("image", "nothing"), 4)]

    monkeypatch.setattr(onnx, "graphs", fixed)
    with pytest.raises(CheckpointError, match=r"^encoder: no ONNX graph for all sizes .*$"):
        list(to_onnx(model, tmp_path / "graphs"))
    assert list(tmp_path.iterdir()) == [model]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "stereo": ({"model.network.stereo": True}, "its network takes local means or reduces two views"),
    "local": ({"model.network.local": [16, 16]}, "its network takes local means or reduces two views"),
    "pyramid": ({"model.codec": {"name": "Pyramid", "factor": 2}}, "its codec Pyramid computes at a size"),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("there", [False, True])
def test_what_has_no_graph_is_refused_before_tracing_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, there: bool
) -> None:
    changes, reason = REFUSED[kind]
    model = save_model(tmp_path / "model.safetensors", changes)
    monkeypatch.setattr(graphs, "write", lambda *_: pytest.fail("traced"))
    folder = tmp_path / "deep" / "graphs"
    if there:
        folder.mkdir(parents=True)
        (folder / "encoder.onnx").write_bytes(b"of an earlier export")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CheckpointError, match=f"^model.safetensors: {reason}.*: use refusion itself$"):
        list(to_onnx(model, folder))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("failing", range(3))
@pytest.mark.parametrize("there", [False, True])
def test_a_failing_export_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int, there: bool
) -> None:
    """Whichever of the graphs fails; and without one, all are there together."""
    model = save_model(tmp_path / "model.safetensors", {})
    folder = tmp_path / "deep" / "graphs"
    if there:
        folder.mkdir(parents=True)
        (folder / "encoder.onnx").write_bytes(b"of an earlier export")
    differences = iter([0.0] * failing + [1.0])
    monkeypatch.setattr(graphs, "write", lambda graph, path, _: path.write_text(graph.name))
    monkeypatch.setattr(graphs, "largest_difference", lambda *_: next(differences))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CheckpointError, match="differs by 1"):
        list(to_onnx(model, folder))
    assert sorted(tmp_path.rglob("*")) == before
    monkeypatch.setattr(graphs, "largest_difference", lambda *_: 0.0)
    said = list(to_onnx(model, folder))
    names = ["denoiser", "encoder", "decoder"]
    assert [line.partition(":")[0] for line in said] == [str(folder / f"{name}.onnx") for name in names]
    assert {path.name: path.read_text() for path in folder.iterdir()} == {f"{n}.onnx": n for n in names}
    assert list(tmp_path.glob(".*")) == []


def test_graphs_need_a_folder(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model.safetensors", {})
    with pytest.raises(CheckpointError, match="is a file: name a folder"):
        list(to_onnx(model, model))


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_without_the_library_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(RefusionError, match=rf"ONNX needs {missing}: pip install 'refusion\[onnx\]'"):
        list(to_onnx("shadow-removal", tmp_path / "graphs"))
    assert not (tmp_path / "graphs").exists()
