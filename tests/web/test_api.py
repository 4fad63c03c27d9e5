"""The HTTP API, over a real socket, with a worker that plays its part."""

import asyncio
import io
import json
import os
import signal
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from served import Served, serving, wait_for
from starlette.requests import Request
from starlette.types import Message

from refusion.web.app import _shown
from refusion.web.archive import zipped
from refusion.web.service import MAX_STARTS, Settings
from refusion.web.store import Keeping

PIXELS = 10**6


def states(served: Served) -> list[str]:
    """Those of all jobs, the oldest first."""
    return [job["state"] for job in served.get("jobs").json()["jobs"]][::-1]


def left_over(folder: Path) -> set[str]:
    return {path.name for path in (folder / "jobs").iterdir() if path.is_dir()}


def strays(served: Served) -> list[str]:
    """Folders without a job."""
    return served.service.store.strays()


def test_a_picture_becomes_a_result(shared: Served) -> None:
    answer = shared.post(b"pixels", "beach.jpeg", steps=3, batch="b1")
    assert answer.status_code == 201
    job = shared.ended(answer.json()["id"])
    assert (job["state"], job["name"], job["batch"]) == ("done", "beach.jpeg", "b1")
    assert (job["step"], job["steps"], job["previews"]) == (3, 3, 3)
    assert (job["width"], job["height"], job["megapixels"], job["notices"]) == (4, 3, 0.1, ["a notice"])
    assert job["has"] == {"input": True, "result": True, "uncertainty": False, "steps": 0, "mask": False}
    result = shared.get(f"jobs/{job['id']}/result")
    assert result.content == b"pixels"
    assert result.headers["content-type"] == "image/png"
    assert result.headers["content-disposition"] == 'attachment; filename="beach.png"'


def test_views_are_made_once_and_not_sent_again(shared: Served) -> None:
    id = shared.add(b"pixels")
    shared.ended(id)
    for what, query in (("input", {}), ("input", {"side": 200}), ("output", {}), ("steps/0", {})):
        shown = shared.get(f"jobs/{id}/{what}", **query)
        assert (shown.status_code, shown.content) == (200, b"\x89PNG pixels"), what
        assert shown.headers["content-type"] == "image/png"
    tag = {"If-None-Match": shown.headers["etag"]}
    assert shared.client.get(f"/api/v1/jobs/{id}/input", headers=tag).status_code == 304
    assert shared.get(f"jobs/{id}/preview").content == b"preview 2"
    assert len(list((shared.service.store.folder_of(id) / "views").iterdir())) == 3
    for what in ("steps/1", "uncertainty", "input?view=right", "output?view=right", "result?view=right"):
        assert shared.get(f"jobs/{id}/{what}").status_code == 404, what


def test_a_preview_is_sent_whole_while_a_longer_one_takes_its_place(tmp_path: Path) -> None:
    path = tmp_path / "preview"
    path.write_bytes(b"a preview")
    answer = _shown(Request({"type": "http", "headers": []}), path)
    path.write_bytes(b"a longer preview")
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    asyncio.run(answer({"type": "http", "method": "GET", "headers": []}, receive, send))
    start, *parts = sent
    assert dict(start["headers"])[b"content-length"] == b"9"
    assert b"".join(part["body"] for part in parts) == b"a preview"


def test_a_failure_is_one_line_and_the_next_job_goes_on(shared: Served) -> None:
    failed, done = shared.add(b"fail"), shared.add(b"pixels")
    assert shared.ended(failed)["error"] == "it went wrong: try another"
    assert shared.ended(done)["state"] == "done"
    assert shared.get(f"jobs/{failed}/result").status_code == 409


def test_a_worker_that_ends_takes_one_job_with_it(served: Served) -> None:
    dead, waiting = served.add(b"die", "x.png"), served.add(b"pixels")
    job = served.ended(dead)
    assert job["state"] == "failed"
    assert job["error"].startswith("x.png: the worker ended (status 9)")
    assert "\n" not in job["error"]
    assert served.ended(waiting)["state"] == "done"


