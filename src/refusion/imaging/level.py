"""Intensities in units of the image range [0, 1], which recipes and commands may write as 50/255."""

import math
from typing import Annotated

from pydantic import BeforeValidator


def parse_level(text: str) -> float:
    """Return the number in a text such as "0.1" or "25/255".

    Raises:
        ValueError: the text is not a finite number or fraction.
    """
    numerator, slash, denominator = text.partition("/")
    try:
        divisor = float(denominator if slash else 1)
        value = float(numerator) / divisor
    except (ValueError, ZeroDivisionError):
        value = divisor = math.nan
    if not (math.isfinite(value) and math.isfinite(divisor)):
        raise ValueError(f"{text!r}: give a number or a fraction, as 25/255")
    return value


def _parsed(value: object) -> object:
    return parse_level(value) if isinstance(value, str) else value


Level = Annotated[float, BeforeValidator(_parsed)]
"""An intensity in units of the image range [0, 1]; a recipe may write it as a fraction."""
