"""The worker with small models: its results are those of the package, its failures a line."""

import io
import os
import re
import signal
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from served import Served, save_models, serving, wait_for

import refusion
from refusion.imaging.arrays import from_array
from refusion.imaging.formats import decode, encode
from refusion.web.messages import Cancel, Check, Failed, Restore
from refusion.web.models import Shelf
from refusion.web.pictures import make_view, read_picture, store_view
from refusion.web.process import worker_words
from refusion.web.service import Settings
from refusion.web.worker import Worker

PIXELS = 10**6


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def working(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("working") / "data"
    with serving(folder, Settings(PIXELS), worker_words([models], "cpu", PIXELS, 1)) as served:
        yield served


def picture(height: int = 20, width: int = 24, seed: int = 0, depth: int = 8, suffix: str = ".png") -> bytes:
    values = np.random.default_rng(seed).uniform(0.2, 0.8, (height, width, 3)) * (2**depth - 1)
    return encode(from_array(values.astype(np.uint8 if depth == 8 else np.uint16)), suffix)


def with_exif() -> tuple[bytes, refusion.Image]:
    """A PNG of 16 bit with EXIF and a profile, and the picture in it."""
    tags = PIL.Image.Exif()
    tags[271], tags[306] = "A camera", "2026:11:30 12:00:00"
    stream = io.BytesIO()
    PIL.Image.new("RGB", (24, 20)).save(stream, "JPEG", exif=tags)
    deep = replace(decode(picture(depth=16)), metadata=decode(stream.getvalue()).metadata)
    data = encode(deep, ".png")
    return data, decode(data)


def result(served: Served, id: str, **query: Any) -> refusion.Image:
    job = served.ended(id)
    assert job["state"] == "done", job
    return decode(served.get(f"jobs/{id}/result", **query).content)


def restored(models: Path, name: str, *data: bytes, **options: Any) -> np.ndarray:
    """The pixels that the package gives, as they are written."""
    restorer = refusion.load(models / f"{name}.safetensors", "cpu")
    images = restorer.restore_views([decode(one) for one in data], precision="32", **options)
    pixels: np.ndarray = decode(encode(images[0], ".png")).pixels
    return pixels


@pytest.mark.slow
def test_sixteen_bit_and_exif_come_back(working: Served, models: Path) -> None:
    data, before = with_exif()
    after = result(working, working.add(data, precision="32", steps=3, seed=5))
    assert (before.depth, after.depth) == (16, 16)
    assert before.metadata == after.metadata
    assert b"A camera" in working.get(f"jobs/{working.get('jobs').json()['jobs'][0]['id']}/result").content
    np.testing.assert_array_equal(after.pixels, restored(models, "tiny", data, steps=3, seed=5))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tif"])
def test_the_format_is_that_of_the_upload_or_the_wished_one(working: Served, suffix: str) -> None:
    kept = working.add(picture(suffix=suffix), "mine.upload")
    wished = working.add(picture(), "mine.png", suffix=suffix)
    for id in (kept, wished):
        result(working, id)
        answer = working.get(f"jobs/{id}/result")
        assert f'filename="mine{suffix}"' in answer.headers["content-disposition"]
        assert decode(answer.content).size == (24, 20)
        assert {".jpg": "image/jpeg", ".webp": "image/webp", ".tif": "image/tiff"}[suffix] == answer.headers[
            "content-type"
        ]


@pytest.mark.slow
def test_options_of_every_kind_of_model(working: Served, models: Path) -> None:
    left, right, holes = picture(seed=1), picture(seed=1, suffix=".webp"), np.zeros((20, 24), np.uint8)
    holes[5:9, 6:12] = 255
    mask, masked = encode(from_array(holes), ".png"), (holes > 0).astype(np.float32)
    lens = {"source": "Canon50mmf16.0BS", "target": "Sony50mmf1.4BS", "disparity": 42}
    cases: dict[str, tuple[dict[str, Any], np.ndarray]] = {
        "denoising": ({"sigma": 0.1}, restored(models, "denoising", left, sigma=0.1)),
        "bokeh": ({"lens": lens}, restored(models, "bokeh", left, condition=(-160.0, 14.0, 42.0))),
        "stereo": ({"files": {"right": right}}, restored(models, "stereo", left, right)),
        "guided": ({"files": {"guide": mask}}, restored(models, "guided", left, guides=masked[None])),
        "filling": ({"files": {"mask": mask}}, restored(models, "filling", left, mask=masked)),
        "tiny": ({"sampler": "ode-2", "tile": 256}, restored(models, "tiny", left, sampler="ode-2")),
    }
    for name, (options, expected) in cases.items():
        id = working.add(left, model=name, precision="32", **options)
        np.testing.assert_array_equal(result(working, id).pixels, expected, err_msg=name)
    id = next(job["id"] for job in working.get("jobs").json()["jobs"] if job["options"]["model"] == "stereo")
    assert result(working, id, view="right").size == (48, 40)
    assert working.job(id)["width"] == 48
    for what in ("input", "output"):
        assert working.get(f"jobs/{id}/{what}", view="right").status_code == 200
    archive = zipfile.ZipFile(io.BytesIO(working.get("results.zip", job=id).content))
    assert archive.namelist() == ["a.png", "right.png"]


def test_again_takes_along_only_what_the_other_model_takes(working: Served, models: Path) -> None:
    data, grey = picture(), encode(from_array(np.full((20, 24), 255, np.uint8)), ".png")
    for model, part in (("filling", "mask"), ("guided", "guide")):
        first = working.add(data, model=model, files={part: grey})
        options = {"model": "tiny", "precision": "32"}
        other = working.client.post(f"/api/v1/jobs/{first}/again", json=options)
        assert other.status_code == 201, other.text
        expected = restored(models, "tiny", data)
        np.testing.assert_array_equal(result(working, other.json()["id"]).pixels, expected)


def test_a_part_of_a_picture_is_restored_alone(working: Served) -> None:
    id = working.add(picture(), crop=[4, 2, 12, 10], precision="32")
    assert result(working, id).size == (12, 10)
    shown = decode(working.get(f"jobs/{id}/input").content).pixels
    np.testing.assert_array_equal(shown, decode(picture()).pixels[2:12, 4:16])
    outside = working.ended(working.add(picture(), crop=[20, 2, 12, 10]))
    assert outside["state"] == "failed"
    assert "24 x 20" in outside["error"]


def test_samples_give_uncertainty_and_steps_are_kept(working: Served) -> None:
    id = working.add(picture(), samples=2, sampler="posterior")
    job = working.ended(id)
    assert (job["steps"], job["has"]["uncertainty"]) == (4, True)
    assert decode(working.get(f"jobs/{id}/uncertainty").content).size == (24, 20)
    id = working.add(picture(), steps=3, trajectory=True)
    job = working.ended(id)
    assert (job["has"]["steps"], job["previews"], job["step"]) == (3, 3, 3)
    steps = [decode(working.get(f"jobs/{id}/steps/{i}").content).pixels for i in range(4)]
    np.testing.assert_array_equal(steps[0], decode(picture()).pixels)
    np.testing.assert_array_equal(steps[3], result(working, id).pixels)
    assert np.abs(steps[1] - steps[2]).max() > 0
    assert working.get(f"jobs/{id}/steps/4").status_code == 404


def test_a_self_ensemble_counts_the_steps_of_all_orientations(working: Served, models: Path) -> None:
    id = working.add(picture(), precision="32", self_ensemble=True)
    job = working.ended(id)
    assert (job["state"], job["step"], job["steps"]) == ("done", 16, 16)
    expected = restored(models, "tiny", picture(), self_ensemble=True)
    np.testing.assert_array_equal(result(working, id).pixels, expected)


def test_views_are_upright_small_and_tell_nothing_of_the_camera(working: Served) -> None:
    tags = PIL.Image.Exif()
    tags[271], tags[274] = "A camera", 6
    stream = io.BytesIO()
    PIL.Image.new("RGB", (400, 300), "red").save(stream, "JPEG", exif=tags)
    id = working.add(stream.getvalue(), "turned.jpg")
    for query, size in (({}, (300, 400)), ({"side": 100}, (120, 160)), ({"side": 9999}, (300, 400))):
        shown = working.get(f"jobs/{id}/input", **query)
        assert shown.headers["content-type"] == "image/png"
        assert PIL.Image.open(io.BytesIO(shown.content)).size == size
        assert b"camera" not in shown.content
    assert result(working, id).size == (300, 400)


@pytest.mark.slow
def test_models_are_served_by_the_name_of_their_file_or_run(models: Path, tmp_path: Path) -> None:
    run = tmp_path / "my-run"
    run.mkdir()
    (run / "model.safetensors").write_bytes((models / "tiny.safetensors").read_bytes())
    shelf = Shelf([run, models / "bokeh.safetensors"], "cpu")
    assert shelf.headers["my-run"].path == run / "model.safetensors"
    assert shelf.headers["bokeh"].path == models / "bokeh.safetensors"
    assert "tiny" not in shelf.headers
    assert shelf.load("my-run") is shelf.load("my-run")
    with pytest.raises(refusion.CheckpointError, match="nowhere"):
        Shelf([tmp_path / "nowhere"], "cpu")


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_shown_as_if_it_had_been_read_whole(tmp_path: Path, orientation: int) -> None:
    tags = PIL.Image.Exif()
    tags[274] = orientation
    waves = np.sin(np.arange(1600) / 40)[:, None, None] + np.cos(np.arange(1200) / 60)[None, :, None]
    photo = PIL.Image.fromarray(np.uint8(128 + 40 * waves * [1, 0.5, -1]))
    photo.save(tmp_path / "photo.jpg", exif=tags, quality=95)
    whole = read_picture(tmp_path / "photo.jpg", PIXELS * 10)
    make_view(tmp_path / "photo.jpg", tmp_path / "views" / "quick", 160, PIXELS * 10)
    store_view(whole, tmp_path / "views" / "slow", 160)
    quick, slow = (decode((tmp_path / "views" / name).read_bytes()) for name in ("quick", "slow"))
    assert quick.size == slow.size == ((120, 160) if orientation == 1 else (160, 120))
    assert np.abs(quick.pixels - slow.pixels).max() < 4 / 255


def forged_png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (forged_png(100_000, 100_000), "100000 x 100000"),
        (forged_png(900, 900), "damaged"),
        (picture()[:-40], "damaged"),
        (b"\xff\xd8\xff" + os.urandom(1000), "damaged"),
        (b"II*\0" + b"\xff" * 1000, "damaged"),
    ],
    ids=["huge", "no pixels", "cut", "JPEG", "TIFF"],
)
def test_hostile_pictures_fail_with_the_line_of_the_command(working: Served, data: bytes, named: str) -> None:
    id = working.add(data, "holiday.png")
    job = working.ended(id)
    assert job["state"] == "failed"
    assert named in job["error"]
    assert job["error"].startswith("holiday.png ")
    assert str(working.service.store.folder) not in job["error"]
    shown = working.get(f"jobs/{id}/input")
    assert shown.status_code == 415
    assert shown.json()["detail"].startswith("holiday.png ")


