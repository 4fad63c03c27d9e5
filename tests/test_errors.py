"""What strangers wrote moves no terminal, and what is nearly a name is told."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refusion.errors import hint, printable
from refusion.models.checkpoint import bundled_models
from refusion.training.recipe import RECIPES

STEERING = {"Cc", "Cf", "Cs", "Zl", "Zp"}
NAMES = sorted({path.stem for path in [*bundled_models(), *RECIPES.glob("*.yaml")]})


@given(st.text(st.characters(categories=None), max_size=40))
def test_nothing_that_steers_a_terminal_is_printed_and_all_else_is_kept(text: str) -> None:
    shown = printable(text)
    steering = [c for c in shown if unicodedata.category(c) in STEERING]
    assert set(steering) <= {"\u200c", "\u200d"}  # of Persian words and of emoji
    assert len(shown.splitlines()) <= 1
    shown.encode()  # no lone surrogate is left
    kept = [c for c in text if unicodedata.category(c) not in STEERING]
    rest = iter(shown)
    assert all(c in rest for c in kept)  # in the same order
    assert printable(shown) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("fine\nrefusion: forged", r"fine\nrefusion: forged"),
        ("gpj.\u202eexe", r"gpj.\u202eexe"),
        ("\udcff.png", r"\udcff.png"),
        ("\x9b31m", r"\x9b31m"),
        ("ü 雨\u3000à\u202f日 👩\u200d🚀", "ü 雨\u3000à\u202f日 👩\u200d🚀"),
    ],
)
def test_what_is_escaped_is_written_as_in_python(text: str, shown: str) -> None:
    assert printable(text) == shown


def typos(name: str) -> set[str]:
    """A letter lost, doubled, or swapped with the next one."""
    lost = {name[:i] + name[i + 1 :] for i in range(len(name))}
    doubled = {name[:i] + name[i] + name[i:] for i in range(len(name))}
    swapped = {name[:i] + name[i + 1] + name[i] + name[i + 2 :] for i in range(len(name) - 1)}
    return (lost | doubled | swapped) - set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_bundled_name_is_told_for_each_slip(name: str) -> None:
    for typo in typos(name):
        assert hint(typo, NAMES) == f", did you mean {name}?", typo
    assert hint(name.upper(), NAMES) == f", did you mean {name}?"


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("dehaze", ["dehazing"]),
        ("Dehaze", ["dehazing"]),
        ("derain", ["deraining"]),
        ("deblur", ["deblurring"]),
        ("blur", ["deblurring"]),
        ("denoise", ["denoising"]),
        ("shadow", ["shadow"]),
        ("shadows", ["shadow"]),
        ("inpaint", ["inpainting"]),
        ("lowlight", ["low-light"]),
        ("gaussian", ["gaussian"]),
        ("stereo", ["stereo"]),
        ("superres", ["super-resolution"]),
    ],
)
def test_short_forms_of_a_task_are_told(word: str, parts: list[str]) -> None:
    assert any(part in hint(word, NAMES) for part in parts), hint(word, NAMES)


@pytest.mark.parametrize("word", ["", "xyz", "photo.jpg", "me", "n"])
def test_what_is_like_nothing_has_no_hint(word: str) -> None:
    assert hint(word, NAMES) == ""
    assert hint(word, []) == ""
