"""Commands in the process, as users run them, each test in a folder of its own."""

import re
from functools import partial
from pathlib import Path

import pytest
from terminal import TASKS, Run, Said, described, save_model

from refusion import cli
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
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in a folder of its own."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """`main` with the given words: what it says, and its exit status."""

    def call(*words: object) -> Said:
        capsys.readouterr()
        app = partial(cli.app, [str(word) for word in words])
        with monkeypatch.context() as patch:
            patch.setattr(cli, "app", app)
            with pytest.raises(SystemExit) as caught:
                cli.main()
        said = Said(int(caught.value.code or 0), *capsys.readouterr())
        assert "Traceback" not in said.err
        return without_model(words, said) if said.out.startswith("restored ") else said

    return call


def without_model(words: tuple[object, ...], said: Said) -> Said:
    """The summary of `restore` names its model, and without --model says that there are others; the rest."""
    chosen = str(words[words.index("--model") + 1]) if "--model" in words else ""
    pattern = re.escape(f" with {chosen}") if chosen else r" with [a-z-]+ \(`refusion models` lists others\)"
    out, found = re.subn(pattern, "", said.out)
    assert found == 1, said.out
    return said._replace(out=out)
