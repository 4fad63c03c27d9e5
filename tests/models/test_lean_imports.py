"""What is imported when: restoring knows nothing of training, and help is there before torch is."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from refusion.imaging.arrays import from_array
from refusion.imaging.formats import read, write

TRAINING = ("refusion.training", "refusion.data", "refusion.diffusion.objective", "lightning", "tensorboard")
HEAVY = ("torch", "numpy", "pydantic", "pyvips", "safetensors", "lightning")
MAIN = """
import runpy, sys
sys.argv = {words!r}
try:
    runpy.run_module("refusion", run_name="__main__", alter_sys=True)
except SystemExit as left:
    assert not left.code, left.code
"""
TELL = """
import sys
print("MODULES", *sorted(name for name, module in sys.modules.items() if module is not None))
"""


def imported(code: str, here: Path) -> set[str]:
    """The modules of a fresh interpreter after it has run the code."""
    done = subprocess.run(
        [sys.executable, "-c", code + TELL],
        cwd=here,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rsplit("MODULES ", 1)[1].split())


def of(modules: set[str], *packages: str) -> list[str]:
    """Those that lie in one of the packages."""
    return sorted(m for m in modules if any(m == p or m.startswith(f"{p}.") for p in packages))


def command(*words: object) -> str:
    return MAIN.format(words=["refusion", *map(str, words)])


def test_importing_the_package_imports_next_to_nothing(tmp_path: Path) -> None:
    modules = imported("import refusion", tmp_path)
    assert of(modules, "refusion") == ["refusion"]
    assert of(modules, *HEAVY) == []


@pytest.mark.slow
def test_no_promised_name_brings_training(tmp_path: Path) -> None:
    modules = imported("from refusion import *\nimport refusion\nrefusion.load", tmp_path)
    assert "refusion.models.checkpoint" in modules
    assert of(modules, *TRAINING) == []


@pytest.mark.slow
def test_loading_and_restoring_bring_no_training(tmp_path: Path) -> None:
    code = """
import numpy, refusion
restore = refusion.load("inpainting", "cpu")
picture = numpy.random.default_rng(0).uniform(0.2, 0.8, (16, 16, 3)).astype("float32")
mask = numpy.zeros((16, 16), "float32")
mask[4:8, 4:8] = 1
result = restore.run(restore.request(picture, mask=mask, samples=2))
assert result.std.shape == (16, 16)
refusion.write(result.image, "restored.png")
"""
    modules = imported(code, tmp_path)
    assert read(tmp_path / "restored.png").size == (16, 16)
    assert of(modules, *TRAINING) == []


@pytest.mark.slow
def test_the_command_that_restores_brings_no_training(tmp_path: Path) -> None:
    write(from_array(np.random.default_rng(0).uniform(0.2, 0.8, (16, 20, 3))), tmp_path / "a.png")
    words = ("restore", "a.png", "--model", "shadow-removal", "--device", "cpu")
    modules = imported(command(*words), tmp_path)
    assert read(tmp_path / "restored" / "a.png").size == (20, 16)
    assert "refusion.jobs.run" in modules
    assert of(modules, *(name for name in TRAINING if name != "refusion.data")) == []
    assert of(modules, "refusion.data.dataset", "refusion.data.bokeh", "fsspec", "s3fs", "ray") == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("--version",),
        ("train", "--help"),
        ("restore", "--help"),
        ("evaluate", "--help"),
        ("doctor", "--help"),
        ("diffuse", "--help"),
        ("import", "--help"),
        ("export", "--help"),
        ("models", "--help"),
        ("info", "--help"),
        ("serve", "--help"),
    ],
    ids=" ".join,
)
def test_help_is_there_before_torch(words: tuple[str, ...], tmp_path: Path) -> None:
    modules = imported(command(*words), tmp_path)
    assert "refusion.cli" in modules
    assert of(modules, *HEAVY) == []


@pytest.mark.slow
@pytest.mark.parametrize("words", [("models",), ("info", "shadow-removal")], ids=" ".join)
def test_what_only_looks_at_models_brings_no_loop_of_training(words: tuple[str, ...], tmp_path: Path) -> None:
    assert of(imported(command(*words), tmp_path), "lightning", "tensorboard", "refusion.training.run") == []
