"""What users see of the package: its names, its README, its explanations."""

import ast
import re
import runpy
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import yaml

import refusion
from refusion.checkpoint import bundled_models
from refusion.image import from_array, write
from refusion.recipe import Loop, parse
from refusion.restorer import Sampling
from refusion.samples import Augment

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src" / "refusion").rglob("*.py"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if blocks(page)]
assert PAGES[0].name == "README.md"


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


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(from_array(np.random.default_rng(0).uniform(0.2, 0.8, (40, 60, 3))), "photo.jpg")
    run = tmp_path / "runs" / "my-task"
    run.mkdir(parents=True)
    (bundled,) = (path for path in bundled_models() if path.stem == "shadow-removal")
    shutil.copy(bundled, run / "model.safetensors")
    for block in blocks(page):
        exec(compile(block, page.name, "exec"), {"__name__": "page"})


def test_the_readmes_commands_exist() -> None:
    from refusion.cli import app

    commands = set(re.findall(r"^refusion ([a-z]+)", README, re.MULTILINE))
    assert commands
    assert commands <= set(app)


def test_every_module_is_in_the_readmes_tree() -> None:
    tree = README.split("src/refusion/\n", 1)[1].split("```", 1)[0]
    for path in SOURCES:
        if not path.name.startswith("__") and path.parent.name == "refusion":
            assert path.name in tree, path.name
    for name in re.findall(r"\b[a-z_]+\.py\b", tree):
        assert (ROOT / "src" / "refusion" / name).exists(), name


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
    """Those of the loop once, since both stages have them."""
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"^```yaml\n(task: my task.*?)^```", page, re.MULTILINE | re.DOTALL)
    shown = yaml.safe_load(text)
    whole = parse(shown, "docs").model_dump()
    shown["codec_training"] = {**dict.fromkeys(Loop.model_fields), **shown["codec_training"]}
    for part, values in whole.items():
        if isinstance(values, dict):
            assert shown[part].keys() == values.keys(), part
    assert shown["data"]["augment"].keys() == Augment.__dataclass_fields__.keys()
    assert shown["sampling"].keys() == Sampling.__dataclass_fields__.keys()