@pytest.mark.parametrize(
    ("options", "status", "named"),
    [
        ({"model": "tinny"}, 400, "did you mean tiny"),
        ({"model": "../tiny"}, 400, "no such model"),
        ({"sampler": "posteriour"}, 400, "did you mean posterior"),
        ({"steps": 101}, 400, "101"),
        ({"eta": 2}, 400, "eta is 2"),
        ({"sigma": 0.1}, 400, "sigma"),
        ({"tile": 1}, 400, "tile is 1"),
        ({"texture": 0.5}, 400, "texture is 0.5"),
        ({"precision": "64"}, 400, "precision"),
        ({"suffix": ".exe"}, 400, ".exe"),
        ({"trajectory": True, "steps": 51, "samples": 2}, 400, "102"),
        ({"trajectory": True, "steps": 101}, 400, "101"),
        ({"model": "bokeh"}, 400, "condition"),
        ({"model": "bokeh", "lens": {"source": "x", "target": "y", "disparity": 1}}, 400, '"x"'),
        ({"model": "stereo"}, 400, "a left and a right"),
        ({"model": "filling"}, 400, "mask"),
        ({"files": {"right": b"\xff\xd8\xff"}}, 400, "one picture"),
        ({"files": {"mask": b"no picture"}}, 415, "mask.png"),
    ],
    ids=str,
)
def test_what_the_model_does_not_take_is_refused_at_once(
    working: Served, options: dict[str, Any], status: int, named: str
) -> None:
    before = len(working.get("jobs").json()["jobs"])
    answer = working.post(picture(), **options)
    assert answer.status_code == status
    assert named in answer.json()["detail"]
    assert len(working.get("jobs").json()["jobs"]) == before


