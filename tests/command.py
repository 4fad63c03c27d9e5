"""What a command, called in the process of the tests by the fixture `run`, says."""

from collections.abc import Callable
from typing import NamedTuple


class Said(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Said]
