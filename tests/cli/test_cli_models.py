"""`models` and `info`: what a model says of itself."""

from pathlib import Path

import pytest
import yaml
from terminal import CARD, TINY, Run, one_line, photo

from refusion.models import checkpoint
from refusion.models.settings import validated
from refusion.models.spec import Card, ModelSpec
from refusion.training.recipe import parse


def test_models_are_listed_with_their_terms(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "BUNDLED", model.parent)
    said = run("models")
    assert said.status == 0
    for part in ("tiny: test, 0.0 M parameters", "For tests.", "None.", "psnr 30.25"):
        assert part in said.out
    photo("a.png")
    assert run("restore", "a.png", "--model", "tiny").status == 0


def test_info_prints_card_and_spec(run: Run, model: Path) -> None:
    said = run("info", model)
    assert said.status == 0
    assert said.out.startswith("task: test\nsummary: For tests.\nterms: None.\n")
    assert "measured: psnr 30.25" in said.out
    spec = yaml.safe_load(said.out.split("\n\n", 1)[1])
    assert validated(ModelSpec, spec, "info") == parse(TINY, "test").model


def test_info_prints_the_recipe_by_which_a_model_was_made(run: Run, model: Path) -> None:
    """Ready to be trained again."""
    said = run("info", model, "--recipe")
    assert (said.status, said.err) == (0, "")
    recipe = parse(yaml.safe_load(said.out), "info")
    assert recipe == parse({**TINY, "card": CARD.model_dump()}, "test")
    Path("again.yaml").write_text(said.out)
    assert run("train", "again.yaml", "--dry-run").out.startswith(said.out)


def test_a_model_of_which_no_recipe_is_told_has_a_spec(run: Run) -> None:
    restorer = parse(TINY, "test").model.build()
    checkpoint.save(Path("bare.safetensors"), restorer, parse(TINY, "test").model, Card())
    one_line(run("info", "bare.safetensors", "--recipe"), "bare.safetensors", "task is missing")
    said = run("info", "bare.safetensors")
    assert said.out.startswith("measured: \nparameters: ")
    assert validated(ModelSpec, yaml.safe_load(said.out.split("\n\n", 1)[1]), "info").views == 1
