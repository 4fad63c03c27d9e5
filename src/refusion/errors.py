"""The errors of the package, with one root, and its notices.

RefusionError
├── ImageError        a picture cannot be read or written
├── RecipeError       a recipe holds a wrong key or value (also a ValueError)
├── CheckpointError   a model file cannot be loaded or saved
├── DataError         a data set does not hold what its recipe says
└── Cancelled         the caller asked to stop
"""

import difflib
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal


class RefusionError(Exception):
    """The root of all errors; the message is one line: the value, what was expected, what to do."""


class ImageError(RefusionError):
    """A picture cannot be read, understood or written."""


class RecipeError(RefusionError, ValueError):
    """A recipe holds an unknown name, a wrong type or a value out of range."""


class CheckpointError(RefusionError):
    """A model file is missing, damaged or of another version, or does not fit its use."""


class DataError(RefusionError):
    """A data set lacks files, pairs or sizes that its recipe expects."""


class Cancelled(RefusionError):  # noqa: N818 - not a failure, but the caller's choice
    """The caller asked to stop; there is no failure."""


class RefusionWarning(UserWarning):
    """A notice of level "warning", issued as a Python warning by calls that return no notices."""


@dataclass(frozen=True)
class Notice:
    """A message for the user about a result.

    Args:
        key: the kind of notice: "unrectified-views", "noise-above-range", "noise-estimated", "unchanged",
            "codec-tiled", "network-tiled", "out-of-memory", "first-frame", "gain-map", "extra-samples",
            "metadata-lost".
        text: one line for the user.
        level: "warning" if the result may be worthless, else "info".
    """

    key: str
    text: str
    level: Literal["info", "warning"] = "info"

    def __str__(self) -> str:
        return self.text


Report = Callable[[Notice], object]
"""Receives a notice."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


_JOINERS = "\u200c\u200d"
"""Characters of the category "format" that words and emoji need, and that move nothing."""


def printable(text: object) -> str:
    """Return a text as one line for terminals, with all that is no character escaped.

    Escaped are controls (so line ends and the escape codes of terminals, too), invisible characters of format
    (which turn the direction of writing), line separators, and bytes of file names that are no text. Files,
    models and networks are named by strangers.
    """
    return "".join(_visible(character) for character in str(text))


def _visible(character: str) -> str:
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in _JOINERS
    return character.encode("unicode_escape").decode("ascii") if hidden else character


def hint(word: str, choices: Iterable[str]) -> str:
    """Return ", did you mean X?" for a misspelt or shortened word, or nothing."""
    ranked = [(*_nearness(word.casefold(), choice.casefold()), choice) for choice in choices]
    nearness, _, nearest = max(ranked, default=(0.0, 0.0, ""))
    return f", did you mean {nearest}?" if nearness >= 0.6 else ""


def _nearness(word: str, choice: str) -> tuple[float, float]:
    """Return how near a word is to a choice or a part of it, "denoise" to "real-denoising", and to all of it.

    Both are from 0 to 1.
    """
    parts = [part for part in choice.split("-") if len(part) >= 4]
    ratios = [difflib.SequenceMatcher(None, whole, word).ratio() for whole in [choice, *parts]]
    within = 0.8 if len(word) >= 4 and word in choice else 0.0
    return max(*ratios, within), ratios[0]
