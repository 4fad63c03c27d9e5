"""Pairs are found by stem, and everything that is wrong with them is said."""

import re
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pairs import Place, blocks, flat, make_pairs, views
from refusion.data.camera import GaussianNoise
from refusion.data.dataset import StepBatches, TrainingSamples
from refusion.data.degradation import Downscale, Haze
from refusion.data.inspection import contact_sheet, inspect_pairs
from refusion.data.pairs import Pair, find_pairs
from refusion.errors import DataError, ImageError


def test_pairs_are_found_by_stem_whatever_the_suffix(place: Place, tmp_path: Path) -> None:
    grey = np.full((4, 5), 0.5)
    for name in ("lq/b.png", "gt/b.jpg", "lq/a.tif", "gt/a.PNG", "lq/c.d.webp", "gt/c.d.png"):
        place(name, grey)
    (tmp_path / "lq" / "notes.txt").write_text("not a picture")
    (tmp_path / "gt" / ".hidden.png").write_bytes(b"")
    pairs = find_pairs(tmp_path)
    assert [pair.name for pair in pairs] == ["a", "b", "c.d"]
    assert [file.name for file in pairs[1].lq + pairs[1].gt] == ["b.png", "b.jpg"]
    assert pairs[0].read().lq[0].size == (5, 4)


@pytest.mark.parametrize("name", ["\u00e9t\u00e9", "\u00c5ngstr\u00f6m", "\ud55c\uae00", "\u304c", "\u1e69"])
@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
@pytest.mark.parametrize("sides", [("",), ("left/", "right/")])
def test_names_are_one_however_their_accents_are_stored(
    place: Place, tmp_path: Path, name: str, forms: tuple[str, str], sides: tuple[str, ...]
) -> None:
    """Composed by one program and decomposed by another, in the folders and in meta.txt."""
    first, second = (unicodedata.normalize(form, name) for form in forms)
    for side, stem in zip(sides, (first, second), strict=False):
        place(f"lq/{side}{stem}.png", np.full((4, 4), 0.5))
        place(f"gt/{side}{second}.png", np.full((4, 4), 0.5))
    (tmp_path / "meta.txt").write_text(f"{first}, Canon50mmf1.4BS, Sony50mmf16.0BS, 42", encoding="utf-8")
    (pair,) = find_pairs(tmp_path)
    assert len(pair.lq) == len(pair.gt) == len(sides)
    assert pair.condition[-1] == 42
    assert all(path.exists() for path in pair.lq + pair.gt)


def test_an_inspection_tells_how_far_it_is(place: Place, tmp_path: Path) -> None:
    make_pairs(place, [(4, 5), (6, 5), (4, 4)])
    (tmp_path / "gt" / "1.tif").write_bytes(b"broken")
    told: list[tuple[int, int]] = []
    inspect_pairs(tmp_path, progress=lambda done, total: told.append((done, total)))
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("parts", [("lq", "gt"), ("lq/left", "lq/right", "gt/left", "gt/right"), (".",)])
def test_an_inspection_tells_what_it_passed_over(
    place: Place, tmp_path: Path, parts: tuple[str, ...]
) -> None:
    for part in parts:
        place(f"{part}/a.png", np.full((4, 4), 0.5))
        for name in ("b.heic", "notes", ".hidden.heic"):
            (tmp_path / part / name).write_bytes(b"not read")
    (tmp_path / "meta.txt").write_text("a, Canon50mmf1.4BS, Sony50mmf16.0BS, 42")
    finding = inspect_pairs(tmp_path, GaussianNoise())
    assert len(finding.pairs) == 1
    expected = {tmp_path / part / name for part in parts for name in ("b.heic", "notes")}
    assert set(finding.passed_over) == expected
    assert len(finding.passed_over) == len(expected)


def test_every_picture_without_a_partner_is_listed(place: Place, tmp_path: Path) -> None:
    for name in ("lq/a.png", "gt/a.png", "lq/only.png", "gt/other.png", "gt/third.png"):
        place(name, np.full((4, 4), 0.5))
    with pytest.raises(DataError) as caught:
        find_pairs(tmp_path)
    assert "3 pictures without a partner: lq/only, gt/other, gt/third" in str(caught.value)


