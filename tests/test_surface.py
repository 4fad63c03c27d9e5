"""What users see of the package: its names, its README, its explanations."""

import ast
import re
import runpy
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import refusion
from refusion.data.dataset import Augment
from refusion.diffusion.sampling import SAMPLERS
from refusion.diffusion.schedule import SCHEDULES
from refusion.evaluation.perceptual import METRICS
from refusion.evaluation.perceptual import load as load_metrics
from refusion.imaging.arrays import from_array
from refusion.imaging.formats import write
from refusion.models.checkpoint import bundled_models
from refusion.models.spec import CODECS, NETWORKS
from refusion.restoring.request import Sampling
from refusion.training.recipe import DEGRADATIONS, Loop, parse

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src" / "refusion").rglob("*.py"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


READMES = (ROOT / "README.md", ROOT / "README.ko.md")
PAGES = [page for page in (*READMES, *sorted((ROOT / "docs").glob("*.md"))) if blocks(page)]
assert PAGES[:2] == list(READMES)
SLOW_PAGES = ("sampling.md",)


def test_every_promised_name_is_there() -> None:
    assert refusion.__all__ == sorted(refusion.__all__)
    for name in refusion.__all__:
        assert getattr(refusion, name).__doc__, name
    for error in ("CheckpointError", "DataError", "ImageError", "RecipeError"):
        assert issubclass(getattr(refusion, error), refusion.RefusionError)
    assert issubclass(refusion.RecipeError, ValueError)


def test_the_version_is_said_twice_alike() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert refusion.__version__ == project["version"]


def test_every_public_name_is_explained() -> None:
    silent = []
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if not ast.get_docstring(tree) and path.name != "__main__.py":
            silent.append(path.name)
        for node in tree.body:
            named = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            if named and not ast.get_docstring(node):  # type: ignore[arg-type]
                silent.append(f"{path.name}: {node.name}")  # type: ignore[attr-defined]
    assert silent == []


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.name, marks=[pytest.mark.slow] if page.name in SLOW_PAGES else [])
        for page in PAGES
    ],
)
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(from_array(np.random.default_rng(0).uniform(0.2, 0.8, (40, 60, 3))), "photo.jpg")
    run = tmp_path / "runs" / "my-task"
    run.mkdir(parents=True)
    (bundled,) = (path for path in bundled_models() if path.stem == "shadow-removal")
    shutil.copy(bundled, run / "model.safetensors")
    for block in blocks(page):
        exec(compile(block, page.name, "exec"), {"__name__": "page"})


def skeleton(page: Path) -> dict[str, list[Any]]:
    """Return what a README says whatever its language: code without comments, levels, figures, addresses."""
    text = page.read_text(encoding="utf-8")
    code = re.findall(r"^```(.*?)^```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return {
        "code": [[re.split(r"\s{2,}|\s#", line.strip())[0] for line in block.splitlines()] for block in code],
        "headings": re.findall(r"^#+", prose, re.MULTILINE),
        "figures": [
            sorted(re.findall(r"\d+\.?\d*", row)) for row in re.findall(r"^\|.*$", prose, re.MULTILINE)
        ],
        "addresses": sorted(set(re.findall(r"\]\((.*?)\)", prose)) - {page.name for page in READMES}),
    }


@pytest.mark.parametrize("part", ["code", "headings", "figures", "addresses"])
def test_the_readme_says_the_same_in_korean(part: str) -> None:
    english, korean = (skeleton(page)[part] for page in READMES)
    assert korean == english


def test_the_readmes_commands_exist() -> None:
    from refusion.cli import app

    commands = set(re.findall(r"^refusion ([a-z]+)", README, re.MULTILINE))
    assert commands
    assert commands <= set(app)


def test_the_readmes_tree_is_that_of_the_folders() -> None:
    tree = README.split("src/refusion/\n", 1)[1].split("```", 1)[0]
    told = set(re.findall(r"^  ([a-z]+)/ ", tree, re.MULTILINE))
    there = {path.name for path in (ROOT / "src" / "refusion").iterdir() if path.is_dir()}
    assert told == {name for name in there if not name.startswith("__")}
    for name in re.findall(r"\b[a-z_]+\.py\b", tree):
        assert (ROOT / "src" / "refusion" / name).exists(), name


TABLES: list[dict[str, Any]] = [SCHEDULES, SAMPLERS, NETWORKS, CODECS, DEGRADATIONS, METRICS]


@pytest.fixture
def own_names() -> Iterator[None]:
    """Forget what is registered in a test."""
    before = [dict(table) for table in TABLES]
    yield
    for table, entries in zip(TABLES, before, strict=True):
        table.clear()
        table.update(entries)


@pytest.mark.usefixtures("own_names")
def test_the_python_of_contributing_runs_and_works_in_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from refusion.cli import app

    monkeypatch.chdir(tmp_path)
    photo = from_array(np.full((24, 32, 3), 0.25))
    write(photo, "photo.png")
    there: dict[str, Any] = {"__name__": "page"}
    for block in blocks(ROOT / "CONTRIBUTING.md"):
        exec(compile(block, "CONTRIBUTING.md", "exec"), there)
    values = {
        "task": "faded prints",
        "model": {
            "network": {"name": "PlainNet", "width": 16},
            "codec": {"name": "LinearLight"},
            "process": {"noise_level": "50/255", "schedule": "quadratic"},
            "prediction": "clean",
            "sampling": {"steps": 3, "sampler": "mean"},
        },
        "data": {"degradation": {"name": "Fading", "least": 0.5}},
    }
    recipe = parse(values, "docs")
    faded = recipe.data.degradation(photo.tensor(), np.random.default_rng(0)).lq
    assert 0.25 < float(faded.mean()) < 0.55
    restored = recipe.model.build().restore_batch(faded[None])
    assert restored.shape == (1, 3, 24, 32)
    codec = recipe.model.build().codec
    encoded = codec.encode(faded[None])
    torch.testing.assert_close(codec.decode(*encoded)[0], faded)
    assert float(load_metrics(["mae"]).distances["mae"](faded[None], faded[None] + 0.5)) == pytest.approx(0.5)
    exact, fast = (there[name](photo).pixels for name in ("restore", "fast"))
    np.testing.assert_allclose(fast, exact, atol=0.05)
    assert np.abs(fast - exact).max() > 0
    app("brightness photo.png", result_action="return_value")
    assert capsys.readouterr().out == "0.250\n"
    del app["brightness"]


def test_the_demo_restores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["demo.py"])
    runpy.run_path(str(ROOT / "examples" / "demo.py"), run_name="__main__")
    assert refusion.read("demo.png").size == (512 + 8 + 512, 400)
    said = capsys.readouterr().out
    before, after = (float(value) for value in re.findall(r"([\d.]+) dB", said))
    assert after > before + 3


def test_the_training_page_shows_every_key() -> None:
    """Those of the loop once, since all stages have them."""
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"^```yaml\n(task: my task.*?)^```", page, re.MULTILINE | re.DOTALL)
    shown = yaml.safe_load(text)
    whole = parse(shown, "docs").model_dump()
    whole["card"].pop("task")  # is the recipe's own
    for stage in ("codec_training", "mean_training"):
        shown[stage] = {**dict.fromkeys(Loop.model_fields), **shown[stage]}
    for part, values in whole.items():
        if isinstance(values, dict):
            assert shown[part].keys() == values.keys(), part
    assert shown["model"]["network"].keys() == whole["model"]["network"].keys()
    assert shown["data"]["augment"].keys() == Augment.__dataclass_fields__.keys()
    assert shown["model"]["sampling"].keys() == Sampling.__dataclass_fields__.keys()