@pytest.mark.slow
def test_a_worker_that_says_nonsense_is_replaced(served: Served) -> None:
    babbling, waiting = served.add(b"babble"), served.add(b"pixels")
    assert "the worker ended" in served.ended(babbling)["error"]
    assert served.ended(waiting)["state"] == "done"


def test_an_upload_does_not_suffer_from_the_end_of_the_worker(served: Served) -> None:
    assert served.ended(served.add(b"shaky"))["state"] == "done"


def test_a_worker_that_is_killed_is_started_again(served: Served) -> None:
    running, waiting = served.add(b"slow"), served.add(b"pixels")
    served.running(running)
    pid = served.service.worker.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert "signal 9" in served.ended(running)["error"]
    assert served.ended(waiting)["state"] == "done"
    assert served.service.worker.pid != pid


def test_a_picture_that_cannot_even_be_shown_harms_no_other_job(served: Served) -> None:
    deadly, running = served.add(b"deadly"), served.add(b"slow")
    served.running(running)
    shown = served.get(f"jobs/{deadly}/input")
    assert shown.status_code == 415
    wait_for(lambda: served.job(running)["state"] == "running")
    assert served.service.record(running).starts == 2
    assert served.get(f"jobs/{deadly}/input").status_code == 415
    served.running(running)
    assert served.service.record(running).starts == 2


def test_cancelling(served: Served) -> None:
    running, waiting, third = served.add(b"slow"), served.add(b"pixels"), served.add(b"pixels")
    served.running(running)
    assert served.job(third)["position"] == 1
    assert served.client.post(f"/api/v1/jobs/{waiting}/cancel").json()["state"] == "cancelled"
    assert served.client.post(f"/api/v1/jobs/{waiting}/cancel").status_code == 409
    served.client.post(f"/api/v1/jobs/{running}/cancel")
    assert served.ended(running)["state"] == "cancelled"
    assert served.ended(third)["state"] == "done"
    served.add(b"slow"), served.add(b"slow")
    assert served.client.post("/api/v1/cancel").json() == {"cancelled": 2}
    wait_for(lambda: states(served)[-2:] == ["cancelled", "cancelled"])


def test_a_cancelled_job_is_not_begun_again_when_the_worker_ends(served: Served) -> None:
    deadly, stuck = served.add(b"deadly"), served.add(b"stuck")
    wait_for(lambda: served.job(stuck)["state"] == "running")
    served.client.post(f"/api/v1/jobs/{stuck}/cancel")
    assert served.get(f"jobs/{deadly}/input").status_code == 415  # it ended the worker
    job = served.job(stuck)
    assert (job["state"], served.service.record(stuck).starts) == ("cancelled", 1)


def test_retry_clears_what_was_and_waits_again(served: Served) -> None:
    id = served.add(b"slow", "a.png", steps=5)
    served.running(id)
    served.client.post(f"/api/v1/jobs/{id}/cancel")
    served.ended(id)
    picture = served.service.store.folder_of(id) / "picture"
    picture.write_bytes(b"pixels")
    assert served.client.post(f"/api/v1/jobs/{id}/retry").status_code == 200
    job = served.ended(id)
    assert (job["state"], job["previews"]) == ("done", 5)
    assert served.client.post(f"/api/v1/jobs/{id}/retry").status_code == 409


def test_again_takes_the_same_picture_with_other_options(served: Served) -> None:
    first = served.add(b"pixels", "a.png", files={"mask": b"old"})
    options = {"model": "tiny", "steps": 7}
    again = served.client.post(f"/api/v1/jobs/{first}/again", json=options)
    assert again.status_code == 201
    served.client.delete(f"/api/v1/jobs/{first}")
    job = served.ended(again.json()["id"])
    assert (job["state"], job["steps"], job["name"], job["has"]["mask"]) == ("done", 7, "a.png", True)
    form = {"files": {"mask": ("m.png", b"new")}, "data": {"options": json.dumps(options)}}
    masked = served.client.post(f"/api/v1/jobs/{job['id']}/again", **form).json()
    folders = [served.service.store.folder_of(id) for id in (job["id"], masked["id"])]
    assert [(folder / "mask").read_bytes() for folder in folders] == [b"old", b"new"]