def test_no_picture_is_refused_before_anything_decodes_it(working: Served) -> None:
    for data in (b"text", b"<svg/>", b"%PDF-1.4", b"\0" * 1000, b""):
        answer = working.post(data, "x.png")
        assert answer.status_code == 415
        assert answer.json()["detail"].startswith("x.png is not a picture")


def test_models_tell_what_they_take(working: Served) -> None:
    models = {model["name"]: model for model in working.get("models").json()}
    assert "shadow-removal" in models
    plain = {"mask": False, "guide": False, "lens": False, "views": 1, "sigma": False, "texture": False}
    takes = {name: {k: v for k, v in models[name]["takes"].items() if v is not plain[k]} for name in models}
    assert takes["tiny"] == {}
    assert takes["denoising"] == {"sigma": True}
    assert takes["bokeh"] == {"lens": True}
    assert takes["stereo"] == {"views": 2}
    assert takes["guided"] == {"guide": True}
    assert takes["filling"] == {"mask": True}
    assert (models["tiny"]["sampling"]["steps"], models["tiny"]["max_steps"]) == (2, 100)
    assert models["stereo"]["enlarge"] == 2
    state = working.get("service").json()
    assert state["models_default"] == "shadow-removal"
    assert {".png", ".jpg", ".tif"} <= set(state["formats"])


