"""The files of the page: what can be said of them without a browser."""

import json
import re
from pathlib import Path

import pytest

import refusion
from refusion.models.checkpoint import bundled_models

PAGE = Path(refusion.__file__).parent / "web" / "page"
SCRIPTS = sorted((PAGE / "js").glob("*.js"))
TEXTS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (PAGE / "texts").glob("*.json")}
MAX_EXAMPLE_BYTES = 25_000


def test_both_languages_have_the_same_texts_with_the_same_values() -> None:
    assert set(TEXTS) == {"en", "ko"}
    assert list(TEXTS["en"]) == list(TEXTS["ko"])
    for key, text in TEXTS["en"].items():
        other = TEXTS["ko"][key]
        assert text.strip(), key
        assert other.strip(), key
        if not key.endswith(".one"):
            assert set(re.findall(r"{\w+}", text)) == set(re.findall(r"{\w+}", other)), key


def test_every_text_that_is_named_exists_and_every_text_is_named() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (PAGE / "index.html", *SCRIPTS)]
    source = "\n".join(sources)
    named = set(re.findall(r'data-(?:text|label|placeholder)="([^"]+)"', source))
    named |= set(re.findall(r'\bt\("([^"]+)"', source))
    stems = {re.sub(r"\.(one|other)$", "", key) for key in TEXTS["en"]}
    assert named <= stems
    patterns = [re.escape(text) for text in re.findall(r"`([a-z]+\.[^`]*)`", source)]
    composed = re.compile("|".join(re.sub(r"\\\$\\{.*?\\}", ".+", pattern) for pattern in patterns))
    quoted = set(re.findall(r'"([a-z-]+(?:\.[a-z-]+)*)"', source))
    assert {key for key in stems - named - quoted if not composed.fullmatch(key)} == set()


def test_nothing_is_asked_of_another_host_and_nothing_is_inline() -> None:
    for path in (*PAGE.rglob("*.html"), *PAGE.rglob("*.css"), *SCRIPTS):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"https?://|\binnerHTML\b|\beval\(|setAttribute\(\"style\"", text), path.name
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|<script(?![^>]*\bsrc=)|\sstyle=|\son\w+=", html)


@pytest.mark.parametrize("model", [path.stem for path in bundled_models()])
def test_a_bundled_model_has_a_card_in_both_languages(model: str) -> None:
    for texts in TEXTS.values():
        assert f"model.{model}" in texts
        assert f"model.{model}.what" in texts
    for side in ("before", "after"):
        assert 0 < (PAGE / "examples" / f"{model}-{side}.jpg").stat().st_size <= MAX_EXAMPLE_BYTES