def test_a_pair_of_two_sizes_names_both(place: Place) -> None:
    """SOTS's ground truth has a border of ten pixels that its hazy pictures lack."""
    pair = Pair((place("lq/1.png", np.zeros((460, 620))),), (place("gt/1.png", np.zeros((480, 640))),))
    with pytest.raises(DataError, match="1: lq and gt have sizes 620x460 and 640x480"):
        pair.read()


def test_two_pictures_of_one_stem_are_an_error(place: Place, tmp_path: Path) -> None:
    for name in ("lq/a.png", "lq/a.jpg", "gt/a.png"):
        place(name, np.full((4, 4), 0.5))
    with pytest.raises(DataError, match=r"a\.png: same stem as a\.jpg"):
        find_pairs(tmp_path)


def test_missing_and_empty_folders_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder; pairs live in lq/ and gt/"):
        find_pairs(tmp_path / "nowhere")
    for side in ("lq", "gt"):
        (tmp_path / side).mkdir()
    with pytest.raises(DataError, match=r"no pictures in lq/ and gt/; they may end in \.png"):
        find_pairs(tmp_path)
    assert inspect_pairs(tmp_path).problems == [f"{tmp_path}: no pictures"]


def test_clean_pictures_alone_are_degraded(place: Place, tmp_path: Path) -> None:
    """Each by its own draw, always the same, in 8 bit."""
    for name in ("b.png", "a.png"):
        place(name, np.full((40, 40), 0.5))
    noise = GaussianNoise(weakest=0.1, strongest=0.1)
    pairs = find_pairs(tmp_path, noise)
    assert [pair.name for pair in pairs] == ["a", "b"]
    assert pairs[0].gt == (tmp_path / "a.png",)
    first, second = (pair.read().lq[0].pixels for pair in pairs)
    np.testing.assert_array_equal(first, pairs[0].read().lq[0].pixels)
    np.testing.assert_allclose(255 * first, np.round(255 * first), atol=1e-3)
    assert (first != second).any()
    assert (first - 0.5).std() == pytest.approx(0.1, rel=0.1)


def test_degraded_pictures_that_are_there_are_not_made(place: Place, tmp_path: Path) -> None:
    for side, value in (("lq", 0.2), ("gt", 0.6)):
        place(f"{side}/a.png", np.full((4, 4), value))
    (pair,) = find_pairs(tmp_path, GaussianNoise())
    np.testing.assert_allclose(pair.read().lq[0].pixels, 0.2)


@pytest.mark.parametrize("name", ["a.png", "left/a.png"])
def test_clean_pictures_alone_need_a_degradation(place: Place, tmp_path: Path, name: str) -> None:
    place(name, np.full((4, 4), 0.5))
    if name.startswith("left"):
        place("right/a.png", np.full((4, 4), 0.5))
    with pytest.raises(DataError, match=r"no lq/ with degraded pictures, and no data\.degradation"):
        find_pairs(tmp_path)
    assert inspect_pairs(tmp_path).problems == ["a: no degraded picture; name a recipe that makes it"]
    with pytest.raises(DataError, match=r"a\.png: no degraded picture"):
        Pair((), (tmp_path / name,)).read()
    finding = inspect_pairs(tmp_path, Haze())
    assert finding.problems == []
    assert len(finding.pairs) == 1


def test_left_and_right_are_two_views(place: Place, tmp_path: Path) -> None:
    for stem, value in (("b", 0.4), ("a", 0.6)):
        place(f"left/{stem}.png", np.full((12, 16), value))
        place(f"right/{stem}.tif", np.full((12, 16), value - 0.2))
    pairs = find_pairs(tmp_path, Downscale(factor=2), 2)
    assert [pair.name for pair in pairs] == ["a", "b"]
    assert pairs[0].names == ("a-left", "a-right")
    lq, gt, *_ = pairs[0].read()
    for z, side in ((lq, (8, 6)), (gt, (16, 12))):
        assert [picture.size for picture in z] == [side, side]
        assert [float(picture.pixels.mean()) for picture in z] == pytest.approx([0.6, 0.4], abs=1e-3)