@pytest.mark.slow
def test_the_client_in_the_docs_restores(
    working: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "service.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```py\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("photo.jpg").write_bytes(picture(suffix=".jpg"))
    there = str(working.client.base_url).rstrip("/")
    exec(block.replace("http://127.0.0.1:8187", there), {"__name__": "page"})
    assert decode(Path("clean.jpg").read_bytes()).size == (24, 20)


@pytest.mark.slow
def test_a_killed_worker_fails_its_job_and_another_restores_the_next(working: Served) -> None:
    slow = working.add(picture(100, 100), steps=100, samples=64)
    waiting = working.add(picture())
    working.running(slow)
    pid = working.service.worker.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert "signal 9" in working.ended(slow)["error"]
    wait_for(lambda: working.job(waiting)["state"] != "waiting")
    assert result(working, waiting).size == (24, 20)


class Broken:
    """A shelf that fails as only a fault of the program does."""

    def load(self, name: str) -> None:
        raise KeyError(name)

    header = load


def test_a_fault_of_the_program_fails_one_job_and_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "picture").write_bytes(picture())
    values = {"folder": str(tmp_path), "names": {"picture": "a.png"}, "options": {"model": "m"}}
    with (tmp_path / "reports").open("wb") as output:
        worker = Worker(Broken(), PIXELS, output)  # type: ignore[arg-type]
        failed = worker._restored(Restore(id="1", **values))
        assert failed == Failed(id="1", error="a fault of refusion (KeyError: 'm'): please report it")
        assert worker._checked(Check(number=1, **values)).status == 500
    assert capsys.readouterr().err.count("Traceback") == 2


@pytest.mark.slow
def test_cancelling_ends_between_two_steps(working: Served) -> None:
    slow = working.add(picture(100, 100), steps=100, samples=64)
    job = working.running(slow)
    assert job["seconds_left"] > 0
    assert job["previews"] > 0
    assert max(PIL.Image.open(io.BytesIO(working.get(f"jobs/{slow}/preview").content)).size) <= 512
    working.client.post(f"/api/v1/jobs/{slow}/cancel")
    assert working.ended(slow)["state"] == "cancelled"
    working.client.post(f"/api/v1/jobs/{slow}/retry")
    working.running(slow)
    working.client.delete(f"/api/v1/jobs/{slow}")
    result(working, working.add(picture()))


def test_a_cancel_that_comes_too_late_does_not_cancel_another_try(working: Served) -> None:
    slow, late = working.add(picture(100, 100), steps=100, samples=64), working.add(picture())
    for id in (late, slow):
        working.client.post(f"/api/v1/jobs/{id}/cancel")
        assert working.ended(id)["state"] == "cancelled"
    working.call(lambda: working.service.worker.send(Cancel(id=late)))
    working.client.post(f"/api/v1/jobs/{late}/retry")
    assert working.ended(late)["state"] == "done"