def test_deleting_removes_files_also_of_a_running_job(served: Served, tmp_path: Path) -> None:
    done, running = served.add(b"pixels"), served.add(b"slow")
    served.running(running)
    for id in (done, running):
        assert served.client.delete(f"/api/v1/jobs/{id}").status_code == 204
        assert served.get(f"jobs/{id}").status_code == 404
    wait_for(lambda: not left_over(tmp_path / "data"))
    served.add(b"slow"), served.add(b"pixels")
    assert served.client.delete("/api/v1/jobs").json() == {"deleted": 2}
    wait_for(lambda: not left_over(tmp_path / "data"))


def test_a_deleted_job_under_which_the_worker_ends_leaves_nothing(served: Served, tmp_path: Path) -> None:
    stuck = served.add(b"stuck")
    wait_for(lambda: served.job(stuck)["state"] == "running")
    served.client.delete(f"/api/v1/jobs/{stuck}")
    os.kill(served.service.worker.pid or 0, signal.SIGKILL)
    wait_for(lambda: not left_over(tmp_path / "data"))


def test_a_full_queue_says_when_to_come_again(tmp_path: Path) -> None:
    with serving(tmp_path / "data", Settings(PIXELS, max_waiting=2)) as served:
        served.running(served.add(b"slow"))
        served.add(b"pixels"), served.add(b"pixels")
        refused = served.post(b"x" * 2**20)
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        assert len(left_over(tmp_path / "data")) == 3


def test_the_archive_holds_every_result_under_a_name_of_its_own(shared: Served) -> None:
    contents = {b"one": "a.jpg", b"two": "A.png", b"three": "../../etc/passwd", b"fail": "b.png"}
    ids = [shared.add(content, name) for content, name in contents.items()]
    for id in ids:
        shared.ended(id)
    archive = zipfile.ZipFile(io.BytesIO(shared.get("results.zip", job=ids).content))
    assert archive.testzip() is None
    read = {name: archive.read(name) for name in archive.namelist()}
    assert read == {"a.png": b"one", "A (2).png": b"two", "passwd.png": b"three"}
    assert shared.get("results.zip", job=ids[-1:]).status_code == 404


def test_the_archive_holds_files_of_any_age(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"pixels")
    os.utime(path, (0, 0))  # by a clock that was not set
    archive = zipfile.ZipFile(io.BytesIO(b"".join(zipped([("a.png", path)]))))
    assert archive.read("a.png") == b"pixels"


