"""Every scene ends in an outcome, and none stops the others."""

import errno
import os
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import IO, Any

import numpy as np
import PIL.Image
import pytest
import pyvips
from PIL import ImageCms

from refusion.diffusion.sde import MeanRevertingSDE
from refusion.errors import Cancelled
from refusion.imaging.arrays import from_array
from refusion.imaging.formats import read, write
from refusion.imaging.image import Image
from refusion.imaging.metadata import Metadata
from refusion.imaging.resize import Enlarge
from refusion.jobs import stages
from refusion.jobs.plan import Job, plan
from refusion.jobs.run import Outcome, Output, run
from refusion.restoring import admission
from refusion.restoring.request import Progress, Sampling
from refusion.restoring.restorer import Restorer
from restorers import TILED, ask, said, small_restorer

STEPS = 2
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in a folder of its own, in which it names files."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def restorer(sde: MeanRevertingSDE) -> Restorer:
    """Changes every pixel."""
    return small_restorer(sde, sampling=Sampling(steps=STEPS))


@pytest.fixture(scope="module")
def stereo(sde: MeanRevertingSDE) -> Restorer:
    """Sees two views, and doubles them."""
    return small_restorer(sde, enlarge=Enlarge(2), sampling=Sampling(steps=STEPS), stereo=True)


def photo(name: str, seed: int = 0, height: int = 8, width: int = 10) -> Path:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    write(from_array(np.random.default_rng(seed).uniform(0.2, 0.8, (height, width, 3))), name)
    return Path(name)


def photos(count: int) -> list[Job]:
    for i in range(count):
        photo(f"in/{i}.png", i)
    return plan(["in"], Path("out")).jobs


def files() -> list[str]:
    """All there are, hidden ones too, but sources."""
    found = (path for path in Path().rglob("*") if path.is_file() and path.parts[0] != "in")
    return sorted(path.as_posix() for path in found)


def assert_written(path: Path, expected: np.ndarray) -> None:
    np.testing.assert_allclose(read(path).pixels, expected, atol=0.51 / 65535)


def statuses(outcomes: Iterable[Outcome]) -> list[str]:
    return [outcome.status for outcome in outcomes]


# ---- outcomes


def test_every_job_has_one_outcome_in_order(restorer: Restorer) -> None:
    jobs = photos(3)
    began = time.perf_counter()
    outcomes = list(run(jobs, restorer))
    took = time.perf_counter() - began
    assert [outcome.job for outcome in outcomes] == jobs
    for outcome in outcomes:
        assert (outcome.status, outcome.error, outcome.notices) == ("restored", "", ())
        assert outcome.megapixels == 8 * 10 / 1e6
        assert outcome.seconds > 0
        assert_written(outcome.job.targets[0], restorer(outcome.job.sources[0]).pixels)
    assert max(outcome.seconds for outcome in outcomes) <= took
    assert files() == ["out/0.png", "out/1.png", "out/2.png"]


def test_a_job_is_begun_when_its_outcome_is_wanted(restorer: Restorer) -> None:
    outcomes = run(photos(2), restorer)
    assert files() == []
    for i in range(2):
        next(outcomes)
        assert files() == [f"out/{k}.png" for k in range(i + 1)]
    assert next(outcomes, None) is None


def test_nothing_comes_of_no_jobs(restorer: Restorer) -> None:
    assert list(run([], restorer)) == []


def test_options_are_those_of_every_request(restorer: Restorer) -> None:
    list(run(photos(2), restorer, {"steps": 3, "sampler": "ode-2", "seed": 4}))
    for i in range(2):
        expected = restorer(f"in/{i}.png", steps=3, sampler="ode-2", seed=4)
        assert_written(Path(f"out/{i}.png"), expected.pixels)


