"""Ctrl-C ends every moment of a command with one line and its status, and a closed pipe with none."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from terminal import photo, save_model

from moments import MOMENTS, STOPPED, told, wait_for_handlers

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no signals like these")

SWALLOWING = """
import os, signal, sys, contextlib
from refusion.__main__ import heed_signals
heed_signals()
with contextlib.suppress(BaseException):
    os.kill(os.getpid(), getattr(signal, sys.argv[1]))
print("went on")
"""

ENDING = """
import atexit, os, signal, sys
from refusion import __main__, cli

class Late:
    def __del__(self, os=os, number=int(sys.argv[1])):
        os.kill(os.getpid(), number)
        os.write(1, b"late\\n")

def work():
    sys.modules["late"] = late = Late()
    atexit.register(late.__del__)
    sys.exit(int(sys.argv[2]))

cli.main = work
__main__.main()
"""

PRINTING = """
from refusion import cli
cli.app = lambda **_: print("a line")
cli.main()
"""


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_ends_even_what_swallows_exceptions(name: str, status: int) -> None:
    said = subprocess.run([sys.executable, "-c", SWALLOWING, name], capture_output=True, text=True)
    assert (said.returncode, said.stdout, said.stderr) == (status, "", STOPPED)


def test_a_closed_pipe_is_silent() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    said = subprocess.run([sys.executable, "-c", PRINTING], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (said.returncode, said.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_a_full_output_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        said = subprocess.run(
            [sys.executable, "-c", PRINTING], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert said.returncode == 1
    assert said.stderr.startswith("refusion: ")
    assert said.stderr.count("\n") == 1
    assert "No space left on device" in said.stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 1)])
def test_a_signal_after_the_work_is_done_changes_no_status(number: signal.Signals, status: int) -> None:
    """In a callback at the exit of the interpreter, and when it has taken back its handlers."""
    words = [sys.executable, "-c", ENDING, str(int(number)), str(status)]
    said = subprocess.run(words, capture_output=True, text=True)
    assert (said.returncode, said.stdout, said.stderr) == (status, "late\nlate\n", "")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ended_at_any_moment_restoring_loses_nothing_and_tells(
    number: signal.Signals, tmp_path: Path
) -> None:
    """Each run goes on where the one before ended, and redoes nothing."""
    for i in range(40):
        photo(str(tmp_path / f"in/{i}.png"), i, height=150, width=200)
    model = save_model(tmp_path / "model.safetensors", 0.05)
    command = [sys.executable, "-m", "refusion", "restore", str(tmp_path / "in"), "--model", str(model), "-o"]
    began = time.monotonic()
    subprocess.run([*command, str(tmp_path / "whole")], check=True)
    lasts, rng = time.monotonic() - began, random.Random(int(number))
    expected = contents(tmp_path / "whole")
    out, statuses = tmp_path / "out", Counter[int]()
    while statuses.total() - statuses[0] < MOMENTS:
        before = times(out)
        process = subprocess.Popen(
            [*command, str(out)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        wait_for_handlers(process.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0, lasts))
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
        assert (process.returncode, error) in ((0, ""), told(number))
        found = contents(out)
        assert expected.items() >= found.items()
        assert before.items() <= times(out).items()
        if number != signal.SIGKILL or process.returncode == 0:
            assert not list(out.glob(".*"))
        statuses[process.returncode] += 1
        if process.returncode == 0:
            assert found == expected
            shutil.rmtree(out)
    print(f"{number.name}: {dict(statuses)}")
    subprocess.run([*command, str(out)], check=True)
    assert contents(out) == expected
    assert not list(out.glob(".*"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*")}


def times(folder: Path) -> dict[str, int]:
    """Return when each file came to its name."""
    return {path.name: path.stat().st_ctime_ns for path in folder.glob("[!.]*")}
