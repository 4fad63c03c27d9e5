"""Which pictures are restored to where, and a line for everything that cannot be done."""

import unicodedata
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from refusion.errors import ImageError
from refusion.imaging.formats import READABLE
from refusion.jobs.plan import Job, Plan, plan


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in a folder of its own, in which it names files."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def job(source: str, target: str, mask: str | None = None) -> Job:
    return Job((Path(source),), (Path(target),), Path(mask) if mask else None)


def jobs(planned: Plan) -> list[Job]:
    return [one for one in planned.jobs if not one.problem]


def problems(planned: Plan) -> list[str]:
    return [one.problem for one in planned.jobs if one.problem]


def masks(planned: Plan) -> list[Path | None]:
    return [planned.mask for planned in jobs(planned)]


# ---- places


def test_files_folders_and_patterns_keep_their_inner_structure() -> None:
    touch(
        "one.png", "holiday/10.png", "holiday/2.jpg", "holiday/day 2/ü.tif", "scans/s1.png", "scans/s2.webp"
    )
    planned = plan(["one.png", "holiday", "scans/*.png"], Path("out"))
    assert problems(planned) == []
    assert jobs(planned) == [
        job("one.png", "out/one.png"),
        job("holiday/2.jpg", "out/2.jpg"),
        job("holiday/10.png", "out/10.png"),
        job("holiday/day 2/ü.tif", "out/day 2/ü.tif"),
        job("scans/s1.png", "out/s1.png"),
    ]
    assert not Path("out").exists()  # a plan writes nothing


@pytest.mark.parametrize("out", ["b.png", "far/away/b.TIF", "b.avif"])
def test_one_picture_may_go_to_a_file(out: str) -> None:
    touch("a.png")
    assert plan(["a.png"], Path(out)) == Plan([job("a.png", out)], Path(out))


def test_a_folder_may_have_a_dot_in_its_name_if_it_is_there() -> None:
    touch("a.png")
    Path("v1.2").mkdir()
    Path("b.png").mkdir()
    for out in ("v1.2", "b.png"):
        assert jobs(plan(["a.png"], Path(out))) == [job("a.png", f"{out}/a.png")]


@pytest.mark.parametrize("out", ["b.gif", "new.folder"])
def test_a_file_of_a_format_that_is_not_written_is_an_error(out: str) -> None:
    touch("a.png")
    with pytest.raises(ImageError, match=rf"^{out}: name a file with one of \.png, .*, or a folder"):
        plan(["a.png"], Path(out))


def test_nothing_is_planned_of_nothing() -> None:
    assert plan([], Path("out")) == Plan([], Path("out"))


# ---- what is left alone, and what cannot be done


def test_results_of_an_earlier_run_are_no_sources_unless_they_are_asked_for() -> None:
    touch("a.png", "restored/a.png", "restored/sub/b.png")
    assert jobs(plan(["."], Path("restored"))) == [job("a.png", "restored/a.png")]
    again = plan(["restored"], Path("twice"))
    assert [one.sources[0].as_posix() for one in jobs(again)] == ["restored/a.png", "restored/sub/b.png"]


@pytest.mark.parametrize(
    ("path", "out"),
    [("in", "in"), ("in/a.png", "in"), ("in/a.png", "in/a.png"), ("in/a.png", "in/../in/a.png")],
)
def test_a_result_never_replaces_its_source(path: str, out: str) -> None:
    touch("in/a.png")
    planned = plan([path], Path(out))
    assert jobs(planned) == []
    (problem,) = problems(planned)
    assert problem.startswith(f"{Path('in/a.png')} would be replaced")
    assert "give another --out" in problem


@pytest.mark.parametrize("out", ["restored", "y.png"])
def test_two_sources_of_one_target_are_a_problem_that_names_all_three(out: str) -> None:
    touch("a/x.png", "b/x.png")
    planned = plan(["a", "b/x.png"], Path(out))
    target = out if out == "y.png" else Path("restored/x.png")
    first, second = Path("a/x.png"), Path("b/x.png")
    assert [one.sources for one in jobs(planned)] == [(first,)]
    assert problems(planned) == [f"{target} is taken by {first}: restore {second} apart"]


