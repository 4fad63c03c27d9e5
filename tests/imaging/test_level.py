"""A level is written as a number or a fraction, and means the same in recipes and on the command line."""

import time

import pytest
from pydantic import TypeAdapter, ValidationError

from refusion.imaging.level import Level, parse_level


@pytest.mark.parametrize(
    ("written", "level"), [("25/255", 25 / 255), ("1/2", 0.5), (" 0.25 ", 0.25), ("-1", -1)]
)
def test_a_text_means_a_number_or_a_fraction(written: str, level: float) -> None:
    assert parse_level(written) == level


@pytest.mark.parametrize("written", ["50/0", "1//2", "", "nan", "inf", "1/inf/2", "dark"])
def test_a_text_that_is_no_finite_number_is_an_error_that_repeats_it(written: str) -> None:
    with pytest.raises(ValueError, match=f"^'{written}': give a number or a fraction"):
        parse_level(written)


@pytest.mark.parametrize(
    "written",
    [
        "1e999",
        "-1e999",
        "1e999999999",
        "1/1e-999999999",
        f"1{400 * '0'}",
        "1/0",
        "0/0",
        "nan",
        "1/nan",
        "inf/inf",
    ],
)
def test_what_is_beyond_all_numbers_is_an_error_at_once(written: str) -> None:
    """Exact fractions would take their time for it."""
    began = time.process_time()
    with pytest.raises(ValueError, match="give a number or a fraction, as 25/255") as caught:
        parse_level(written)
    assert time.process_time() - began < 0.1
    assert str(caught.value).startswith(repr(written))


@pytest.mark.parametrize(
    ("written", "level"),
    [("0.1", 0.1), (400 * "0", 0.0), (f"{400 * '0'}1", 1.0), (f"0.{400 * '0'}1", 0.0), ("1e-999999999", 0.0)],
)
def test_the_length_of_a_number_does_not_matter(written: str, level: float) -> None:
    began = time.process_time()
    assert parse_level(written) == level
    assert time.process_time() - began < 0.1


@pytest.mark.parametrize(("written", "level"), [("50/255", 50 / 255), ("1/2", 0.5), ("0.25", 0.25), (0, 0.0)])
def test_a_level_may_be_written_as_a_fraction(written: object, level: float) -> None:
    assert TypeAdapter(Level).validate_python(written) == level


@pytest.mark.parametrize("written", ["50/0", "fifty/255", "50/255/2", "/", "dark", None])
def test_a_level_that_is_no_number_is_an_error_of_one_line(written: object) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Level).validate_python(written)
    (error,) = caught.value.errors()
    assert error["input"] == written
    assert "\n" not in error["msg"]
