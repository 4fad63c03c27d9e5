"""Ends of commands at random moments; the variable MOMENTS of the environment says how many."""

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pytest

MOMENTS = int(os.environ.get("MOMENTS", "4"))
STOPPED = "refusion: stopped\n"

SERVER = """
import importlib, json, os, sys

for module in sys.argv[1:]:
    importlib.import_module(module)
from refusion.__main__ import main

for line in sys.stdin:
    if (pid := os.fork()) == 0:
        os.setsid()
        words, error = json.loads(line)
        for number, path in enumerate((os.devnull, os.devnull, error)):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
        sys.argv = ["refusion", *words]
        main()
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Command:
    """Commands one after another, each in a fork of a process that has imported what takes seconds, and in a
    group of processes of its own.

    Args:
        error: file for what they say to stderr.
        modules: to be imported before.
    """

    def __init__(self, error: Path, *modules: str) -> None:
        self._error = error
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER, *modules], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )

    def start(self, *words: object) -> int:
        """Start a command; return the number of its process."""
        line = json.dumps([[str(word) for word in words], str(self._error)])
        _pipe(self._server.stdin).write(line.encode() + b"\n")
        return int(_pipe(self._server.stdout).readline())

    def ends_within(self, seconds: float) -> bool:
        return bool(select.select([_pipe(self._server.stdout)], [], [], seconds)[0])

    def result(self) -> tuple[int, str]:
        """Wait for the end; return the status and what was said to stderr."""
        status = int(_pipe(self._server.stdout).readline())
        return status, self._error.read_text()

    def close(self) -> None:
        _pipe(self._server.stdin).close()
        _pipe(self._server.stdout).close()
        self._server.wait(60)


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def wait_for_handlers(pid: int) -> None:
    """Return when a command heeds SIGTERM; before that Python starts, and a signal kills it."""
    state = Path(f"/proc/{pid}/status")
    if not state.exists():
        pytest.skip("only Linux tells which signals a process handles")
    handled = None
    while handled is None or not int(handled[1], 16) >> signal.SIGTERM - 1 & 1:
        time.sleep(0.005)
        handled = re.search(r"^SigCgt:\s*(\w+)", state.read_text(), re.MULTILINE)


def told(number: signal.Signals) -> tuple[int, str]:
    """Return the status of a command that a signal ended, and what it said last."""
    return (-number, "") if number == signal.SIGKILL else (128 + number, STOPPED)