def test_notices_are_those_of_the_result(sde: MeanRevertingSDE, restorer: Restorer) -> None:
    photo("in/0.png", height=80, width=100)
    photo("in/1.png")
    tiled, whole = run(plan(["in"], Path("out")).jobs, restorer, {"policy": TILED})
    ((key, level, numbers),) = said(tiled.notices)
    assert (key, level, numbers[:2]) == ("network-tiled", "info", ["50", "40"])
    assert whole.notices == ()
    idle = small_restorer(sde, sampling=Sampling(steps=STEPS))
    for parameter in idle.network.parameters():
        parameter.zero_()
    outcomes = list(run(plan(["in"], Path("idle")).jobs, idle))
    for outcome in outcomes:
        assert [(notice.key, notice.level) for notice in outcome.notices] == [("unchanged", "warning")]
        assert outcome.status == "restored"
        assert outcome.job.done


# ---- what fails


def test_a_damaged_file_is_an_outcome_and_the_rest_goes_on(restorer: Restorer) -> None:
    jobs = photos(5)
    damaged = {1: b"", 3: Path("in/3.png").read_bytes()[:60]}
    for i, content in damaged.items():
        Path(f"in/{i}.png").write_bytes(content)
    Path("in/4.png").unlink()
    outcomes = list(run(jobs, restorer))
    assert [outcome.job for outcome in outcomes] == jobs
    assert statuses(outcomes) == ["restored", "failed", "restored", "failed", "failed"]
    for i, words in {1: "is empty", 3: "is damaged, cut short", 4: "does not exist"}.items():
        failed = outcomes[i]
        assert failed.error.startswith(f"{Path(f'in/{i}.png')} {words}")
        assert "\n" not in failed.error
        assert (failed.notices, failed.megapixels) == ((), 0.0)
        assert failed.seconds > 0
    assert files() == ["out/0.png", "out/2.png"]


def test_a_place_that_cannot_be_written_to_is_an_outcome(restorer: Restorer) -> None:
    jobs = photos(3)
    Path("out/0.png").mkdir(parents=True)
    Path("file").touch()
    jobs[1] = Job(jobs[1].sources, (Path("file/1.png"),))
    folder, file, fine = run(jobs, restorer)
    assert folder.error.startswith(f"{Path('out/0.png')} cannot be written")
    assert file.error.startswith("file cannot be written")
    assert statuses([folder, file, fine]) == ["failed", "failed", "restored"]
    assert files() == ["file", "out/2.png"]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError("no room"), "no room"),
        (MemoryError(), "MemoryError"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory\nand a long trace"),
            "DefaultCPUAllocator: can't",
        ),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_too_large_a_picture_is_an_outcome_and_the_rest_goes_on(
    restorer: Restorer, monkeypatch: pytest.MonkeyPatch, error: Exception, line: str
) -> None:
    """Whichever way the memory's end is told."""
    original, ends = Restorer.run, iter([error, None])

    def limited(*args: Any) -> object:
        if end := next(ends):
            raise end
        return original(*args)

    monkeypatch.setattr(Restorer, "run", limited)
    large, fine = run(photos(2), restorer)
    assert (large.status, fine.status) == ("failed", "restored")
    assert large.error.startswith(f"{Path('in/0.png')}: ")
    assert line in large.error
    assert "\n" not in large.error
    assert files() == ["out/1.png"]


@pytest.mark.parametrize("options", [{"steps": 101}, {"eta": 2.0}, {"sigma": 0.1}, {"condition": (1.0,)}])
def test_options_that_the_model_does_not_take_are_an_error(restorer: Restorer, options: Any) -> None:
    outcomes = run(photos(2), restorer, options)
    with pytest.raises(ValueError, match="|".join(options)):
        next(outcomes)
    assert files() == []