def events_of(served: Served, heard: list[tuple[str, Any]], done: threading.Event) -> Iterator[None]:
    with served.client.stream("GET", "/api/v1/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        name = ""
        for line in stream.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                heard.append((name, json.loads(line.removeprefix("data: "))))
                yield
            if done.is_set():
                return


def test_events_tell_every_state_and_step(served: Served) -> None:
    before = served.add(b"pixels")
    served.ended(before)
    heard: list[tuple[str, Any]] = []
    listening = events_of(served, heard, threading.Event())
    next(listening)
    assert heard[0][0] == "jobs"
    assert [job["id"] for job in heard[0][1]["jobs"]] == [before]
    id = served.add(b"pixels", steps=2)
    while heard[-1][1].get("state") != "done":
        next(listening)
    assert {name for name, _ in heard[1:]} == {"job"}
    told = [(job["state"], job["step"]) for _, job in heard[1:]]
    assert told == [("waiting", 0), ("running", 0), ("running", 1), ("running", 2), ("done", 2)]
    served.client.delete(f"/api/v1/jobs/{id}")
    next(listening)
    assert heard[-1] == ("deleted", {"id": id})
    listening.close()


def test_jobs_and_results_survive_the_end_of_the_service(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with serving(folder) as served:
        done, running, waiting = (served.add(content) for content in (b"pixels", b"slow", b"pixels"))
        served.ended(done)
        served.running(running)
    (folder / "jobs" / ("stray" + 17 * "_")).mkdir()
    (folder / "jobs" / "my own").mkdir()
    (folder / "jobs" / running / "picture").write_bytes(b"pixels")
    with serving(folder) as served:
        for id in (running, waiting):
            assert served.ended(id)["state"] == "done"
        assert served.get(f"jobs/{done}/result").content == b"pixels"
        assert served.service.record(running).starts == 2
        assert left_over(folder) == {done, running, waiting, "my own"}


def test_a_job_is_begun_three_times_at_most(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with serving(folder) as served:
        id = served.add(b"slow")
        served.running(id)
    for start in range(2, MAX_STARTS + 1):
        with serving(folder) as served:
            served.running(id)
            assert served.service.record(id).starts == start
    with serving(folder) as served:
        assert served.job(id)["state"] == "failed"
        assert str(MAX_STARTS) in served.job(id)["error"]


def test_old_jobs_are_swept_by_age_and_size(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with serving(folder, Settings(PIXELS, keeping=Keeping(1000, 4000))) as served:
        ids = [served.add(letter * 800) for letter in (b"a", b"b")]  # twice that with its result
        for id in ids:
            served.ended(id)
        for letter in (b"c", b"d"):
            ids.append(served.add(letter * 800))
            served.ended(ids[-1])
        assert left_over(folder) == set(ids[1:])
        assert served.get(f"jobs/{ids[0]}").status_code == 404
    with serving(folder, Settings(PIXELS, keeping=Keeping(-1, 10**9))) as served:
        wait_for(lambda: left_over(folder) == set())


def test_a_second_service_does_not_take_the_folder(served: Served, tmp_path: Path) -> None:
    from refusion.errors import RefusionError
    from refusion.web.store import Store

    with pytest.raises(RefusionError, match="--data"):
        Store(tmp_path / "data")


def test_only_the_service_s_own_folder_is_made_private(tmp_path: Path) -> None:
    from refusion.web.store import Store

    tmp_path.chmod(0o755)
    Store(tmp_path).close()
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in tmp_path.iterdir()] == ["jobs"]
    assert (tmp_path / "jobs").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"model": "other"}, "no such model"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": "many"}, "steps is 'many'"),
        ({"stepz": 1}, "stepz"),
        ({"seed": -1}, "seed"),
        ({"samples": 1000}, "samples"),
        ({"crop": [1, 2]}, "crop"),
        ({"lens": {"source": "a"}}, "lens.target"),
        ({"sigma": float("nan")}, "sigma"),
        ({"batch": "b" * 65}, "batch"),
    ],
    ids=str,
)
def test_bad_options_are_refused_in_a_line(shared: Served, options: dict[str, Any], named: str) -> None:
    answer = shared.post(b"pixels", **options)
    assert answer.status_code == 400
    assert named in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]
    assert not strays(shared)


def test_bad_forms_are_refused(shared: Served) -> None:
    post, options = shared.client.post, {"options": '{"model": "tiny"}'}
    picture = {"picture": ("a.png", b"pixels")}
    assert post("/api/v1/jobs", data=options, files={"mask": ("a.png", b"x")}).status_code == 400
    assert post("/api/v1/jobs", files=picture).status_code == 400
    assert post("/api/v1/jobs", data={"options": "[" * 10**4}, files=picture).status_code == 400
    assert post("/api/v1/jobs", data=options, files={**picture, "other": ("b", b"x")}).status_code == 400
    assert post("/api/v1/jobs", data={**options, "more": "x"}, files=picture).status_code == 400
    assert post("/api/v1/jobs", content=b"nonsense").status_code == 400
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    assert post("/api/v1/jobs", content=b"nonsense", headers=kind).status_code == 400
    assert post("/api/v1/jobs/unknown/again", json={"model": "tiny"}).status_code == 404
    assert shared.post(b"nothing", "x.png").status_code == 415
    assert shared.post(b"nothing", "x.png").json()["detail"].startswith("x.png")
    assert not strays(shared)


