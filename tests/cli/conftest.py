"""Commands in the process, as users run them, each test in a folder of its own."""

import re
from pathlib import Path

import pytest
from terminal import TASKS, described, save_model

from command import Run, Said
from refusion.training.recipe import parse


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("cli") / "tiny.safetensors", 0.3)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of each task; all change every picture."""
    folder = tmp_path_factory.mktemp("tasks")
    for name, values in TASKS.items():
        save_model(folder / f"{name}.safetensors", 0.3, parse(described(**values), name))
    return folder


@pytest.fixture(autouse=True)
def here(here: Path) -> Path:
    """Every test works in a folder of its own."""
    return here


@pytest.fixture
def run(run: Run) -> Run:
    """The common one, whose summary of `restore` does not name the model."""

    def call(*words: object) -> Said:
        said = run(*words)
        return without_model(words, said) if said.out.startswith("restored ") else said

    return call


def without_model(words: tuple[object, ...], said: Said) -> Said:
    """The summary of `restore` names its model, and without --model says that there are others; the rest."""
    chosen = str(words[words.index("--model") + 1]) if "--model" in words else ""
    pattern = re.escape(f" with {chosen}") if chosen else r" with [a-z-]+ \(`refusion models` lists others\)"
    out, found = re.subn(pattern, "", said.out)
    assert found == 1, said.out
    return said._replace(out=out)
