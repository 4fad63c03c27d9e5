"""The errors of the package, with one root, and its notices.

RefusionError
├── ImageError        a picture cannot be read or written
├── RecipeError       a recipe holds a wrong key or value (also a ValueError)
├── CheckpointError   a model file cannot be loaded or saved
├── DataError         a data set does not hold what its recipe says
└── Cancelled         the caller asked to stop
"""

import difflib
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


def hint(word: str, choices: Iterable[str]) -> str:
    """Return ", did you mean X?" for a misspelt word, or nothing."""
    near = difflib.get_close_matches(word, list(choices), 1)
    return f", did you mean {near[0]}?" if near else ""
