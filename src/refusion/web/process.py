"""The worker's process: started, spoken to, and started again when it ends."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from refusion.web.messages import MAX_LINE, REPORTS, Command, Report

DELAYS = (0.0, 1.0, 5.0, 30.0)
"""Seconds before a worker is started again: at once, and ever later while it ends before it is ready."""


class WorkerProcess:
    """A worker that is started again whenever it ends.

    Args:
        command: the words that start it; it reads commands on standard input, writes reports on standard
            output, and ends when its input does.
        environment: variables beside those of this process.
        on_report: called with each report.
        on_end: called with the exit status when it has ended, negative for a signal.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        on_report: Callable[[Report], object],
        on_end: Callable[[int], object],
    ) -> None:
        self._command, self._environment = command, {**os.environ, **environment}
        self._on_report, self._on_end = on_report, on_end
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def run(self) -> None:
        """Keep a worker running until cancelled, which ends it."""
        failures = 0
        try:
            while True:
                await asyncio.sleep(DELAYS[min(failures, len(DELAYS) - 1)])
                failures = failures + 1 if not await self._run_once() else 0
        finally:
            await self._stop()

    def send(self, message: Command) -> None:
        """Send a command; it is lost if the worker is just ending, which `on_end` tells."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(message.model_dump_json().encode() + b"\n")

    async def _run_once(self) -> bool:
        """Start a worker, pass on its reports until it ends, and return whether there were any."""
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=pipe, stdout=pipe, env=self._environment, limit=MAX_LINE
        )
        assert self._process.stdout is not None
        reported = False
        while line := await self._process.stdout.readline():
            self._on_report(REPORTS.validate_json(line))
            reported = True
        status = await self._process.wait()
        self._process = None
        self._on_end(status)
        return reported

    async def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()  # all that it writes is whole or not at all
            await process.wait()


def worker_command(models: Sequence[Path], device: str | None, max_pixels: int) -> list[str]:
    """Return the words that start a worker of this package."""
    words = [sys.executable, "-m", "refusion.web.worker", "--max-pixels", str(max_pixels)]
    words += ["--device", device] if device else []
    return [*words, *(str(path.absolute()) for path in models)]
