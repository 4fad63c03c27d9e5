"""The commands for tasks that ask for more than a picture: holes, noise, lenses and two views."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch

import refusion
import test_cli
from refusion.checkpoint import save
from refusion.image import from_array, read, write
from refusion.recipe import Card, parse
from test_cli import Run, one_line, photo
from tiny import SMALLEST

here, run = test_cli.here, test_cli.run
NETWORK = SMALLEST["network"]
TASKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "denoising": {
        "process": {"kind": "denoising", "noise_level": "70/255"},
        "network": {**NETWORK, "conditional": False},
    },
    "bokeh": {"network": {**NETWORK, "conditions": 3}},
    "stereo": {
        "network": {**NETWORK, "stereo": True},
        "enlarge": {"factor": 2},
    },
}
LENSES = ("--source-lens", "Canon50mmf1.4BS", "--target-lens", "Sony50mmf16.0BS", "--disparity", "42.5")
CONDITION = (-14.0, 160.0, 42.5)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of each task; all change every picture."""
    folder = tmp_path_factory.mktemp("tasks")
    for name, values in TASKS.items():
        described = parse({**SMALLEST, "sampling": {"steps": 2}, **values}, name)
        restorer = described.build()
        torch.manual_seed(2)
        for parameter in restorer.network.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        save(folder / f"{name}.safetensors", restorer, described, Card())
    return folder


def loaded(models: Path, name: str) -> refusion.Restorer:
    return refusion.load(models / f"{name}.safetensors", "cpu")


