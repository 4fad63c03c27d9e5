"""Ctrl-C ends every moment of a command with one line and its status, and a closed pipe with none."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from terminal import photo, save_model

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no signals like these")

SWALLOWING = """
import os, signal, sys, contextlib
from refusion.__main__ import heed_signals
heed_signals()
with contextlib.suppress(BaseException):
    os.kill(os.getpid(), getattr(signal, sys.argv[1]))
print("went on")
"""

PRINTING = """
from refusion import cli
cli.app = lambda **_: print("a line")
cli.main()
"""


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_ends_even_what_swallows_exceptions(name: str, status: int) -> None:
    said = subprocess.run([sys.executable, "-c", SWALLOWING, name], capture_output=True, text=True)
    assert (said.returncode, said.stdout, said.stderr) == (status, "", "refusion: stopped\n")


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


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_moment_of_restoring_is_told_and_loses_nothing(
    number: signal.Signals, tmp_path: Path
) -> None:
    for i in range(40):
        photo(str(tmp_path / f"in/{i}.png"), i, height=150, width=200)
    model = save_model(tmp_path / "model.safetensors", 0.05)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "refusion", "restore", str(tmp_path / "in"), "-o", str(out)]
    command += ["--model", str(model), "--overwrite"]
    began = time.monotonic()
    subprocess.run(command, check=True)
    whole, rng = time.monotonic() - began, random.Random(0)
    expected = {path.name: path.read_bytes() for path in out.iterdir()}
    statuses = []
    for _ in range(MOMENTS):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        time.sleep(rng.uniform(0.1, whole))  # Python itself needs the first moments
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
        statuses.append(process.returncode)
        assert (process.returncode, error) in ((0, ""), (128 + number, "refusion: stopped\n"))
        assert {path.name: path.read_bytes() for path in out.iterdir()} == expected
    assert statuses.count(128 + number) > MOMENTS // 2


MOMENTS = int(os.environ.get("MOMENTS", "4"))