def test_both_sides_may_hold_two_views(place: Place, tmp_path: Path) -> None:
    made = views(place)
    assert find_pairs(tmp_path) == [made]
    lq, gt, *_ = made.read()
    for degraded, clean in zip(lq, gt, strict=True):
        np.testing.assert_allclose(degraded.pixels, clean.pixels / 2, atol=1e-4)
    assert find_pairs(tmp_path)[0].names == ("a-left", "a-right")
    assert blocks(place, 1).names == ("a",)


@pytest.mark.parametrize(("there", "missing"), [("lq", "gt"), ("gt", "lq")])
def test_one_of_the_two_folders_is_not_taken_for_clean_pictures(
    place: Place, tmp_path: Path, there: str, missing: str
) -> None:
    place(f"{there}/a.png", np.full((4, 4), 0.5))
    with pytest.raises(DataError, match=f"{there}/ without {missing}/"):
        find_pairs(tmp_path, Haze())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("folder", ["", "gt/", "lq/"])
def test_a_view_without_a_partner_is_named(place: Place, tmp_path: Path, folder: str, side: str) -> None:
    for name in ("left/a", "right/a", f"{side}/b"):
        place(f"{folder}{name}.png", np.full((4, 4), 0.5))
    if folder:
        other = {"lq/": "gt/", "gt/": "lq/"}[folder]
        place(f"{other}left/a.png", np.full((4, 4), 0.5))
        place(f"{other}right/a.png", np.full((4, 4), 0.5))
    with pytest.raises(DataError, match=f"1 pictures without a partner: {folder}{side}/b$"):
        find_pairs(tmp_path, Haze())
    assert inspect_pairs(tmp_path, Haze()).problems == [f"{folder}{side}/b: no partner"]


def test_views_without_a_folder_for_the_other_are_an_error(place: Place, tmp_path: Path) -> None:
    place("left/a.png", np.full((4, 4), 0.5))
    with pytest.raises(DataError, match="right: no such folder"):
        find_pairs(tmp_path, Haze())


def test_views_of_two_sizes_are_an_error(place: Place) -> None:
    gt = (place("left/a.png", np.zeros((8, 9))), place("right/a.png", np.zeros((8, 10))))
    said = "a: left and right have sizes 9x8 and 10x8; crop one of them to the other"
    pair = Pair((), gt, degradation=Haze())
    with pytest.raises(DataError, match=said):
        pair.read()
    with pytest.raises(DataError, match=said):
        TrainingSamples([pair], (4, 4), degradation=Haze())[0]


def test_one_view_and_two_views_are_an_error(place: Place) -> None:
    pair = views(place)
    with pytest.raises(DataError, match="a: 1 views in lq/ and 2 in gt/"):
        replace(pair, lq=pair.lq[:1]).read()


def test_the_smaller_side_is_smaller_by_the_factor(place: Place, tmp_path: Path) -> None:
    blocks(place, 3)
    (pair,) = find_pairs(tmp_path, factor=3)
    lq, gt, *_ = pair.read()
    assert (lq[0].size, gt[0].size) == ((12, 9), (36, 27))
    for factor, said in ((2, "; gt should be 2 times as large"), (1, "")):
        (pair,) = find_pairs(tmp_path, factor=factor)
        with pytest.raises(
            DataError, match=f"a: lq and gt have sizes 12x9 and 36x27{said}; crop one of them"
        ):
            pair.read()
        assert len(inspect_pairs(tmp_path, factor=factor).problems) == 1


def test_what_is_made_has_the_factor_of_its_degradation(place: Place, tmp_path: Path) -> None:
    place("a.png", np.full((9, 11), 0.5))
    (pair,) = find_pairs(tmp_path, Downscale(factor=2), 2)
    lq, gt, *_ = pair.read()
    assert (lq[0].size, gt[0].size) == ((5, 4), (10, 8))
    with pytest.raises(DataError, match="gt should be 4 times as large"):
        find_pairs(tmp_path, Downscale(factor=2), 4)[0].read()