def mask(path: str, height: int = 8, width: int = 10) -> np.ndarray:
    """Writes a mask, white where the left half is missing; returns where it is."""
    holes = np.zeros((height, width), np.float32)
    holes[:, : width // 2] = 1
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write(from_array(holes), Path(path))
    return holes > 0


def assert_written(path: str, expected: np.ndarray) -> None:
    np.testing.assert_allclose(read(path).pixels, expected, atol=0.51 / 255)


# ---- holes


def test_what_is_white_in_the_mask_is_filled_and_the_rest_is_kept(run: Run, models: Path) -> None:
    source, holes = read(photo("a.png")), mask("m.png")
    said = run("restore", "a.png", "--mask", "m.png", "--model", models / "plain.safetensors", "--seed", "3")
    assert said == (0, "restored 1 of 1 to restored\n", "")
    assert_written("restored/a.png", loaded(models, "plain").fill(source, holes * 1.0, seed=3).pixels)
    written = read("restored/a.png").pixels
    np.testing.assert_array_equal(written[~holes], source.pixels[~holes])
    assert np.abs(written - source.pixels)[holes].max() > 0.05


def test_a_folder_of_masks_has_one_for_each_picture(run: Run, models: Path) -> None:
    for i in range(3):
        photo(f"in/{i}.png", i)
    mask("masks/0.png")
    mask("masks/1.tif")
    said = run("restore", "in", "--mask", "masks", "--model", models / "plain.safetensors")
    assert said.out == "restored 2 of 3 to restored; 1 failed\n"
    one_line(said, f"{Path('in/2.png')}: no mask of its name in masks")
    for i in range(2):
        kept = np.abs(read(f"restored/{i}.png").pixels - read(f"in/{i}.png").pixels)[:, 5:]
        assert kept.max() == 0


def test_masks_of_equal_names_are_told_by_their_folders(run: Run, models: Path) -> None:
    for i, folder in enumerate("ab"):
        photo(f"in/{folder}/1.png", i)
        mask(f"masks/{folder}/1.png")
    upper = np.zeros((8, 10), np.float32)
    upper[:4] = 1
    write(from_array(upper), Path("masks/b/1.png"))
    said = run("restore", "in", "--mask", "masks", "--model", models / "plain.safetensors")
    assert said.out == "restored 2 of 2 to restored\n"
    changed = np.abs(read("restored/b/1.png").pixels - read("in/b/1.png").pixels).max(-1) > 0
    assert changed[:4].any()
    assert not changed[4:].any()


def test_what_is_painted_over_with_a_colour_is_filled(run: Run, models: Path) -> None:
    painted = read(photo("a.png")).pixels.copy()
    painted[2:5, 3:7] = (1, 0, 1)
    write(from_array(painted), Path("a.png"))
    words = ("--hole-colour", "#ff00ff", "--model", models / "plain.safetensors")
    assert run("restore", "a.png", *words) == (0, "restored 1 of 1 to restored\n", "")
    holes = np.zeros((8, 10), np.float32)
    holes[1:6, 2:8] = 1  # one pixel wider
    assert_written("restored/a.png", loaded(models, "plain").fill(painted, holes).pixels)


def test_a_bad_mask_is_a_line_and_the_other_pictures_are_filled(run: Run, models: Path) -> None:
    for name in ("broken", "fine", "larger"):
        photo(f"in/{name}.png")
        mask(f"masks/{name}.png", height=9 if name == "larger" else 8)
    Path("masks/broken.png").write_bytes(b"no picture")
    said = run("restore", "in", "--mask", "masks", "--model", models / "plain.safetensors")
    assert (said.status, said.out) == (1, "restored 1 of 3 to restored; 2 failed\n")
    broken, larger = said.err.splitlines()
    assert "broken.png is not a picture" in broken
    assert "10x9 and 10x8: give a mask of the picture's size" in larger
    assert [path.name for path in Path("restored").iterdir()] == ["fine.png"]


# ---- noise


@pytest.mark.parametrize(("written", "sigma"), [("25/255", 25 / 255), ("0.1", 0.1), ("0", 0.0), (None, None)])
def test_sigma_is_a_number_a_fraction_or_estimated(
    run: Run, models: Path, written: str | None, sigma: float | None
) -> None:
    source = read(photo("a.png"))
    words = ("--sigma", written) if written else ()
    said = run("restore", "a.png", "--model", models / "denoising.safetensors", *words)
    assert said.status == 0
    assert_written("restored/a.png", loaded(models, "denoising")(source, sigma=sigma).pixels)
    assert ("refusion: a.png: noise of " in said.err) == (written is None)


def test_a_noisier_picture_than_the_model_knows_does_not_stop_the_others(run: Run, models: Path) -> None:
    board = np.indices((8, 10)).sum(0) % 2 * 1.0
    write(from_array(board), photo("in/a.png"))
    photo("in/b.png")
    said = run("restore", "in", "--model", models / "denoising.safetensors")
    assert (said.status, said.out) == (0, "restored 2 of 2 to restored\n")
    assert (
        said.err.splitlines()[0]
        == "refusion: in/a.png: noise of 378.1/255: this model takes off at most 70.0/255"
    )


def test_evaluating_takes_sigma_too(run: Run, models: Path) -> None:
    test_cli.make_pairs("pairs", 2)
    model = models / "denoising.safetensors"
    said = run("evaluate", "pairs", "--model", model, "--sigma", "25/255", "--save", "out")
    assert said.status == 0
    expected = loaded(models, "denoising")(read("pairs/lq/1.png"), sigma=25 / 255)
    assert_written("out/1.png", expected.pixels)


# ---- lenses


def test_lenses_and_disparity_are_told(run: Run, models: Path) -> None:
    source = read(photo("a.png"))
    assert run("restore", "a.png", "--model", models / "bokeh.safetensors", *LENSES).status == 0
    expected = loaded(models, "bokeh")(source, condition=CONDITION).pixels
    assert_written("restored/a.png", expected)
    other = loaded(models, "bokeh")(source, condition=(160.0, -14.0, 42.5)).pixels
    assert np.abs(expected - other).max() > 0.01


def test_samples_and_trajectories_are_told_of_lenses(run: Run, models: Path) -> None:
    source, words = read(photo("a.png")), ("--model", models / "bokeh.safetensors", *LENSES)
    assert run("restore", "a.png", "-o", "mean.png", "--samples", 2, *words).status == 0
    assert_written("mean.png", loaded(models, "bokeh").samples(source, 2, condition=CONDITION).mean.pixels)
    assert run("restore", "a.png", "-o", "last.png", "--trajectory", "t.gif", *words).status == 0
    assert_written("last.png", loaded(models, "bokeh")(source, condition=CONDITION).pixels)


# ---- two views


def views(left: str, right: str, height: int = 12, width: int = 20) -> None:
    texture = skimage.data.astronaut()[100 : 100 + height, 100 : 102 + width] / 255
    for path, picture in ((left, texture[:, :-2]), (right, texture[:, 2:])):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write(from_array(picture), Path(path))


def test_two_files_are_restored_together(run: Run, models: Path) -> None:
    views("l.png", "r.tif")
    said = run("restore", "l.png", "r.tif", "-o", "out", "--model", models / "stereo.safetensors")
    assert said == (0, "restored 1 of 1 to out\n", "")
    expected = loaded(models, "stereo").views([read("l.png"), read("r.tif")])
    for path, view in zip(("out/left/l.png", "out/right/r.tif"), expected, strict=True):
        assert view.size == (40, 24)
        assert_written(path, view.pixels)


def test_two_folders_are_restored_by_name(run: Run, models: Path) -> None:
    for name in ("a", "day/b"):
        views(f"L/{name}.png", f"R/{name}.png")
    words = ("restore", "L", "R", "--model", models / "stereo.safetensors")
    assert run(*words) == (0, "restored 2 of 2 to restored\n", "")
    found = sorted(path.relative_to("restored").as_posix() for path in Path("restored").rglob("*.png"))
    assert found == ["left/a.png", "left/day/b.png", "right/a.png", "right/day/b.png"]
    again = run(*words)
    assert again.out == "restored 0 of 2 to restored; 2 were there already (--overwrite redoes them)\n"
    Path("restored/right/a.png").unlink()
    assert run(*words).out.startswith("restored 1 of 2 to restored; 1 were there")
    assert Path("restored/right/a.png").exists()


def test_a_view_without_the_other_is_named_and_the_rest_restored(run: Run, models: Path) -> None:
    views("L/a.png", "R/a.png")
    views("L/alone.png", "unused.png")
    said = run("restore", "L", "R", "--model", models / "stereo.safetensors")
    assert said.out == "restored 1 of 2 to restored; 1 failed\n"
    one_line(said, f"{Path('L/alone.png')}: no picture of the other view has its name")


def test_views_of_two_sizes_are_named_and_the_rest_restored(run: Run, models: Path) -> None:
    views("L/a.png", "unused.png", width=18)
    views("unused.png", "R/a.png")
    views("L/b.png", "R/b.png")
    said = run("restore", "L", "R", "--model", models / "stereo.safetensors")
    assert said.out == "restored 1 of 2 to restored; 1 failed\n"
    one_line(said, str(Path("L/a.png")), "18x12 and 20x12", "give views of one size")


def test_views_that_are_not_rectified_are_restored_and_said(run: Run, models: Path) -> None:
    texture = skimage.data.astronaut()[100:180, 100:200] / 255
    write(from_array(texture[:-3]), Path("l.png"))
    write(from_array(texture[3:]), Path("r.png"))
    said = run("restore", "l.png", "r.png", "--model", models / "stereo.safetensors")
    one_line(said, "pixels lower than left: rectify them", status=0)


# ---- doctor


def test_doctor_makes_what_a_recipe_makes(run: Run) -> None:
    for i in range(2):
        photo(f"clean/{i}.png", i, height=9)
    Path("r.yaml").write_text(
        parse(
            {
                **SMALLEST,
                "enlarge": {"factor": 2},
                "data": {"degradation": {"name": "Downscale", "factor": 2}},
            },
            "test",
        ).to_yaml()
    )
    said = run("doctor", "clean", "--recipe", "r.yaml", "--sheet", "sheet.png")
    assert said == (0, "clean: 2 pairs, degraded by Downscale: 2 of 5x4\nsheet.png\n", "")
    assert Path("sheet.png").exists()
    without = run("doctor", "clean")
    assert without.status == 1
    assert without.out.startswith("clean: 0 pairs")


# ---- errors


@pytest.mark.parametrize(
    ("name", "words", "parts"),
    [
        ("plain", "--mask m.png --hole-colour #ff00ff", ["--mask and --hole-colour"]),
        ("plain", "--mask m.png --samples 2", ["--samples", "--mask", "do not go together"]),
        (
            "plain",
            "--hole-colour #ff00ff --trajectory t.gif",
            ["--trajectory", "--hole-colour", "do not go together"],
        ),
        ("plain", "--hole-colour pink", ["'pink'", "six hexadecimal digits"]),
        ("plain", "--hole-colour #ff00f", ["'#ff00f'"]),
        ("plain", "--mask none.png", ["none.png does not exist"]),
        ("plain", "--sigma 25/255", ["sigma is 0.098", "only models of Gaussian denoising"]),
        ("denoising", "--sigma 25", ["sigma is 25", "25/255"]),
        ("denoising", "--sigma 70/255", ["sigma is 0.2745", "from 0 to below"]),
        ("denoising", "--sigma=-0.1", ["sigma is -0.1"]),
        ("denoising", "--sigma much", ["sigma is 'much'", "25/255"]),
        ("denoising", "--sigma 1/0", ["sigma is '1/0'"]),
        ("denoising", "--sigma 1e999", ["sigma is '1e999'"]),
        ("denoising", "--sigma=", ["sigma is ''"]),
        ("denoising", "--sigma nan", ["sigma is 'nan'"]),
        ("plain", " ".join(LENSES), ["takes no lens: leave out --source-lens"]),
        ("bokeh", "", ["needs --source-lens, --target-lens and --disparity"]),
        ("bokeh", " ".join(LENSES[:4]), ["--source-lens, --target-lens and --disparity together"]),
        ("bokeh", " ".join(LENSES[2:]), ["--source-lens, --target-lens and --disparity together"]),
        ("bokeh", " ".join(LENSES).replace("Canon", "Nikon"), ['"Nikon50mmf1.4BS"', "Canon50mmf1.4BS or"]),
        ("bokeh", " ".join(LENSES).replace("16.0BS", "16"), ['"Sony50mmf16"']),
        ("bokeh", " ".join(LENSES).replace("42.5", "nan"), ["disparity is nan"]),
        ("bokeh", " ".join(LENSES).replace(" 42.5", "=-1"), ["disparity is -1"]),
        ("stereo", "", ["1 paths: this model takes two"]),
        ("stereo", "b.png c.png", ["3 paths: this model takes two"]),
        ("stereo", "b.png -o b.tif", ["b.tif: two views are written"]),
        ("stereo", "b.png --mask m.png", ["--mask"]),
        ("stereo", "b.png --samples 2", ["--samples", "stereo"]),
        ("stereo", "b.png --trajectory t.gif", ["--trajectory"]),
        ("stereo", "none.png", ["none.png does not exist"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_are_one_line(run: Run, models: Path, name: str, words: str, parts: list[str]) -> None:
    for path in ("a.png", "b.png", "c.png"):
        photo(path)
    mask("m.png")
    said = run("restore", "a.png", *words.split(), "--model", models / f"{name}.safetensors")
    if name == "stereo" and "none.png" in words:
        assert said.err.count("\n") == 2  # also that a.png is alone
        assert "none.png does not exist" in said.err
        assert said.status == 1
    else:
        one_line(said, *parts)
    assert not list(Path("restored").rglob("*.*"))


@pytest.mark.parametrize(
    ("words", "part"),
    [("--disparity far", '"far"'), ("--sorce-lens x", "--source-lens"), ("--hole-color x", "--hole-colour")],
)
def test_a_typing_error_is_one_line(run: Run, words: str, part: str) -> None:
    one_line(run("restore", "a.png", *words.split()), part, status=2)
