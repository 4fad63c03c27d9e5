"""Folders are layers: the contracts in pyproject.toml hold, and whatever breaks one is found."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("importlinter")

ROOT = Path(__file__).parents[1]
LINT = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
LAYERS, MATHEMATICS, CIRCLES = (
    "Folders are layers",
    "The mathematics and the networks know torch only",
    "Within the folders there is no circle",
)


def linted(root: Path) -> tuple[int, str]:
    """Check the sources of a project against its own contracts: the exit status, and what was said."""
    there = {**os.environ, "PYTHONPATH": str(root / "src")}
    call = [sys.executable, "-c", LINT]
    done = subprocess.run(call, cwd=root, env=there, capture_output=True, text=True, check=False)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The project, without the bundled models."""
    for path in [ROOT / "pyproject.toml", *(ROOT / "src" / "refusion").rglob("*.py")]:
        place = tmp_path / path.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    return tmp_path


def test_every_import_goes_down() -> None:
    status, said = linted(ROOT)
    assert status == 0, said
    assert "3 kept, 0 broken" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "line", "broken", "named"),
    [
        (
            "imaging/masks.py",
            "import refusion.restoring.tiling",
            LAYERS,
            "masks -> refusion.restoring",
        ),
        ("errors.py", "def late() -> None:\n    import refusion.files", LAYERS, "errors -> refusion.files"),
        ("backends/onnx.py", "import refusion.published.facts", LAYERS, "onnx -> refusion.published.facts"),
        ("stray.py", "", LAYERS, "stray"),
        ("diffusion/schedule.py", "import numpy", MATHEMATICS, "diffusion.schedule -> numpy"),
        ("nn/pooling.py", "import pyvips", MATHEMATICS, "nn.pooling -> pyvips"),
        ("imaging/image.py", "import refusion.imaging.formats", CIRCLES, ".image -> .formats"),
    ],
    ids=["up", "up, late", "sideways", "outside", "numpy", "pyvips", "circle"],
)
def test_an_import_that_goes_elsewhere_is_found(
    copied: Path, module: str, line: str, broken: str, named: str
) -> None:
    """Up, sideways, from outside of every layer, to another library, or around in a circle."""
    path = copied / "src" / "refusion" / module
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    path.write_text(f"{before}\n{line}\n", encoding="utf-8")
    status, said = linted(copied)
    assert status == 1, said
    verdicts, reasons = said.split("2 kept, 1 broken")
    assert verdicts.count("BROKEN") == 1
    assert "BROKEN" in verdicts[verdicts.index(broken) :].split("KEPT")[0]
    assert named in reasons
