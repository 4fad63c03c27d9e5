"""Which files are the two views of a scene, and where their restorations go."""

from pathlib import Path

import numpy as np
import pytest

from refusion.errors import ImageError
from refusion.imaging.arrays import from_array
from refusion.imaging.formats import write
from refusion.jobs.plan import Job, Plan, plan


def photos(folder: Path, *names: str) -> Path:
    for name in names:
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        write(from_array(np.full((2, 2, 3), 0.5)), place)
    return folder


def jobs(planned: Plan) -> list[Job]:
    return [one for one in planned.jobs if not one.problem]


def problems(planned: Plan) -> list[str]:
    return [one.problem for one in planned.jobs if one.problem]


def test_two_files_are_one_scene_whatever_their_names(tmp_path: Path) -> None:
    photos(tmp_path, "l.png", "r.jpg")
    l_in, r_in, out = tmp_path / "l.png", tmp_path / "r.jpg", tmp_path / "out"
    made = plan([str(l_in), str(r_in)], out, views=2)
    assert problems(made) == []
    assert jobs(made) == [Job((l_in, r_in), (out / "left" / "l.png", out / "right" / "r.jpg"))]


def test_two_folders_are_paired_by_name_and_keep_their_structure(tmp_path: Path) -> None:
    a, b, out = (
        photos(tmp_path / "a", "1.png", "day/2.png"),
        photos(tmp_path / "b", "1.jpg", "day/2.png"),
        tmp_path / "out",
    )
    made = plan([str(a), str(b)], out, views=2)
    assert problems(made) == []
    assert jobs(made) == [
        Job((a / "1.png", b / "1.jpg"), (out / "left" / "1.png", out / "right" / "1.jpg")),
        Job((a / "day/2.png", b / "day/2.png"), (out / "left/day/2.png", out / "right/day/2.png")),
    ]


@pytest.mark.parametrize("also", [("both.png",), ()])
def test_a_view_without_the_other_is_a_problem_that_names_it(tmp_path: Path, also: tuple[str, ...]) -> None:
    a, b = photos(tmp_path / "a", "x.png", *also), photos(tmp_path / "b", "y.png", *also)
    made = plan([str(a), str(b)], tmp_path / "out", views=2)
    assert [job.sources for job in jobs(made)] == [(a / name, b / name) for name in also]
    assert problems(made) == [
        f"{path}: no picture of the other view has its name" for path in (a / "x.png", b / "y.png")
    ]


def test_two_files_of_one_stem_are_a_problem_that_names_both(tmp_path: Path) -> None:
    a, b = photos(tmp_path / "a", "x.jpg", "x.png"), photos(tmp_path / "b", "x.png")
    made = plan([str(a), str(b)], tmp_path / "out", views=2)
    assert [job.sources for job in jobs(made)] == [(a / "x.jpg", b / "x.png")]
    assert problems(made) == [f"{a / 'x.png'}: same stem as x.jpg; rename one of them"]


def test_a_missing_file_is_one_problem(tmp_path: Path) -> None:
    photos(tmp_path, "l.png")
    made = plan([str(tmp_path / "l.png"), str(tmp_path / "r.png")], tmp_path / "out", views=2)
    assert jobs(made) == []
    assert len(problems(made)) == 2
    assert "r.png does not exist" in problems(made)[0]
    assert "l.png: no picture of the other view" in problems(made)[1]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_another_number_of_paths_is_an_error(tmp_path: Path, count: int) -> None:
    with pytest.raises(ImageError, match=f"^{count} paths: this model takes two"):
        plan(["a.png"] * count, tmp_path, views=2)


def test_two_views_do_not_go_to_one_file(tmp_path: Path) -> None:
    photos(tmp_path, "l.png", "r.png")
    with pytest.raises(ImageError, match=r"out\.png: two views are written"):
        plan([str(tmp_path / "l.png"), str(tmp_path / "r.png")], tmp_path / "out.png", views=2)


def test_results_of_an_earlier_run_are_no_sources(tmp_path: Path) -> None:
    for side in ("left", "right"):
        photos(tmp_path / side, "a.png")
    made = plan([str(tmp_path / "left"), str(tmp_path / "right")], tmp_path, views=2)
    assert jobs(made) == []
    assert all("would be replaced by its restoration" in problem for problem in problems(made))