def test_a_picture_that_is_found_twice_is_one_job() -> None:
    touch("a/x.png")
    assert plan(["a", "a/x.png", "a/*"], Path("out")) == Plan([job("a/x.png", "out/x.png")], Path("out"))


def test_a_missing_picture_is_a_problem_and_the_others_are_jobs() -> None:
    touch("a.png", "empty/notes.txt")
    planned = plan(["missing.png", "a.png", "empty", "*.jpg"], Path("out"))
    assert jobs(planned) == [job("a.png", "out/a.png")]
    missing, empty, pattern = problems(planned)
    assert missing == "missing.png does not exist: check its name and folder"
    assert empty.startswith("empty gives no pictures")
    assert pattern.startswith("*.jpg gives no pictures")


# ---- what is passed over

OTHERS = [".heic", ".HEIC", ".txt", ".xmp", "", ".png~", ".mov"]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("views", [1, 2])
def test_every_file_of_a_folder_is_a_job_or_passed_over(seed: int, views: int) -> None:
    """Exactly once, whatever it is called and however often it is asked for; hidden files are not meant."""
    rng = np.random.default_rng(seed)
    for i in range(rng.integers(4, 20)):
        suffix = str(rng.choice([*READABLE, *OTHERS]))
        folder = str(rng.choice(["left", "left/a", "left/a/b", "right", "out", ".git"]))
        touch(f"{folder}/{rng.choice(['', '', '.'])}{i}{suffix}")
    touch("left/x.png", "right/x.jpg", "out/left/r.png", "out/left/notes.txt")
    paths = ["left", "right"] if views == 2 else [["left"], ["left", "left/*"], ["left/**"]][seed % 3]
    planned = plan(paths, Path("out"), views)
    there = {path for side in paths for path in Path(side.split("/")[0]).rglob("*") if path.is_file()}
    visible = {path for path in there if not any(part[0] == "." for part in path.parts)}
    alone = {Path(problem.partition(": ")[0]) for problem in problems(planned)}
    told = [*(source for one in jobs(planned) for source in one.sources), *planned.passed_over, *alone]
    assert len(told) == len(set(told))
    assert set(told) == visible
    assert all(path.suffix.lower() not in READABLE for path in planned.passed_over)
    assert planned.pending().passed_over == planned.passed_over


def test_a_folder_without_pictures_tells_what_it_has() -> None:
    touch("phone/1.heic", "phone/2.heic", "phone/3.mov")
    (problem,) = problems(plan(["phone"], Path("out")))
    assert problem.startswith("phone gives no pictures, only .heic (2) .mov: expected")


def test_masks_keep_what_is_passed_over() -> None:
    touch("in/a.png", "in/b.heic", "masks/a.png", "masks/c.txt")
    assert plan(["in"], Path("out")).with_masks(Path("masks")).passed_over == [Path("in/b.heic")]


@pytest.mark.parametrize(
    ("name", "result"),
    [("a.heic", "a.png"), ("a", "a.png"), ("a.NEF", "a.tif"), ("a.dng", "a.tif"), ("a.JPG", "a.JPG")],
)
def test_what_is_named_and_read_only_is_written_as_tiff_if_raw_else_as_png(name: str, result: str) -> None:
    touch(name)
    (planned,) = jobs(plan([name], Path("out")))
    assert planned == job(name, f"out/{result}")


def test_what_is_read_only_is_written_as_png() -> None:
    touch("in/a.gif", "in/b.jpg")
    planned = plan(["in"], Path("out"))
    assert jobs(planned) == [job("in/a.gif", "out/a.png"), job("in/b.jpg", "out/b.jpg")]
    touch("in/a.png")
    (problem,) = problems(plan(["in"], Path("out")))
    assert "out/a.png is taken by" in problem.replace("\\", "/")


# ---- names


@pytest.mark.parametrize("name", ["\u00e9t\u00e9", "\u00c5ngstr\u00f6m", "\ud55c\uae00", "\u304c", "\u1e69"])
@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_names_are_one_however_their_accents_are_stored(name: str, forms: tuple[str, str]) -> None:
    first, second = (unicodedata.normalize(form, name) for form in forms)
    touch(f"in/{first}/{first}.png", f"masks/{second}/{second}.tif", f"masks/{second}.tif")
    (one,) = jobs(plan(["in"], Path("out")).with_masks(Path("masks")))
    assert one.mask == Path(f"masks/{second}/{second}.tif")
    touch(f"L/{first}/{first}.png", f"R/{second}/{second}.png")
    planned = plan(["L", "R"], Path("out"), views=2)
    assert problems(planned) == []
    assert [one.sources for one in jobs(planned)] == [
        (Path(f"L/{first}/{first}.png"), Path(f"R/{second}/{second}.png"))
    ]


