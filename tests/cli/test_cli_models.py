"""`models` and `info`: what a model says of itself."""

import json
import unicodedata
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from terminal import CARD, TINY, make_pairs, one_line, photo, save_model

from command import Run
from refusion.cli.console import warnings_as_lines
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


# ---- what strangers wrote

EVIL = "\x1b[2J\x1b]0;owned\x07\x9b31m\nrefusion: \u202efdp\u2028\rdone"


def hostile(model: Path) -> dict[str, tuple[object, ...]]:
    """Files with controls in each place that is printed, and the words of a command that prints it."""
    card = dict.fromkeys(("task", "summary", "data", "terms", "training", "limits"), EVIL)
    save_model(Path("card.safetensors"), 0.3, card=Card(**card, metrics={EVIL: 1.0}))
    save_file({**load_file(model), EVIL: torch.zeros(1)}, "key.safetensors", metadata(model))
    about = json.loads(metadata(model)["refusion"])
    about["spec"][EVIL] = about["spec"]["network"][EVIL] = EVIL
    save_file(load_file(model), "spec.safetensors", {"refusion": json.dumps(about)})
    torch.save({EVIL: {EVIL: torch.zeros(1)}}, "weights.pth")
    recipe = {**TINY, EVIL: 1}
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    name = EVIL.replace("/", "")
    photo("in/fine.png")
    for place in (f"in/{name}.png", f"in/x.{name}", f"pairs/lq/{name}.png", f"pairs/gt/{name}x.png"):
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        Path(place).write_bytes(b"no picture")
    return {
        "card": ("info", "card.safetensors"),
        "recipe of a card": ("info", "card.safetensors", "--recipe"),
        "spec": ("info", "spec.safetensors"),
        "key": ("restore", "in/fine.png", "--model", "key.safetensors"),
        "weights": ("import", "weights.pth"),
        "recipe": ("train", "recipe.yaml", "--dry-run"),
        "names": ("restore", "in", "--model", model),
        "pairs": ("doctor", "pairs"),
        "no pairs": ("evaluate", "pairs", "--model", model),
        "word": ("restore", f"{EVIL}.png", "--model", model),
        "model": ("restore", "in", "--model", EVIL),
        "option": ("restore", "in", f"--{EVIL}"),
        "value": ("restore", "in", "--steps", EVIL),
    }


def metadata(model: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(model, "pt") as file:
        return dict(file.metadata())


def test_nothing_that_strangers_wrote_moves_the_terminal(run: Run, model: Path) -> None:
    for kind, words in hostile(model).items():
        said = run(*words)
        text = said.out + said.err
        steering = {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
        assert steering == {"\n"}, (kind, said)
        assert "owned" in text, (kind, said)  # it is printed, escaped
        assert all(line.startswith("refusion: ") for line in said.err.splitlines()), (kind, said)


def test_what_training_prints_is_escaped_too(run: Run) -> None:
    for part in ("train", "val"):
        make_pairs(f"pairs/{part}")
    training = {"steps": 2, "batch": 1, "validate_every": 2, "workers": 0}
    recipe = {**TINY, "data": {"folder": "pairs", "patch": [16, 16]}, "training": training}
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    said = run("train", "recipe.yaml", "-o", "run\x1b[2J")
    assert said.status == 0, said
    assert said.out.startswith("run\\x1b[2J: step 0 of 2")
    assert "\x1b" not in said.out


def test_warnings_are_lines_and_escaped_too() -> None:
    before = warnings.formatwarning
    with warnings_as_lines():
        shown = warnings.formatwarning("in \x1b[2J", UserWarning, "trainer.py", 1)
    assert shown == "refusion: in \\x1b[2J\n"
    assert warnings.formatwarning is before


@pytest.mark.parametrize("words", [("--sigma", "1/1{long}"), ("--steps", "x{long}"), ("--model", "{long}")])
def test_of_long_values_the_ends_are_shown(run: Run, words: tuple[str, str]) -> None:
    photo("in.png")
    option, value = words
    said = run("restore", "in.png", option, value.format(long=400 * "0"))
    one_line(said, 90 * "0" + "...", status=said.status)
    assert said.status in (1, 2)
    assert len(said.err) < 500


def test_a_listed_card_is_escaped_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(Path("evil.safetensors"), 0.3, card=Card(task=EVIL, summary=EVIL, terms=EVIL))
    monkeypatch.setattr(checkpoint, "BUNDLED", Path().absolute())
    said = run("models")
    assert len(said.out.splitlines()) == 4
    assert "\x1b" not in said.out
