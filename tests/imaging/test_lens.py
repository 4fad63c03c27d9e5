"""A name of a lens is a lens, a lens is a number, a file of names is numbers of each picture."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refusion.errors import DataError
from refusion.imaging.lens import LENSES, SIGNS, Lens, condition, read_metadata

GOOD = "00001, Canon50mmf1.4BS, Sony50mmf16.0BS, 42"


@pytest.fixture
def meta(tmp_path: Path) -> Path:
    return tmp_path / "meta.txt"


# ---- laws


@given(st.sampled_from(list(SIGNS)), st.integers(1, 2000), st.floats(0.5, 64).map(lambda n: round(n, 2)))
def test_a_lens_is_its_name(maker: str, focal: int, f_number: float) -> None:
    lens = Lens(maker, focal, f_number)
    assert Lens.parse(str(lens)) == lens


@given(st.sampled_from(LENSES))
def test_a_stopped_down_lens_has_the_larger_number_on_the_side_of_its_maker(lens: Lens) -> None:
    wider = Lens(lens.brand, lens.focal, lens.f_number / 2)
    assert abs(wider.number) < abs(lens.number)
    assert math.copysign(1, wider.number) == math.copysign(1, lens.number) == SIGNS[lens.brand]


# ---- published numbers


def test_lenses_have_the_published_names_and_numbers() -> None:
    canon, sony = "Canon50mmf1.4BS", "Sony50mmf16.0BS"
    assert (Lens.parse(canon).number, Lens.parse(sony).number) == (-14.0, 160.0)
    assert (str(Lens.parse(canon)), str(Lens.parse(sony))) == (canon, sony)
    assert sorted(lens.number for lens in LENSES) == [-160, -28, -18, -14, 14, 18, 28, 160]
    assert condition(Lens.parse(sony), Lens.parse(canon), 42.5) == (160.0, -14.0, 42.5)


def test_an_f_number_may_be_written_without_its_decimal() -> None:
    assert str(Lens.parse("Sony50mmf16BS")) == "Sony50mmf16.0BS"
    assert str(Lens("Sony", 50, 16)) == "Sony50mmf16.0BS"


# ---- files


@pytest.mark.parametrize(
    "start", ["", "id, source, target, disparity\n", "\n \nid,source,target,disparity\n", "\ufeff"]
)
def test_lines_are_conditions_by_picture(meta: Path, start: str) -> None:
    meta.write_text(f"{start}{GOOD}\n\n  b 2,Sony50mmf1.8BS,Sony50mmf1.8BS ,0.5\r\n", encoding="utf-8")
    assert read_metadata(meta) == {"00001": (-14.0, 160.0, 42.0), "b 2": (18.0, 18.0, 0.5)}


@pytest.mark.parametrize("text", ["", "\n", "id, source, target, disparity\n"])
def test_a_file_without_lines_tells_nothing(meta: Path, text: str) -> None:
    meta.write_text(text)
    assert read_metadata(meta) == {}


# ---- errors


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Nikon50mmf1.4BS",
        "canon50mmf1.4BS",
        "Canon50mmf1.4",
        "Canon50f1.4BS",
        "Canon50mmf0.0BS",
        "Canon0mmf1.4BS",
        "Canon50mmf-1.4BS",
        "Canon50mmf1.BS",
        "Canon50mmfinfBS",
        " Canon50mmf1.4BS",
        "Canon50mmf1.4BS\n",
        "Canon50mmf\N{ARABIC-INDIC DIGIT FIVE}BS",
    ],
)
def test_other_names_are_named(name: str) -> None:
    with pytest.raises(DataError, match=r"Canon50mmf1\.4BS or Sony50mmf16\.0BS") as error:
        Lens.parse(name)
    assert f'lens "{name}"' in str(error.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("2, Canon50mmf1.4BS, 42", '"2, Canon50mmf1.4BS, 42": expected id, source, target, disparity'),
        (f"{GOOD},", "expected id, source, target, disparity"),
        (", Canon50mmf1.4BS, Sony50mmf16.0BS, 42", "expected id, source, target, disparity"),
        ("id, source, target, disparity", 'disparity "disparity"'),
        ("2, Nikon50mmf1.4BS, Sony50mmf16.0BS, 42", 'lens "Nikon50mmf1.4BS": expected a name like'),
        ("2, Canon50mmf1.4BS, Sony50mmf16.0, 42", 'lens "Sony50mmf16.0": expected a name like'),
        ("2, Canon50mmf1.4BS, Sony50mmf16.0BS, far", 'disparity "far": expected a number from 0'),
        ("2, Canon50mmf1.4BS, Sony50mmf16.0BS, -1", 'disparity "-1"'),
        ("2, Canon50mmf1.4BS, Sony50mmf16.0BS, nan", 'disparity "nan"'),
        ("2, Canon50mmf1.4BS, Sony50mmf16.0BS, inf", 'disparity "inf"'),
        (GOOD, 'id "00001" for the second time'),
    ],
)
def test_a_wrong_line_is_named(meta: Path, line: str, said: str) -> None:
    meta.write_text(f"{GOOD}\n\n{line}\n")
    with pytest.raises(DataError) as error:
        read_metadata(meta)
    assert str(error.value).startswith(f"{meta}, line 3: ")
    assert said in str(error.value)


def test_a_file_that_is_no_text_is_named(meta: Path) -> None:
    with pytest.raises(DataError, match="cannot be read as text"):
        read_metadata(meta)
    meta.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read as text"):
        read_metadata(meta)