# ---- what is there already


def test_pending_are_jobs_whose_results_are_not_all_there() -> None:
    three = [
        job("a.png", "out/a.png"),
        Job((Path("l.png"), Path("r.png")), (Path("out/left/l.png"), Path("out/right/r.png"))),
        Job((Path("none.png"),), (), problem="none.png does not exist"),
    ]
    planned, skipped = Plan(three, Path("out")), list[Job]()
    pending = planned.pending(skipped.append)
    assert list(pending.jobs) == three
    touch("out/a.png", "out/left/l.png")
    assert [one.done for one in three] == [True, False, False]
    assert list(pending.jobs) == three[1:]  # as it is when it is asked
    touch("out/right/r.png")
    assert list(pending.jobs) == three[2:]
    assert skipped == [three[0], *three[:2]]


# ---- masks


EARLIER = Job((Path("none.png"),), (), problem="an earlier problem")


def masked(mask: str, sources: Iterable[str]) -> Plan:
    planned = Plan([EARLIER, *(job(source, f"out/{i}.png") for i, source in enumerate(sources))], Path("out"))
    made = planned.with_masks(Path(mask))
    assert set(masks(planned)) == {None}  # the plan itself is as it was
    assert problems(made)[0] == "an earlier problem"
    return made


@pytest.mark.parametrize("mask", ["m.png", "none.png"])
def test_a_mask_is_that_of_every_picture(mask: str) -> None:
    """Whether it can be read is seen when a job is done."""
    touch("m.png")
    made = masked(mask, ["a.png", "sub/b.jpg"])
    assert jobs(made) == [job("a.png", "out/0.png", mask), job("sub/b.jpg", "out/1.png", mask)]
    assert len(problems(made)) == 1


def test_a_folder_has_a_mask_of_the_name_of_each_picture() -> None:
    touch("masks/a.tif", "masks/b.png", "masks/unused.png")
    made = masked("masks", ["in/a.png", "in/c.png", "b.jpg"])
    assert jobs(made) == [
        job("in/a.png", "out/0.png", "masks/a.tif"),
        job("b.jpg", "out/2.png", "masks/b.png"),
    ]
    assert problems(made)[1:] == [f"{Path('in/c.png')}: no mask of its name in masks"]


def test_masks_of_equal_names_are_told_by_the_longest_path() -> None:
    touch("masks/a/1.png", "masks/b/1.png", "masks/1.png", "masks/deep/a/1.png")
    made = masked("masks", ["in/a/1.png", "in/b/1.png", "in/c/1.png", "deep/a/1.png"])
    found = [Path(f"masks/{name}.png") for name in ("a/1", "b/1", "1", "deep/a/1")]
    assert masks(made) == found


def test_guides_are_found_as_masks_are() -> None:
    touch("maps/a.tif", "maps/unused.png")
    made = Plan([job("in/a.png", "out/0.png"), job("in/b.png", "out/1.png")], Path("out")).with_guides(
        Path("maps")
    )
    assert [(one.guide, one.mask) for one in jobs(made)] == [(Path("maps/a.tif"), None)]
    (problem,) = problems(made)
    assert problem.startswith(f"{Path('in/b.png')}: no guide of its name")


def test_two_views_have_the_mask_of_the_left_one() -> None:
    touch("masks/l.png", "masks/r.png")
    views = Job((Path("l.png"), Path("r.png")), (Path("out/left/l.png"), Path("out/right/r.png")))
    assert masks(Plan([views], Path("out")).with_masks(Path("masks"))) == [Path("masks/l.png")]


def test_a_folder_without_masks_is_an_error() -> None:
    Path("masks").mkdir()
    with pytest.raises(ImageError, match=r"^masks gives no pictures"):
        Plan([job("a.png", "out/a.png")], Path("out")).with_masks(Path("masks"))
