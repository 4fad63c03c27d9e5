"""`restore` and `diffuse`: what is restored to where, whatever is asked for besides."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import skimage.data
from terminal import assert_written, loaded, mask, one_line, photo, save_model, views

import refusion
from command import Run
from refusion.cli.restoring import GIF_FRAMES, GIF_SIDE
from refusion.imaging.arrays import from_array
from refusion.imaging.formats import read, write

LENSES = ("--source-lens", "Canon50mmf1.4BS", "--target-lens", "Sony50mmf16.0BS", "--disparity", "42.5")
CONDITION = (-14.0, 160.0, 42.5)


# ---- files, folders and patterns


def test_a_summary_names_the_model_and_what_was_passed_over(run: Run, model: Path) -> None:
    photo("in/a.png")
    for name in ("b.heic", "c.HEIC", "d.txt", ".hidden.bmp"):
        Path("in", name).write_bytes(b"not read")
    said = run("restore", "in", "--model", model)
    assert said.out == "restored 1 of 1 to restored; 3 passed over: .heic (2) .txt\n"
    assert (said.status, said.err) == (0, "")


def test_files_folders_and_patterns_are_restored(run: Run, model: Path) -> None:
    photo("one.png")
    photo("holiday/a.jpg", 1)
    photo("holiday/day 2/ü.tif", 2)
    photo("scans/s1.png", 3)
    photo("scans/s2.webp", 4)
    said = run("restore", "one.png", "holiday", "scans/*.png", "--model", model)
    assert said == (0, "restored 4 of 4 to restored\n", "")
    results = sorted(str(p.relative_to("restored")) for p in Path("restored").rglob("*") if p.is_file())
    assert results == ["a.jpg", str(Path("day 2/ü.tif")), "one.png", "s1.png"]
    expected = refusion.load(model, "cpu")(read("one.png")).pixels
    np.testing.assert_allclose(read("restored/one.png").pixels, expected, atol=0.51 / 255)
    assert np.abs(expected - read("one.png").pixels).max() > 0.05


def test_options_reach_the_sampler(run: Run, model: Path) -> None:
    photo("a.png")
    said = run(
        "restore",
        "a.png",
        "-o",
        "b.tif",
        "--model",
        model,
        "--steps",
        "3",
        "--sampler",
        "ode-2",
        "--seed",
        "4",
    )
    assert said.status == 0
    expected = refusion.load(model, "cpu")(read("a.png"), steps=3, sampler="ode-2", seed=4).pixels
    np.testing.assert_allclose(read("b.tif").pixels, expected, atol=0.51 / 255)


def test_bad_files_are_a_line_each_and_the_others_are_restored(run: Run, model: Path) -> None:
    good = [photo("in/a.png"), photo("in/z.jpg")]
    hostile = {
        "cut.png": good[0].read_bytes()[:60],
        "empty.jpg": b"",
        "page.png": b"<html>404</html>",
        "noise.tif": np.random.default_rng(0).bytes(500),
        "cut.jpg": good[1].read_bytes()[:200],
    }
    for name, content in hostile.items():
        Path("in", name).write_bytes(content)
    Path("in/notes.txt").write_text("not meant")
    Path("in/.hidden.png").write_bytes(b"")
    said = run("restore", "in", "--model", model)
    assert said.status == 1
    assert said.out == "restored 2 of 7 to restored; 5 failed; 1 passed over: .txt\n"
    lines = said.err.splitlines()
    assert len(lines) == 5
    for name in hostile:
        assert sum(name in line for line in lines) == 1, name
    assert all(line.startswith("refusion: ") for line in lines)
    assert sorted(p.name for p in Path("restored").iterdir()) == ["a.png", "z.jpg"]


def test_a_second_run_skips_what_is_done(run: Run, model: Path) -> None:
    photo("in/a.png")
    photo("in/b.png")
    run("restore", "in", "--model", model)
    first = Path("restored/a.png").read_bytes()
    Path("restored/a.png").write_bytes(b"mine")
    Path("restored/b.png").unlink()
    said = run("restore", "in", "--model", model)
    assert said.out == "restored 1 of 2 to restored; 1 were there already (--overwrite redoes them)\n"
    assert said.status == 0
    assert Path("restored/a.png").read_bytes() == b"mine"
    assert run("restore", "in", "--model", model, "--overwrite").out == "restored 2 of 2 to restored\n"
    assert Path("restored/a.png").read_bytes() == first


def test_a_result_inside_its_own_folder_is_no_source(run: Run, model: Path) -> None:
    photo("a.png")
    for _ in range(2):
        assert run("restore", ".", "--model", model).status == 0
        assert [str(p) for p in Path("restored").rglob("*.png")] == [str(Path("restored/a.png"))]


def test_a_result_never_replaces_its_source(run: Run, model: Path) -> None:
    before = photo("in/a.png").read_bytes()
    one_line(
        run("restore", "in", "-o", "in", "--model", model), "a.png would be replaced", "give another --out"
    )
    one_line(run("restore", "in/a.png", "-o", "in/../in/a.png", "--model", model), "would be replaced")
    assert Path("in/a.png").read_bytes() == before


def test_two_sources_of_one_name_are_an_error(run: Run, model: Path) -> None:
    photo("a/x.png")
    photo("b/x.png", 1)
    said = run("restore", "a", "b", "--model", model)
    assert (said.status, said.out) == (1, "restored 1 of 2 to restored; 1 failed\n")
    taken, first, second = (Path(p) for p in ("restored/x.png", "a/x.png", "b/x.png"))
    assert said.err == f"refusion: {taken} is taken by {first}: restore {second} apart\n"
    assert "y.png is taken by" in run("restore", "a", "b/x.png", "-o", "y.png", "--model", model).err
    again = run("restore", "a", "a/x.png", "-o", "twice", "--model", model)
    assert again.out == "restored 1 of 1 to twice\n"


def test_a_missing_picture_does_not_stop_the_others(run: Run, model: Path) -> None:
    photo("a.png")
    said = run("restore", "missing.png", "a.png", "--model", model)
    assert (said.status, said.out) == (1, "restored 1 of 2 to restored; 1 failed\n")
    assert said.err == "refusion: missing.png does not exist: check its name and folder\n"
    assert Path("restored/a.png").exists()


def test_samples_give_their_mean_and_uncertainty(run: Run, model: Path) -> None:
    photo("in/a.png")
    assert run("restore", "in", "--model", model, "--samples", "3", "--uncertainty").status == 0
    restorer = refusion.load(model, "cpu")
    drawn = restorer.run(restorer.request("in/a.png", samples=3))
    assert_written("restored/a.png", drawn.image.pixels)
    shown = read("restored/a-uncertainty.png")
    assert shown.grey
    np.testing.assert_allclose(shown.pixels[..., 0], (10 * drawn.stds[0]).clip(0, 1), atol=0.51 / 255)
    one_line(run("restore", "in", "-o", "b", "--model", model, "--uncertainty"), "needs --samples")


def test_a_trajectory_is_an_animation(run: Run, model: Path) -> None:
    photo("a.png")
    said = run("restore", "a.png", "-o", "b.png", "--model", model, "--steps", "4", "--trajectory", "t.gif")
    assert said.status == 0
    with PIL.Image.open("t.gif") as film:
        assert (film.n_frames, film.size) == (5, (10, 8))
    photo("c.png")
    one_line(run("restore", "a.png", "c.png", "--model", model, "--trajectory", "t.gif"), "a single picture")
    said = run("restore", "c.png", "--model", model, "--trajectory", "t.mp4")
    assert said.status == 1
    assert "name an animation .gif" in said.err


def test_nothing_changed_is_said(run: Run, here: Path) -> None:
    idle = save_model(here / "idle.safetensors", 0.0)
    photo("a.png")
    said = run("restore", "a.png", "--model", idle)
    one_line(said, "a.png: nothing changed", status=0)
    assert Path("restored/a.png").exists()


# ---- holes


def test_what_is_white_in_the_mask_is_filled_and_the_rest_is_kept(run: Run, models: Path) -> None:
    source, holes = read(photo("a.png")), mask("m.png")
    said = run("restore", "a.png", "--mask", "m.png", "--model", models / "plain.safetensors", "--seed", "3")
    assert said == (0, "restored 1 of 1 to restored\n", "")
    assert_written("restored/a.png", loaded(models, "plain")(source, mask=holes * 1.0, seed=3).pixels)
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
    assert_written("restored/a.png", loaded(models, "plain")(painted, mask=holes).pixels)


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


def test_samples_of_what_is_missing_give_their_mean_and_uncertainty(run: Run, models: Path) -> None:
    source, holes = read(photo("a.png")), mask("m.png")
    words = ("--mask", "m.png", "--samples", 3, "--uncertainty", "--model", models / "plain.safetensors")
    assert run("restore", "a.png", *words) == (0, "restored 1 of 1 to restored\n", "")
    plain = loaded(models, "plain")
    drawn = plain.run(plain.request(source, mask=holes * 1.0, samples=3))
    assert_written("restored/a.png", drawn.image.pixels)
    shown = read("restored/a-uncertainty.png").pixels[..., 0]
    np.testing.assert_allclose(shown, (10 * drawn.stds[0]).clip(0, 1), atol=0.51 / 255)
    assert shown[~holes].max() == 0
    assert shown[holes].max() > 0.05


def test_a_trajectory_of_what_is_missing_keeps_the_rest(run: Run, models: Path) -> None:
    painted = read(photo("a.png")).pixels.copy()
    painted[2:5, 3:7] = (1, 0, 1)
    write(from_array(painted), Path("a.png"))
    words = ("--hole-colour", "#ff00ff", "--trajectory", "t.gif", "--model", models / "plain.safetensors")
    assert run("restore", "a.png", "-o", "b.png", *words) == (0, "restored 1 of 1 to b.png\n", "")
    kept = np.ones((8, 10), bool)
    kept[1:6, 2:8] = False
    np.testing.assert_array_equal(read("b.png").pixels[kept], read("a.png").pixels[kept])
    with PIL.Image.open("t.gif") as film:
        assert (film.n_frames, film.size) == (3, (10, 8))


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


# ---- lenses


def test_lenses_and_disparity_are_told(run: Run, models: Path) -> None:
    source = read(photo("a.png"))
    assert run("restore", "a.png", "--model", models / "bokeh.safetensors", *LENSES).status == 0
    expected = loaded(models, "bokeh")(source, condition=CONDITION).pixels
    assert_written("restored/a.png", expected)
    other = loaded(models, "bokeh")(source, condition=(160.0, -14.0, 42.5)).pixels
    assert np.abs(expected - other).max() > 0.01


def test_samples_and_trajectories_are_told_of_lenses(run: Run, models: Path) -> None:
    source, words = photo("a.png"), ("--model", models / "bokeh.safetensors", *LENSES)
    bokeh = loaded(models, "bokeh")
    assert run("restore", "a.png", "-o", "mean.png", "--samples", 2, *words).status == 0
    drawn = bokeh.run(bokeh.request(source, samples=2, condition=CONDITION))
    assert_written("mean.png", drawn.image.pixels)
    assert run("restore", "a.png", "-o", "last.png", "--trajectory", "t.gif", *words).status == 0
    assert_written("last.png", bokeh(source, condition=CONDITION).pixels)


# ---- two views


def test_two_files_are_restored_together(run: Run, models: Path) -> None:
    views("l.png", "r.tif")
    said = run("restore", "l.png", "r.tif", "-o", "out", "--model", models / "stereo.safetensors")
    assert said == (0, "restored 1 of 1 to out\n", "")
    expected = loaded(models, "stereo").restore_views([read("l.png"), read("r.tif")])
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


def test_samples_of_two_views_give_their_means_and_uncertainties(run: Run, models: Path) -> None:
    views("L/a.png", "R/a.png")
    words = ("--samples", 2, "--uncertainty", "--seed", 5, "--model", models / "stereo.safetensors")
    assert run("restore", "L", "R", *words) == (0, "restored 1 of 1 to restored\n", "")
    stereo = loaded(models, "stereo")
    drawn = stereo.run(stereo.request("L/a.png", "R/a.png", samples=2, seed=5))
    for side, image, std in zip(("left", "right"), drawn.images, drawn.stds, strict=True):
        assert_written(f"restored/{side}/a.png", image.pixels)
        shown = read(f"restored/{side}/a-uncertainty.png").pixels[..., 0]
        np.testing.assert_allclose(shown, (10 * std).clip(0, 1), atol=0.51 / 255)


def test_what_is_white_in_the_mask_is_filled_in_both_views(run: Run, models: Path) -> None:
    views("l.png", "r.png", height=8, width=10)
    holes = mask("m.png")
    words = ("--mask", "m.png", "--model", models / "views.safetensors")
    assert run("restore", "l.png", "r.png", *words) == (0, "restored 1 of 1 to restored\n", "")
    expected = loaded(models, "views").restore_views(["l.png", "r.png"], mask=holes * 1.0)
    for path, source, view in zip(("left/l.png", "right/r.png"), ("l.png", "r.png"), expected, strict=True):
        assert_written(f"restored/{path}", view.pixels)
        written = read(f"restored/{path}").pixels
        np.testing.assert_array_equal(written[~holes], read(source).pixels[~holes])


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


# ---- the forward process


def test_diffusing_is_an_animation_or_a_folder(run: Run) -> None:
    photo("gt.png", 0)
    photo("lq.png", 1)
    assert run("diffuse", "gt.png", "lq.png", "--steps", "6") == (0, "diffuse.gif\n", "")
    with PIL.Image.open("diffuse.gif") as film:
        assert film.n_frames == 7
    for noise, name in (((), "noisy"), (("--mean",), "mean")):
        assert run("diffuse", "gt.png", "lq.png", "-o", name, "--steps", "3", *noise).status == 0
        assert sorted(p.name for p in Path(name).iterdir()) == [f"{t:04}.png" for t in range(4)]
        np.testing.assert_array_equal(read(f"{name}/0000.png").pixels, read("gt.png").pixels)
    ends = [np.abs(read(f"{n}/0003.png").pixels - read("lq.png").pixels).mean() for n in ("noisy", "mean")]
    assert ends[0] > 0.1
    assert ends[1] < 0.01


@pytest.mark.parametrize(
    ("size", "words", "count", "expected"),
    [
        ((64, 48), (), 25, (64, 48)),
        ((64, 48), ("--side", 32, "--frames", 5), 5, (32, 24)),
        ((500, 10), ("--steps", 3), 4, (480, 10)),
        ((500, 10), ("--steps", 3, "--side", 900, "--frames", 2), 2, (500, 10)),
        pytest.param((640, 640), (), 25, (480, 480), marks=pytest.mark.slow),
    ],
)
def test_an_animation_has_less_than_ten_megabytes_unless_asked_for_more(
    run: Run, size: tuple[int, int], words: tuple[object, ...], count: int, expected: tuple[int, int]
) -> None:
    """Noise is the film that takes most: its bytes for each pixel, times the pixels of the largest one."""
    for i, name in enumerate(("gt.png", "lq.png")):
        write(from_array(np.random.default_rng(i).uniform(0, 1, (*size[::-1], 3))), Path(name))
    assert run("diffuse", "gt.png", "lq.png", *words).status == 0
    with PIL.Image.open("diffuse.gif") as film:
        assert (film.n_frames, film.size) == (count, expected)
    palettes = count * 1000
    each = (Path("diffuse.gif").stat().st_size - palettes) / (count * expected[0] * expected[1])
    assert each * GIF_FRAMES * GIF_SIDE**2 + GIF_FRAMES * 1000 < 10e6


def test_single_pictures_are_as_many_and_as_large_as_asked_for(run: Run) -> None:
    for name in ("gt.png", "lq.png"):
        photo(name, height=16, width=20)
    assert (
        run("diffuse", "gt.png", "lq.png", "-o", "few", "--steps", 10, "--frames", 3, "--side", 10).status
        == 0
    )
    assert sorted(path.name for path in Path("few").iterdir()) == ["0000.png", "0005.png", "0010.png"]
    assert {read(path).size for path in Path("few").iterdir()} == {(10, 8)}
    for option in ("--frames", "--side"):
        one_line(run("diffuse", "gt.png", "lq.png", option, 1), f"{option[2:]} is 1: give at least 2")


# ---- errors


@pytest.mark.parametrize(
    ("name", "words", "parts"),
    [
        ("plain", "--mask m.png --hole-colour #ff00ff", ["--mask and --hole-colour"]),
        ("plain", "--samples 2 --trajectory t.gif", ["--trajectory", "a single sample"]),
        ("plain", "--mask m.png --samples 2 --trajectory t.gif", ["--trajectory", "a single sample"]),
        ("plain", "--hole-colour pink", ["'pink'", "six hexadecimal digits"]),
        ("plain", "--hole-colour #ff00f", ["'#ff00f'"]),
        ("plain", "--mask none.png", ["none.png does not exist"]),
        ("plain", "--sigma 25/255", ["sigma is 0.098", "only models of Gaussian denoising"]),
        ("denoising", "--sigma 25", ["sigma is 25", "25/255"]),
        ("denoising", "--sigma 70/255", ["sigma is 0.2745", "[0, λ)", "70/255"]),
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
        ("stereo", "b.png --mask m.png", ["mask", "enlarges 2 times", "one of inpainting"]),
        ("stereo", "b.png --trajectory t.gif", ["trajectory", "a single picture"]),
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


def test_onnx_computes_in_float32_only(run: Run, model: Path) -> None:
    photo("a.png")
    said = run("restore", "a.png", "--model", str(model), "--backend", "onnx", "--precision", "bf16")
    one_line(said, "precision", "onnx")
