"""Messages and progress bars on the terminal; what strangers wrote is escaped and cut here."""

import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from refusion.errors import printable

T = TypeVar("T")

LONG, SHOWN = 256, 100
"""Characters of the longest word that messages show whole, and of the parts that they show of longer ones."""


def say(text: object) -> None:
    """Print a line to stdout."""
    print(printable(text))


def complain(text: object) -> None:
    """Print a line to stderr, without breaking a progress bar; of a word without end, its two ends."""
    from tqdm import tqdm

    tqdm.write(_line(text), file=sys.stderr)


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Within the block, show Python's warnings as `complain` shows messages, without a place in the code."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *place, **line: f"{_line(message)}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def _line(text: object) -> str:
    return "refusion: " + re.sub(rf"\S{{{LONG + 1},}}", _ends, printable(text))


def _ends(word: re.Match[str]) -> str:
    return f"{word[0][:SHOWN]}...{word[0][-SHOWN:]}"


def bar(items: Iterable[T], unit: str, total: int | None = None, name: str | None = None) -> Iterable[T]:
    """Show a progress bar over items, on terminals only.

    Args:
        items: to pass on.
        unit: of the items.
        total: number of the items.
        name: written before the bar.
    """
    from tqdm import tqdm

    title = None if name is None else printable(name)
    return tqdm(items, unit=unit, total=total, desc=title, disable=None, leave=False)


@contextmanager
def meter(unit: str, name: str | None = None) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar, on terminals only, and yield what moves it: how many are done, and of how many.

    Args:
        unit: of what is done.
        name: written before the bar.
    """
    from tqdm import tqdm

    title = None if name is None else printable(name)
    with tqdm(unit=unit, desc=title, disable=None, leave=False) as shown:

        def move(done: int, total: int) -> None:
            if shown.total != total:
                shown.reset(total)
            shown.update(done - shown.n)

        yield move