META = """id, source, target, disparity
a, Canon50mmf1.4BS, Sony50mmf16.0BS, 42
b, Sony50mmf1.8BS, Canon50mmf2.8BS, 7.5
"""


def test_meta_gives_each_pair_its_condition(place: Place, tmp_path: Path) -> None:
    for name in ("lq/b.png", "lq/a.png", "gt/a.png", "gt/b.png"):
        place(name, np.full((6, 6), 0.5))
    assert [pair.condition for pair in find_pairs(tmp_path)] == [(), ()]
    (tmp_path / "meta.txt").write_text(META)
    pairs = find_pairs(tmp_path)
    assert [pair.condition for pair in pairs] == [(-14, 160, 42), (18, -28, 7.5)]
    assert pairs[0].read().condition == (-14, 160, 42)
    samples = TrainingSamples(pairs, (4, 4))
    (batch,) = torch.utils.data.DataLoader(samples, batch_sampler=StepBatches(0, 1, 2))
    assert sorted(batch[2].tolist()) == [[-14, 160, 42], [18, -28, 7.5]]


def test_a_picture_that_meta_lacks_is_named(place: Place, tmp_path: Path) -> None:
    """And what it has too much."""
    for name in ("lq/a.png", "gt/a.png", "lq/c.png", "gt/c.png"):
        place(name, np.full((6, 6), 0.5))
    (tmp_path / "meta.txt").write_text(META)
    said = r"2 pictures without a partner: c is not in meta\.txt, b of meta\.txt$"
    with pytest.raises(DataError, match=said):
        find_pairs(tmp_path)


def test_a_pair_that_a_model_does_not_take_is_named_with_its_folder(place: Place, tmp_path: Path) -> None:
    """The first of them; what is said of it is kept."""
    for name in ("lq/b.png", "lq/a.png", "gt/a.png", "gt/b.png"):
        place(name, np.full((6, 6), 0.5))
    seen: list[tuple[int, int | None]] = []

    def check(views: int, conditions: int | None, guides: int) -> None:
        seen.append((views, conditions))
        if len(seen) > 1:
            raise ValueError("this model takes 7 of them")

    said = rf"^{re.escape(str(tmp_path))}: b: this model takes 7 of them; .*left/ and right/.*meta\.txt"
    with pytest.raises(DataError, match=said) as caught:
        find_pairs(tmp_path, check=check)
    assert isinstance(caught.value.__cause__, ValueError)
    assert "\n" not in str(caught.value)
    assert seen == [(1, 0), (1, 0)]


def test_a_check_sees_the_views_and_conditions_that_are_known(place: Place, tmp_path: Path) -> None:
    """Those of a degradation are not, before it has made them."""
    seen: list[tuple[int, int | None]] = []

    def check(views: int, conditions: int | None, guides: int) -> None:
        seen.append((views, conditions))

    for name in ("told/lq/a.png", "told/gt/a.png", "told/lq/b.png", "told/gt/b.png", "made/a.png"):
        place(name, np.full((6, 6), 0.5))
    (tmp_path / "told" / "meta.txt").write_text(META)
    for side in ("left", "right"):
        place(f"two/lq/{side}/a.png", np.full((6, 6), 0.5))
        place(f"two/gt/{side}/a.png", np.full((6, 6), 0.5))
        place(f"made-two/{side}/a.png", np.full((6, 6), 0.5))
    for folder, expected in (
        ("told", [(1, 3), (1, 3)]),
        ("made", [(1, None)]),
        ("two", [(2, 0)]),
        ("made-two", [(2, None)]),
    ):
        seen.clear()
        assert len(find_pairs(tmp_path / folder, Haze(), check=check)) == len(expected)
        assert seen == expected


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("c, Canon50mmf1.4BS, Sony50mmf16.0BS", "expected id, source, target, disparity"),
        ("c, Nikon50mmf1.4BS, Sony50mmf16.0BS, 4", 'lens "Nikon50mmf1.4BS"'),
        ("c, Canon50mmf1.4BS, Sony50mmf16.0BS, far", 'disparity "far"'),
        ("a, Canon50mmf1.4BS, Sony50mmf16.0BS, 4", 'id "a" for the second time'),
    ],
)
def test_a_bad_line_of_meta_is_an_error_of_file_and_line(
    place: Place, tmp_path: Path, line: str, said: str
) -> None:
    place("a.png", np.full((6, 6), 0.5))
    (tmp_path / "meta.txt").write_text(META + "\n" + line)
    with pytest.raises(DataError, match=rf"meta\.txt, line 5: .*{said}") as caught:
        find_pairs(tmp_path, Haze())
    assert "\n" not in str(caught.value)


