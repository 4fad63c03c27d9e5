"""The command `serve`: what it refuses, what it imports, and how it ends."""

import builtins
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from command import Run
from refusion.cli.serving import default_folder, seconds_of

HEAVY = ("torch", "numpy", "vips", "safetensors")
STARTING = 60.0


class Started:
    """A process of the command, and the address that it says."""

    def __init__(self, folder: Path, *words: str) -> None:
        command = [sys.executable, "-m", "refusion", "serve", "--port", "0", "--no-open"]
        command += ["--data", str(folder / "data"), "--device", "cpu", *words]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.match(r"serving at (\S+) ", line)
        assert found, line
        self.address = found[1]

    def stop(self) -> tuple[int, str]:
        """End it as Ctrl-C does, and return its status and what it said."""
        self.process.send_signal(signal.SIGINT)
        said = self.process.communicate(timeout=STARTING)[1]
        return self.process.returncode, said


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    begun = Started(tmp_path)
    yield begun
    begun.process.kill()
    begun.process.communicate()


def test_it_is_there_at_once_without_torch_and_ends_at_once(started: Started) -> None:
    """The worker may still be starting, and a page may be listening."""
    process = psutil.Process(started.process.pid)
    assert httpx2.get(f"{started.address}api/v1/jobs").json() == {"jobs": []}
    used = process.cpu_times()
    assert used.user + used.system < 2
    if sys.platform == "linux":
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        assert [name for name in HEAVY if name in maps] == []
    children = process.children()
    assert len(children) == 1
    with httpx2.stream("GET", f"{started.address}api/v1/events") as stream:
        next(stream.iter_lines())
        began = time.monotonic()
        status, said = started.stop()
        assert time.monotonic() - began < 10  # within a second, on a machine that is not busy
    assert (status, said) == (130, "refusion: stopped\n")
    assert psutil.wait_procs(children, timeout=5)[1] == []


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals like these")
def test_the_worker_ends_with_a_service_that_was_killed(started: Started) -> None:
    children = psutil.Process(started.process.pid).children()
    started.process.kill()
    assert psutil.wait_procs(children, timeout=STARTING)[1] == []


@pytest.mark.slow
def test_for_other_machines_it_makes_a_token(tmp_path: Path) -> None:
    begun = Started(tmp_path, "--host", "0.0.0.0")
    try:
        address, _, token = begun.address.partition("?token=")
        assert address.startswith("http://127.0.0.1:")
        assert len(token) >= 32
        assert httpx2.get(f"{address}api/v1/jobs").status_code == 401
        given = {"Authorization": f"Bearer {token}"}
        assert httpx2.get(f"{address}api/v1/jobs", headers=given).status_code == 200
    finally:
        begun.stop()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--token", "short"), ("16",)),
        (("--keep", "soon"), ("soon", "7d")),
        (("--threads", "0"), ("--threads", "0")),
        (("--max-pixels", "0"), ("--max-pixels", "0")),
        (("--models", "nowhere"), ("nowhere",)),
        (("--host", "no.such.host.invalid"), ("no.such.host.invalid", "--port")),
        (("--data", "file/inside"), ("file", "--data")),
    ],
    ids=str,
)
def test_what_it_does_not_take_is_one_line(
    run: Run, here: Path, words: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    (here / "file").write_text("in the way")
    data = () if "--data" in words else ("--data", here / "data")
    said = run("serve", "--no-open", *data, *words)
    assert said.status == 1
    assert said.err.count("\n") == 1
    for part in parts:
        assert part in said.err


def test_a_port_that_is_taken_is_one_line(run: Run, here: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = run("serve", "--data", here / "data", "--port", port, "--no-open")
    assert (said.status, said.err.count("\n")) == (1, 1)
    assert str(port) in said.err


def test_without_the_extra_it_says_what_to_install(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "refusion.web.serving":
            raise ModuleNotFoundError("No module named 'uvicorn'", name="uvicorn")
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    said = run("serve", "--data", here / "data")
    assert said.status == 1
    assert "refusion[serve]" in said.err


@pytest.mark.parametrize(("age", "seconds"), [("7d", 604800), ("12h", 43200), ("1.5m", 90)])
def test_ages(age: str, seconds: float) -> None:
    assert seconds_of(age) == seconds


@pytest.mark.skipif(os.name == "nt", reason="other folders")
def test_data_goes_to_the_folder_for_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/there")
    assert default_folder() == Path("/there/refusion")
    monkeypatch.delenv("XDG_DATA_HOME")
    assert default_folder() == Path.home() / ".local/share/refusion"


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """SIGINT raises, also in a process whose parent had it ignored, as a shell does in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
def test_the_page_is_opened_when_the_service_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from served import ACTOR

    from refusion.web import serving
    from refusion.web.security import access_for
    from refusion.web.service import Settings

    opened: list[str] = []

    def browse(address: str) -> bool:
        opened.append(httpx2.get(f"{address}api/v1/models").json()[0]["name"])
        os.kill(os.getpid(), signal.SIGINT)
        return True

    monkeypatch.setattr("webbrowser.open", browse)
    monkeypatch.setattr("tempfile.tempdir", None)
    told: list[str] = []
    place = serving.Serving("127.0.0.1", 0, access_for("127.0.0.1", None), tmp_path, ACTOR, Settings(10**6))
    with pytest.raises(KeyboardInterrupt):
        serving.serve(place, True, told.append)
    assert opened == ["tiny"]
    assert told[0].startswith("serving at http://127.0.0.1:")
