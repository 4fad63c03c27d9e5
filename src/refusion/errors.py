"""Everything the package raises on purpose, so that one `except` catches it and one line explains it.

RefusionError
├── ImageError        a picture cannot be read or written
├── RecipeError       a recipe is wrong (a ValueError, too)
├── CheckpointError   a model file cannot be loaded or saved
└── DataError         a data set does not hold what its recipe says
"""

import difflib
from collections.abc import Iterable


class RefusionError(Exception):
    """The root; its message is one line that names the value, what was expected and what to do."""


class ImageError(RefusionError):
    """A picture cannot be read, understood or written."""


class RecipeError(RefusionError, ValueError):
    """A recipe holds an unknown name, a wrong type or a value out of range."""


class CheckpointError(RefusionError):
    """A model file is missing, damaged, of another version, or contradicts what was asked of it."""


class DataError(RefusionError):
    """A data set lacks files, pairs or sizes that its recipe promises."""


def first_line(error: BaseException) -> str:
    """What an error says first, or its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def hint(word: str, choices: Iterable[str]) -> str:
    """ ", did you mean X?" for a misspelt word, or nothing."""
    near = difflib.get_close_matches(word, list(choices), 1)
    return f", did you mean {near[0]}?" if near else ""