def test_the_size_of_a_request_is_limited_whether_it_is_told_or_not(tmp_path: Path) -> None:
    with serving(tmp_path / "data", Settings(PIXELS, max_bytes=2**20)) as served:
        assert served.post(b"x" * 2**19).status_code == 201
        assert served.post(b"x" * 2**20).status_code == 413

        def chunks() -> Iterator[bytes]:
            yield b'--b\r\nContent-Disposition: form-data; name="picture"; filename="a"\r\n\r\n'
            for _ in range(64):
                yield b"x" * 2**15

        kind = {"Content-Type": "multipart/form-data; boundary=b"}
        assert served.client.post("/api/v1/jobs", content=chunks(), headers=kind).status_code == 413
        assert len(left_over(tmp_path / "data")) == 1


@pytest.mark.parametrize(
    "name", ["../../x.png", "/etc/passwd", "C:\\x.png", "..", "\x1b[31mred", "a" * 1000, "‮gnp.exe", ""]
)
def test_the_name_of_a_file_reaches_no_path_and_no_header(shared: Served, name: str) -> None:
    id = shared.add(b"pixels", name or "x")
    job = shared.ended(id)
    assert len(job["name"]) <= 255
    assert job["name"].isprintable()
    assert "/" not in job["name"]
    files = {path.name for path in shared.service.store.folder_of(id).rglob("*") if path.is_file()}
    assert files == {"picture", "preview", "result.png"}
    disposition = shared.get(f"jobs/{id}/result").headers["content-disposition"]
    assert "/" not in disposition.replace("utf-8''", "")
    assert "\\" not in disposition


@pytest.mark.parametrize("id", ["..", "%2e%2e", "jobs.sqlite", "..%2fjobs", "unknown", "a/b"])
def test_ids_are_no_paths(shared: Served, id: str) -> None:
    for what in ("", "/input", "/result", "/preview", "/steps/1"):
        assert shared.client.get(f"/api/v1/jobs/{id}{what}").status_code in (404, 405), what


def test_clients_that_vanish_leave_nothing(served: Served, tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="picture"; filename="a"\r\n\r\n' + b"x" * 10**5
        raise ConnectionError

    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    for _ in range(20):  # more than are received at a time
        with pytest.raises((ConnectionError, httpx2.HTTPError)):
            served.client.post("/api/v1/jobs", content=chunks(), headers=kind)
    served.ended(served.add(b"pixels"))
    assert len(left_over(tmp_path / "data")) == 1


def test_the_description_of_the_api_names_every_route_and_value(shared: Served) -> None:
    described = shared.get("openapi.json").json()
    routes = {(verb, path) for path, verbs in described["paths"].items() for verb in verbs}
    assert ("post", "/api/v1/jobs") in routes
    assert ("post", "/api/v1/jobs/{id}/again") in routes
    assert len(routes) == 19
    form = described["paths"]["/api/v1/jobs"]["post"]["requestBody"]["content"]["multipart/form-data"]
    assert form["schema"]["required"] == ["picture", "options"]
    assert {"Job", "Model", "ServiceState", "ErrorLine"} <= described["components"]["schemas"].keys()


def test_models_and_limits(shared: Served) -> None:
    (model,) = shared.get("models").json()
    assert (model["name"], model["metrics"], model["example"]) == ("tiny", {"psnr": 30.0}, None)
    state = shared.get("service").json()
    assert (state["models_default"], state["samplers"]) == ("tiny", ["posterior"])
    assert state["queue"] == {"waiting": 0, "limit": 1000}
    assert "Sony50mmf16.0BS" in state["lenses"]
