"""The lenses of the NTIRE 2023 bokeh challenge, and the three numbers that tell a network what is wanted."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from refusion.errors import DataError

SIGNS = {"Canon": -1.0, "Sony": 1.0}
HEADER = ["id", "source", "target", "disparity"]


@dataclass(frozen=True)
class Lens:
    """A lens and its aperture.

    Args:
        maker: Canon or Sony.
        focal: length in mm.
        f_number: focal length divided by the diameter of the aperture.
    """

    maker: str
    focal: int
    f_number: float

    @staticmethod
    def parse(name: str) -> "Lens":
        """The lens of a name of the challenge, as Canon50mmf1.4BS; `str` gives the name back.

        Raises:
            DataError: the name has another form, or an unknown maker.
        """
        match = re.fullmatch(rf"({'|'.join(SIGNS)})([1-9]\d*)mmf(\d+(?:\.\d+)?)BS", name, re.ASCII)
        if match is None or not float(match[3]):
            raise DataError(f'lens "{name}": expected a name like Canon50mmf1.4BS or Sony50mmf16.0BS')
        return Lens(match[1], int(match[2]), float(match[3]))

    def __str__(self) -> str:
        return f"{self.maker}{self.focal}mmf{float(self.f_number)}BS"

    @property
    def number(self) -> float:
        """What published models are told: ten times the f-number, below 0 for Canon."""
        return SIGNS[self.maker] * self.f_number * 10


LENSES = tuple(Lens(maker, 50, f_number) for maker in SIGNS for f_number in (1.4, 1.8, 2.8, 16.0))


def condition(source: Lens, target: Lens, disparity: float) -> tuple[float, float, float]:
    """What a network is told: the lens of the picture, the lens it should look as if taken with, and how
    strongly the background is out of focus."""
    return source.number, target.number, disparity


def read_metadata(path: Path) -> dict[str, tuple[float, float, float]]:
    """The condition of each picture of a text file whose lines are `id, source, target, disparity`, as

        00001, Canon50mmf1.4BS, Sony50mmf16.0BS, 42

    Blank lines and a first line of these four words are skipped.

    Raises:
        DataError: the file cannot be read, or a line is wrong; the line is named.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error})") from error
    rows = [
        (i, [part.strip() for part in line.split(",")]) for i, line in enumerate(lines, 1) if line.strip()
    ]
    conditions: dict[str, tuple[float, float, float]] = {}
    for i, row in rows[1:] if rows and rows[0][1] == HEADER else rows:
        try:
            name, numbers = _parsed(row)
        except DataError as error:
            raise DataError(f"{path}, line {i}: {error}") from None
        if name in conditions:
            raise DataError(f'{path}, line {i}: id "{name}" for the second time; keep one of the lines')
        conditions[name] = numbers
    return conditions


def _parsed(row: list[str]) -> tuple[str, tuple[float, float, float]]:
    if len(row) != len(HEADER) or not row[0]:
        raise DataError(f'"{", ".join(row)}": expected {", ".join(HEADER)}')
    name, source, target, written = row
    try:
        disparity = float(written)
    except ValueError:
        disparity = math.nan
    if not 0 <= disparity < math.inf:
        raise DataError(f'disparity "{written}": expected a number from 0')
    return name, condition(Lens.parse(source), Lens.parse(target), disparity)