def test_a_picture_that_cannot_be_read_is_an_error_of_its_name(place: Place, tmp_path: Path) -> None:
    pair = Pair((place("lq/a.png", np.zeros((4, 4))),), (place("gt/a.png", np.zeros((4, 4))),))
    pair.gt[0].write_bytes(pair.gt[0].read_bytes()[:40])
    with pytest.raises(ImageError, match=r"gt.a\.png"):
        pair.read()


def test_inspecting_says_all_that_is_wrong_at_once(place: Place, tmp_path: Path) -> None:
    for stem, size in (("a", (4, 6)), ("b", (4, 6)), ("c", (8, 8))):
        place(f"lq/{stem}.png", np.zeros(size))
        place(f"gt/{stem}.png", np.zeros(size))
    place("lq/alone.png", np.zeros((4, 4)))
    place("gt/lonely.png", np.zeros((4, 4)))
    place("lq/sizes.png", np.zeros((4, 4)))
    place("gt/sizes.png", np.zeros((4, 5)))
    place("lq/broken.png", np.zeros((4, 4)))
    place("gt/broken.png", np.zeros((4, 4))).write_bytes(b"not a picture")
    finding = inspect_pairs(tmp_path)
    assert [pair.name for pair in finding.pairs] == ["a", "b", "c"]
    assert finding.sizes == {(6, 4): 2, (8, 8): 1}
    assert len(finding.problems) == 4
    said = "\n".join(finding.problems)
    for part in (
        "lq/alone: no partner",
        "gt/lonely: no partner",
        "4x4 and 5x4",
        "broken.png is not a picture",
    ):
        assert part in said


def test_inspecting_finds_views_that_are_not_rectified(place: Place, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.uniform(0.2, 0.8, (60, 1, 1)) + rng.uniform(-0.1, 0.1, (60, 40, 3))
    for stem, low in (("a", 0), ("b", 3)):
        place(f"left/{stem}.png", rows[10:50])
        place(f"right/{stem}.png", rows[10 - low : 50 - low])
    finding = inspect_pairs(tmp_path, Downscale(factor=2), 2)
    assert finding.problems == ["b: right is +3.0 pixels lower than left; rectify them"]
    assert finding.sizes == {(20, 20): 2}


def test_a_contact_sheet_of_two_views_shows_all_four(place: Place) -> None:
    sheet = contact_sheet([views(place, size=(10, 10))], side=10)
    assert sheet.size == (10, 40)
    blue = sheet.pixels[..., 2].reshape(4, 100)
    np.testing.assert_allclose(blue, np.array([[0], [0.5], [0], [1]]).repeat(100, 1), atol=1e-4)


def test_a_contact_sheet_shows_degraded_above_clean(place: Place) -> None:
    pairs = [flat(place, "a", 0.2, 0.6), flat(place, "b", 0.4, 0.8)]
    pairs += make_pairs(place, [(30, 60), (3, 1)])
    sheet = contact_sheet(pairs, columns=3, side=10)
    assert sheet.size == (30, 20)
    for column, (lq, gt) in enumerate([(0.2, 0.6), (0.4, 0.8)]):
        np.testing.assert_allclose(sheet.pixels[:10, 10 * column : 10 * column + 10], lq, atol=1e-3)
        np.testing.assert_allclose(sheet.pixels[10:, 10 * column : 10 * column + 10], gt, atol=1e-3)
    np.testing.assert_array_equal(sheet.pixels[5:10, 20:], 1)  # what a wide picture leaves of its cell
    assert contact_sheet(pairs, columns=9, side=10).size == (40, 20)
