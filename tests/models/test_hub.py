"""Folders of the Hugging Face hub; the hub itself is only played here."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

import refusion
from refusion.errors import CheckpointError, RefusionError
from refusion.models import hub
from refusion.models.checkpoint import read_header, resolve

NAME = "somebody/shadow-removal"


def same(one: refusion.Restorer, other: refusion.Restorer) -> bool:
    states = one.network.state_dict(), other.network.state_dict()
    return all(torch.equal(x, states[1][name]) for name, x in states[0].items())


@pytest.mark.slow
def test_a_folder_is_a_model(tmp_path: Path) -> None:
    folder = hub.save_pretrained("shadow-removal", tmp_path / "a" / "folder")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "model.safetensors"]
    bundled = refusion.load("shadow-removal", "cpu")
    assert same(refusion.load(folder, "cpu"), bundled)
    assert same(hub.from_pretrained(folder, "cpu"), bundled)
    assert same(hub.from_pretrained(str(folder / "model.safetensors"), "cpu"), bundled)
    assert same(hub.from_pretrained("shadow-removal", "cpu"), bundled)
    again = hub.save_pretrained(folder, folder)
    assert same(refusion.load(again, "cpu"), bundled)


def test_the_card_has_a_front_matter_and_says_what_ours_says(tmp_path: Path) -> None:
    folder = hub.save_pretrained("shadow-removal", tmp_path)
    text, header = (folder / "README.md").read_text(encoding="utf-8"), read_header(resolve(folder))
    opening, front, body = text.split("---\n", 2)
    assert opening == ""
    about = yaml.safe_load(front)
    assert about["library_name"] == "refusion"
    assert about["pipeline_tag"] == "image-to-image"
    assert header.card.task == "shadow removal"
    assert header.card.task in about["tags"]
    for said in (header.card.summary, header.card.data, header.card.terms, header.card.limits):
        assert said
        assert said in body
    for name, value in header.card.metrics.items():
        assert f"| {name} | {value:g} |" in body
    recipe = body.split("```yaml\n")[1].split("```")[0]
    assert list(yaml.safe_load(recipe).items()) == list(header.recipe.items())
    assert f"{header.parameters:,} parameters" in body


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A hub that has one model; what it was told."""
    told: list[Any] = []

    class Api:
        def __init__(self, token: str | None) -> None:
            told.append(token)

        def create_repo(self, name: str, private: bool, exist_ok: bool) -> None:
            if name != NAME:
                raise ConnectionError("403 Forbidden\nand more")
            told.append((name, private, exist_ok))

        def create_commit(self, name: str, adds: list[Any], commit_message: str) -> Any:
            told.append(dict(adds))
            return SimpleNamespace(commit_url=f"https://hub/{name}")

    def download(name: str, file: str) -> str:
        if name != NAME:
            raise FileNotFoundError("404 Not Found\nand more")
        assert file == "model.safetensors"
        return str(resolve("shadow-removal"))

    library = ModuleType("huggingface_hub")
    parts = {"HfApi": Api, "CommitOperationAdd": lambda *add: add, "hf_hub_download": download}
    library.__dict__.update(parts)
    monkeypatch.setitem(sys.modules, "huggingface_hub", library)
    return told


def test_from_the_hub(played: list[Any]) -> None:
    assert same(hub.from_pretrained(NAME, "cpu"), refusion.load("shadow-removal", "cpu"))
    with pytest.raises(CheckpointError, match=r"^some/thing: neither here nor on the hub .404 Not Found."):
        hub.from_pretrained("some/thing")


def test_to_the_hub(played: list[Any]) -> None:
    assert hub.push_to_hub("shadow-removal", NAME, private=True, token="secret") == f"https://hub/{NAME}"
    token, made, files = played
    assert (token, made) == ("secret", (NAME, True, True))
    assert files["model.safetensors"] == resolve("shadow-removal")
    assert files["README.md"].startswith(b"---\nlibrary_name: refusion\n")
    with pytest.raises(
        CheckpointError, match=r"^x/y: not uploaded .403 Forbidden.; check name, token and net$"
    ):
        hub.push_to_hub("shadow-removal", "x/y")


def test_a_mistyped_folder_is_not_asked_for_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, played: list[Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in ("runs/mien", "./thing", "a/b/c", "nothing"):
        with pytest.raises(CheckpointError, match="neither a file nor a bundled model"):
            hub.from_pretrained(name)


def test_without_the_library_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    hub.save_pretrained("shadow-removal", tmp_path)
    for call in (lambda: hub.from_pretrained(NAME), lambda: hub.push_to_hub("shadow-removal", NAME)):
        with pytest.raises(RefusionError, match=r"pip install 'refusion\[hub\]'"):
            call()


def test_the_library_has_what_is_called() -> None:
    library = pytest.importorskip("huggingface_hub")
    add = library.CommitOperationAdd("README.md", b"text")
    assert add.path_in_repo == "README.md"
    api = library.HfApi(token="none")
    assert callable(api.create_repo)
    assert callable(api.create_commit)
    assert callable(library.hf_hub_download)
