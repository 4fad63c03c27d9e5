"""The lenses of the NTIRE 2023 bokeh challenge, and the condition of a network for bokeh."""

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
        brand: Canon or Sony.
        focal: focal length in mm.
        f_number: focal length divided by the diameter of the aperture.
    """

    brand: str
    focal: int
    f_number: float

    @staticmethod
    def parse(name: str) -> "Lens":
        """Return the lens of a name of the challenge, as Canon50mmf1.4BS; `str` is the inverse.

        Raises:
            DataError: the name has another form, or an unknown brand.
        """
        match = re.fullmatch(rf"({'|'.join(SIGNS)})([1-9]\d*)mmf(\d+(?:\.\d+)?)BS", name, re.ASCII)
        if match is None or not float(match[3]):
            raise DataError(f'lens "{name}": expected a name like Canon50mmf1.4BS or Sony50mmf16.0BS')
        return Lens(match[1], int(match[2]), float(match[3]))

    def __str__(self) -> str:
        return f"{self.brand}{self.focal}mmf{float(self.f_number)}BS"

    @property
    def number(self) -> float:
        """The lens as a number, as published models expect it: ten times the f-number, negative for Canon."""
        return SIGNS[self.brand] * self.f_number * 10


LENSES = tuple(Lens(brand, 50, f_number) for brand in SIGNS for f_number in (1.4, 1.8, 2.8, 16.0))


def condition(source: Lens, target: Lens, disparity: float) -> tuple[float, float, float]:
    """Return the condition of a picture: the lens it was taken with, the lens it should look as if taken
    with, and the disparity of the background, a measure of its distance from the focal plane."""
    return source.number, target.number, disparity


def read_metadata(path: Path) -> dict[str, tuple[float, float, float]]:
    """Read a text file of lines `id, source, target, disparity`, and return the condition of each id.

    A line is, for example,

        00001, Canon50mmf1.4BS, Sony50mmf16.0BS, 42

    Blank lines and a first line of these four words are skipped.

    Raises:
        DataError: the file cannot be read, or a line is wrong; the message names the line.
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