def test_an_interruption_is_no_outcome(restorer: Restorer) -> None:
    def stop(job: Job, progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(run(photos(2), restorer, progress=stop))
    assert files() == []


# ---- stages


def test_neighbours_are_in_different_stages(restorer: Restorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Restoring waits until the next picture is read, and writing until the next one is being restored."""
    jobs = photos(3)
    original = {"read": stages.read, "write": stages.write, "run": Restorer.run}
    has_read = {f"{i}.png": Event() for i in range(3)}
    begun = [Event() for _ in range(3)]
    numbers = iter(range(3))

    def read_and_tell(path: Path, *rest: Any) -> Image:
        image = original["read"](path, *rest)
        has_read[path.name].set()
        return image

    def restore_late(*args: Any) -> Any:
        number = next(numbers)
        begun[number].set()
        assert number == 2 or has_read[f"{number + 1}.png"].wait(30)
        return original["run"](*args)

    def write_late(image: Image, target: Path, *rest: Any) -> None:
        number = int(target.stem)
        assert number == 2 or begun[number + 1].wait(30)
        original["write"](image, target, *rest)

    monkeypatch.setattr(stages, "read", read_and_tell)
    monkeypatch.setattr(stages, "write", write_late)
    monkeypatch.setattr(Restorer, "run", restore_late)
    assert [outcome.job for outcome in run(jobs, restorer)] == jobs


@pytest.mark.parametrize("room", [1, 2, 3])
def test_neighbours_count_where_memory_is_short(
    restorer: Restorer, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """A picture that does not fit beside those before it is decoded when they are written."""
    jobs, counts = photos(4), list[int]()
    decoded, written = set[str](), set[str]()
    copied, put = pyvips.Image.copy_memory, stages.write

    def copy_memory(picture: pyvips.Image) -> pyvips.Image:
        decoded.add(f"{len(decoded)}.png")
        counts.append(len(decoded - written))
        return copied(picture)

    def write_and_tell(image: Image, target: Path, *rest: Any) -> None:
        put(image, target, *rest)
        written.add(target.name)

    monkeypatch.setattr(pyvips.Image, "copy_memory", copy_memory)
    monkeypatch.setattr(stages, "write", write_and_tell)
    needed = restorer.demand((10, 8))
    one = 1.3 * (needed.host + needed.device)
    monkeypatch.setattr(admission, "free_memory", lambda device: int(room * one))
    assert statuses(run(jobs, restorer)) == ["restored"] * 4
    assert len(counts) == 4
    assert max(counts) <= room


# ---- progress and the end


def test_progress_is_told_of_its_job(restorer: Restorer) -> None:
    jobs, told = photos(2), list[tuple[Job, int, int]]()

    def tell(job: Job, progress: Progress) -> None:
        (preview,) = progress.preview()
        assert preview.size == (10, 8)
        told.append((job, progress.done, progress.total))

    list(run(jobs, restorer, progress=tell))
    assert told == [(job, done, STEPS) for job in jobs for done in range(1, STEPS + 1)]


def test_progress_counts_the_steps_of_all_samples(restorer: Restorer) -> None:
    told = list[tuple[int, int]]()

    def tell(job: Job, progress: Progress) -> None:
        told.append((progress.done, progress.total))

    list(run(photos(1), restorer, {"samples": 3}, progress=tell))
    assert told == [(done, 3 * STEPS) for done in range(1, 3 * STEPS + 1)]


@pytest.mark.parametrize("calls", range(3 * STEPS))
def test_what_was_restored_before_the_end_is_written_and_nothing_else(restorer: Restorer, calls: int) -> None:
    """Asked before every step, whichever job it is of."""
    asked, outcomes = iter(range(100)), list[Outcome]()

    def collect() -> None:
        for outcome in run(photos(3), restorer, cancel=lambda: next(asked) == calls):
            outcomes.append(outcome)

    with pytest.raises(Cancelled):
        collect()
    assert next(asked) == calls + 1
    assert statuses(outcomes) == ["restored"] * (calls // STEPS)
    assert files() == [f"out/{i}.png" for i in range(calls // STEPS)]
    for i in range(calls // STEPS):
        assert_written(Path(f"out/{i}.png"), restorer(f"in/{i}.png").pixels)


def test_an_end_leaves_what_an_earlier_run_wrote(restorer: Restorer) -> None:
    jobs = photos(1)
    list(run(jobs, restorer, {"seed": 1}))
    before = Path("out/0.png").read_bytes()
    with pytest.raises(Cancelled):
        list(run(jobs, restorer, {"seed": 2}, cancel=lambda: True))
    assert Path("out/0.png").read_bytes() == before
    assert files() == ["out/0.png"]


def test_who_never_wants_to_end_has_all(restorer: Restorer) -> None:
    assert statuses(run(photos(2), restorer, cancel=lambda: False)) == ["restored"] * 2


# ---- what is missing


def half(name: str, height: int = 8, width: int = 10) -> np.ndarray:
    """Writes a mask, white where the left half is missing; returns where it is."""
    holes = np.zeros((height, width), np.float32)
    holes[:, : width // 2] = 1
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    write(from_array(holes), name)
    return holes


def test_what_is_white_in_the_mask_of_a_job_is_filled(restorer: Restorer) -> None:
    photos(2)
    holes = half("masks/0.png")
    write(from_array(1 - holes), "masks/1.png")
    jobs = plan(["in"], Path("out")).with_masks(Path("masks")).jobs
    assert statuses(run(jobs, restorer, {"seed": 3})) == ["restored"] * 2
    for i, missing in enumerate((holes, 1 - holes)):
        expected = restorer(f"in/{i}.png", mask=missing, seed=3).pixels
        assert_written(Path(f"out/{i}.png"), expected)
        kept = missing == 0
        np.testing.assert_array_equal(read(f"out/{i}.png").pixels[kept], read(f"in/{i}.png").pixels[kept])


def test_the_network_sees_the_grey_of_a_guide(sde: MeanRevertingSDE) -> None:
    photos(1)
    grey = np.linspace(0, 1, 80, dtype=np.float32).reshape(8, 10, 1).repeat(3, -1)
    write(from_array(grey), "guide.png")
    guided = small_restorer(sde, sampling=Sampling(steps=STEPS), guides=1, map_channels=4)
    list(run(plan(["in"], Path("out")).with_guides(Path("guide.png")).jobs, guided))
    expected = guided("in/0.png", guides=read("guide.png").pixels.mean(-1)[None]).pixels
    assert_written(Path("out/0.png"), expected)
    assert np.abs(expected - guided("in/0.png").pixels).max() > 1e-3


def test_what_is_transparent_in_a_mask_is_not_missing(restorer: Restorer) -> None:
    photos(1)
    strokes = np.zeros((8, 10), np.float32)
    strokes[:, :5] = 1
    write(from_array(strokes), "opaque.png")
    write(from_array(np.dstack([np.ones((8, 10, 3), np.float32), strokes])), "white-beneath.png")
    write(from_array(np.dstack([np.zeros_like(strokes) + strokes, strokes])), "black-beneath.png")
    results = []
    for mask in ("opaque", "white-beneath", "black-beneath"):
        list(run(plan(["in"], Path(mask)).with_masks(Path(f"{mask}.png")).jobs, restorer))
        results.append(read(f"{mask}/0.png").pixels)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_metadata_and_the_state_of_the_file_are_kept_unless_stripped(restorer: Restorer) -> None:
    source = Path("in/a.jpg")
    source.parent.mkdir()
    exif = PIL.Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x8298] = 6, "Maker", "(c) me"
    picture = PIL.Image.new("RGB", (10, 8), (90, 80, 70))
    picture.save(source, exif=exif, dpi=(300, 300), icc_profile=SRGB)
    source.chmod(0o600)
    os.utime(source, (1_000_000_000, 1_000_000_000))
    list(run(plan(["in"], Path("kept")).jobs, restorer))
    list(run(plan(["in"], Path("bare")).jobs, restorer, output=Output(strip=True)))
    for folder, maker in {"kept": "Maker", "bare": None}.items():
        result = Path(folder, "a.jpg")
        with PIL.Image.open(result) as written:
            assert written.size == (8, 10)
            assert written.getexif().get(0x010F) == maker
            assert written.getexif().get(0x0112, 1) == 1
            assert written.info["dpi"] == (300, 300)
            assert written.info["icc_profile"] == SRGB
        assert result.stat().st_mode == source.stat().st_mode
        assert (result.stat().st_mtime == 1_000_000_000) == (folder == "kept")


def test_what_is_not_kept_of_a_file_is_a_notice(restorer: Restorer) -> None:
    Path("in").mkdir()
    frames = [PIL.Image.new("RGB", (10, 8), (value, 80, 70)) for value in (90, 120)]
    frames[0].save("in/a.webp", save_all=True, append_images=frames[1:])
    told = replace(read("in/a.webp"), metadata=Metadata(iptc=b"\x1c\x02\x74\0\2me"), notices=())
    write(told, "in/b.jpg")
    (first,) = run(plan(["in/a.webp"], Path("out")).jobs, restorer)
    (second,) = run(plan(["in/b.jpg"], Path("out/b.png")).jobs, restorer)
    (third,) = run(plan(["in/b.jpg"], Path("out/c.png")).jobs, restorer, output=Output(strip=True))
    assert [notice.key for notice in first.notices] == ["first-frame"]
    assert [notice.key for notice in second.notices] == ["metadata-lost"]
    assert third.notices == ()


def test_a_bad_mask_is_an_outcome_that_names_it(restorer: Restorer) -> None:
    photos(4)
    for i in range(4):
        half(f"masks/{i}.png", height=9 if i == 1 else 8)
    Path("masks/0.png").write_bytes(b"no picture")
    jobs = plan(["in"], Path("out")).with_masks(Path("masks")).jobs
    Path("masks/2.png").unlink()
    broken, larger, gone, fine = run(jobs, restorer)
    assert statuses([broken, larger, gone, fine]) == ["failed", "failed", "failed", "restored"]
    mask, source = Path("masks/1.png"), Path("in/1.png")
    assert broken.error.startswith(f"{Path('masks/0.png')} is not a picture")
    assert larger.error.startswith(f"{mask} and {source} have sizes 10x9 and 10x8: give a mask")
    assert gone.error.startswith(f"{Path('masks/2.png')} does not exist")


def test_what_is_painted_over_is_filled_in_every_picture(restorer: Restorer) -> None:
    for i in range(2):
        painted = read(photo(f"in/{i}.png", i)).pixels.copy()
        painted[2 : 5 - i, 3:7] = (1, 0, 1)
        write(from_array(painted), f"in/{i}.png")
    list(run(plan(["in"], Path("out")).jobs, restorer, hole_colour="#ff00ff"))
    for i in range(2):
        holes = np.zeros((8, 10), np.float32)
        holes[1 : 6 - i, 2:8] = 1  # one pixel wider
        assert_written(Path(f"out/{i}.png"), restorer(f"in/{i}.png", mask=holes).pixels)


def test_another_notation_of_a_colour_is_an_error(restorer: Restorer) -> None:
    with pytest.raises(ValueError, match=r"'pink'.* six hexadecimal digits"):
        list(run(photos(1), restorer, hole_colour="pink"))


# ---- what is written besides


def test_the_deviation_of_samples_is_written_beside_their_mean(restorer: Restorer) -> None:
    list(run(photos(2), restorer, {"samples": 3}, Output(uncertainty=True)))
    assert files() == [f"out/{i}{kind}.png" for i in range(2) for kind in ("-uncertainty", "")]
    for i in range(2):
        drawn = ask(restorer, f"in/{i}.png", samples=3)
        assert_written(Path(f"out/{i}.png"), drawn.image.pixels)
        shown = read(f"out/{i}-uncertainty.png")
        assert shown.grey
        np.testing.assert_allclose(shown.pixels[..., 0], (10 * drawn.stds[0]).clip(0, 1), atol=0.51 / 65535)


def test_a_trajectory_is_an_animation_from_the_picture_to_its_restoration(restorer: Restorer) -> None:
    list(run(photos(1), restorer, {"steps": 4}, Output(trajectory=Path("t.gif"))))
    assert_written(Path("out/0.png"), restorer("in/0.png", steps=4).pixels)
    with PIL.Image.open("t.gif") as film:
        assert (film.n_frames, film.size) == (5, (10, 8))
        for frame, expected in ((0, read("in/0.png")), (4, read("out/0.png"))):
            film.seek(frame)
            shown = np.asarray(film.convert("RGB"), np.float32) / 255
            assert np.abs(shown - expected.pixels).mean() < 0.05  # of 256 colours


def test_a_trajectory_of_no_animations_name_is_an_outcome_without_a_result(restorer: Restorer) -> None:
    (outcome,) = run(photos(1), restorer, output=Output(trajectory=Path("t.mp4")))
    assert outcome.status == "failed"
    assert outcome.error.startswith("t.mp4 cannot be written: name an animation .gif")
    assert files() == []


# ---- two views


def test_two_views_are_one_outcome_and_two_files(stereo: Restorer) -> None:
    photo("in/L/a.png", 0)
    photo("in/R/a.tif", 0)
    (outcome,) = run(plan(["in/L", "in/R"], Path("out"), views=2).jobs, stereo)
    assert (outcome.status, outcome.notices) == ("restored", ())
    assert outcome.megapixels == 2 * 8 * 10 / 1e6  # that came in
    assert files() == ["out/left/a.png", "out/right/a.tif"]
    expected = stereo.restore_views(["in/L/a.png", "in/R/a.tif"])
    for target, image in zip(outcome.job.targets, expected, strict=True):
        assert image.size == (20, 16)
        assert_written(target, image.pixels)


def test_views_of_two_sizes_are_an_outcome_that_names_both(stereo: Restorer) -> None:
    for name, width in (("a", 10), ("b", 12)):
        photo(f"in/L/{name}.png")
        photo(f"in/R/{name}.png", width=width)
    same, unequal = run(plan(["in/L", "in/R"], Path("out"), views=2).jobs, stereo)
    assert (same.status, unequal.status) == ("restored", "failed")
    left, right = Path("in/L/b.png"), Path("in/R/b.png")
    assert unequal.error == f"{left} and {right} have sizes 10x8 and 12x8: give views of one size"
    assert files() == ["out/left/a.png", "out/right/a.png"]


def test_the_deviation_of_each_view_is_written(stereo: Restorer) -> None:
    photo("in/L/a.png", 0)
    photo("in/R/a.png", 0)
    jobs = plan(["in/L", "in/R"], Path("out"), views=2).jobs
    list(run(jobs, stereo, {"samples": 2}, Output(uncertainty=True)))
    drawn = ask(stereo, "in/L/a.png", "in/R/a.png", samples=2)
    for side, std in zip(("left", "right"), drawn.stds, strict=True):
        shown = read(f"out/{side}/a-uncertainty.png").pixels[..., 0]
        np.testing.assert_allclose(shown, (10 * std).clip(0, 1), atol=0.51 / 65535)


@pytest.mark.skipif(os.name == "nt", reason="Windows may not remove files at will")
def test_a_picture_that_is_gone_when_its_turn_comes_is_an_outcome(restorer: Restorer) -> None:
    """Its turn is to be read while the one before is restored."""
    outcomes = run(photos(4), restorer)
    assert next(outcomes).status == "restored"
    Path("in/3.png").unlink()
    *_, gone = outcomes
    assert gone.error.startswith(f"{Path('in/3.png')} does not exist")


def test_a_failed_job_tells_what_was_noticed_before(
    restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that the picture was cut into tiles before memory ended."""
    photo("in/large.png", height=45 * 2, width=60 * 2)

    def ends(*args: Any, **rest: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(type(restorer.network), "forward", ends)
    (outcome,) = run([Job((Path("in/large.png"),), (Path("out/large.png"),))], restorer, {"policy": TILED})
    assert outcome.status == "failed"
    assert next(notice.key for notice in outcome.notices) == "network-tiled"


# ---- what does not fit


def test_a_picture_that_does_not_fit_is_not_decoded_and_the_others_go_on(
    restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo("in/a.png")
    pyvips.Image.black(9000, 9000, bands=3).write_to_file("in/b.png")
    photo("in/c.png")
    monkeypatch.setattr("refusion.restoring.admission.free_memory", lambda device: 2**29)
    copied = pyvips.Image.copy_memory

    def copy_memory(picture: pyvips.Image) -> pyvips.Image:
        assert picture.width < 9000
        return copied(picture)

    monkeypatch.setattr(pyvips.Image, "copy_memory", copy_memory)
    first, large, last = run(plan(["in"], Path("out")).jobs, restorer)
    assert [first.status, large.status, last.status] == ["restored", "failed", "restored"]
    assert large.error.startswith(f"{Path('in/b.png')} of 9000 x 9000 pixels needs")
    assert "0.50 GiB are free" in large.error
    assert files() == ["out/a.png", "out/c.png"]


def test_a_file_larger_than_the_memory_is_not_read(
    restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo("in/a.png")
    with Path("in/a.png").open("ab") as file:
        file.truncate(2**40)  # a hole, which takes no room on the disk
    monkeypatch.setattr("refusion.jobs.stages.free_memory", lambda device: 2**39)
    (outcome,) = run(plan(["in"], Path("out")).jobs, restorer)
    assert outcome.error.startswith(f"{Path('in/a.png')} has {2**40} bytes")


def test_more_than_max_pixels_are_refused(restorer: Restorer) -> None:
    photos(1)
    assert statuses(run([*plan(["in"], Path("out")).jobs], restorer, {"max_pixels": 80})) == ["restored"]
    (outcome,) = run([*plan(["in"], Path("other")).jobs], restorer, {"max_pixels": 79})
    assert "more than 79" in outcome.error


def test_a_mask_of_another_size_is_not_decoded(sde: MeanRevertingSDE) -> None:
    photo("in/a.png")
    pyvips.Image.black(30000, 13000).write_to_file("mask.png")
    began = time.perf_counter()
    jobs = plan(["in"], Path("out")).with_masks(Path("mask.png")).jobs
    (outcome,) = run(jobs, small_restorer(sde))
    assert "30000x13000 and 10x8" in outcome.error
    assert time.perf_counter() - began < 2


# ---- outputs


def test_one_obstacle_is_one_message_and_nothing_is_restored_for_it(
    restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(3):
        photo(f"in/{i}/a.png")
    Path("out").touch()
    monkeypatch.setattr(Restorer, "run", lambda *_: pytest.fail("a picture was restored for nothing"))
    outcomes = list(run(plan(["in"], Path("out/here")).jobs, restorer))
    assert statuses(outcomes) == ["failed"] * 3
    assert {outcome.error for outcome in outcomes} == {
        "out cannot be written (Not a directory): give another --out, or check its permissions"
    }


def test_a_full_disk_ends_all_jobs_with_one_message(
    restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, opened = photos(4), Path.open

    def open_file(path: Path, mode: str = "r", **rest: Any) -> IO[Any]:
        if mode == "wb" and len(files()) > 1:  # the first result, and what is being written
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened(path, mode, **rest)

    monkeypatch.setattr(Path, "open", open_file)
    outcomes = list(run(jobs, restorer))
    assert statuses(outcomes) == ["restored"] + ["failed"] * 3
    (line,) = {outcome.error for outcome in outcomes[1:]}
    assert "No space left" in line
    assert files() == ["out/0.png"]


def test_what_dead_runs_left_is_swept(restorer: Restorer) -> None:
    left = Path("out") / f".{'0' * 32}.part"
    left.parent.mkdir()
    left.write_bytes(b"half")
    Path("out/.mine.part").write_bytes(b"not ours")
    assert statuses(run(photos(1), restorer)) == ["restored"]
    assert files() == ["out/.mine.part", "out/0.png"]


def test_what_is_only_read_is_written_as_tiff(restorer: Restorer) -> None:
    photo("in/a.png").rename("in/a.nef")
    (outcome,) = run(plan(["in/a.nef"], Path("out")).jobs, restorer)
    assert outcome.status == "restored"
    assert files() == ["out/a.tif"]
    assert read("out/a.tif").depth == 16
    (named,) = plan(["in/a.nef"], Path("b.png")).jobs
    assert named.targets == (Path("b.png"),)
