"""Messages and progress bars on the terminal."""

import sys
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def complain(text: object) -> None:
    """Print a line to stderr, without breaking a progress bar."""
    from tqdm import tqdm

    tqdm.write(f"refusion: {text}", file=sys.stderr)


def bar(items: Iterable[T], unit: str, total: int | None = None) -> Iterable[T]:
    """Show a progress bar over items, on terminals only."""
    from tqdm import tqdm

    return tqdm(items, unit=unit, total=total, disable=None, leave=False)
