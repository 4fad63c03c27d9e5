"""The worker's process: started, spoken to, and started again when it ends."""

import asyncio
import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from refusion.web.messages import MAX_LINE, REPORTS, Answer, Check, Command, Ready, Report, View
from refusion.web.refusal import Refusal

DELAYS = (0.0, 1.0, 5.0, 30.0)
"""Seconds before a worker is started again: at once, and ever later while it ends before it is ready."""
PATIENCE = 60.0
"""Seconds that a request waits for the worker's start, or for the answer to a check."""
TRIES = 3
"""How often a question is asked while workers end under it that are at something else."""
GRACE = 2.0
"""Seconds in which a worker that said its last may end by itself."""
WAIT = 10
"""Seconds after which a client may ask again."""


@dataclass(frozen=True)
class Words:
    """What starts a worker.

    Args:
        command: the program and its arguments. It reads commands on standard input, writes reports on
            standard output, and ends when its input does.
        environment: variables beside those of this process.
    """

    command: Sequence[str]
    environment: Mapping[str, str]


def worker_words(
    models: Sequence[Path], device: str | None, max_pixels: int, threads: int | None = None
) -> Words:
    """Return what starts a worker of this package.

    Args:
        models: models beside the bundled ones, files or folders.
        device: see `refusion.load`.
        max_pixels: of a picture that is decoded.
        threads: that it computes with; by default see `refusion.restoring.threads.use_threads`.
    """
    command = [sys.executable, "-m", "refusion.web.worker", "--max-pixels", str(max_pixels)]
    command += ["--device", device] if device else []
    command += [str(path.absolute()) for path in models]
    return Words(command, {} if threads is None else {"OMP_NUM_THREADS": str(threads)})


@dataclass(frozen=True)
class Ended:
    """The end of a worker.

    Args:
        reason: its signal or status, in words.
        source: the picture that it was showing, if any.
    """

    reason: str
    source: str | None


class WorkerProcess:
    """A worker that is started again whenever it ends.

    Args:
        words: what starts it.
        on_report: called with each report about a job, and with `Ready`.
        on_end: called when it has ended.
    """

    def __init__(
        self, words: Words, on_report: Callable[[Report], object], on_end: Callable[[Ended], object]
    ) -> None:
        self._words, self._on_report, self._on_end = words, on_report, on_end
        self._process: asyncio.subprocess.Process | None = None
        self._ready: Ready | None = None
        self._is_ready = asyncio.Event()
        self._questions: dict[int, tuple[Check | View, asyncio.Future[Answer]]] = {}
        self._numbers = itertools.count(1)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def is_ready(self) -> bool:
        return self._is_ready.is_set()

    async def ready(self) -> Ready:
        """Return what the worker told at its start, when it has started.

        Raises:
            Refusal: it does not start.
        """
        try:
            await asyncio.wait_for(self._is_ready.wait(), PATIENCE)
        except TimeoutError:
            raise Refusal(503, "the worker does not start: see what it prints", WAIT) from None
        assert self._ready is not None
        return self._ready

    async def run(self) -> None:
        """Keep a worker running until cancelled, which ends it."""
        failures = 0
        try:
            while True:
                await asyncio.sleep(DELAYS[min(failures, len(DELAYS) - 1)])
                failures = 0 if await self._run_once() else failures + 1
        finally:
            await self._stop()

    def send(self, command: Command) -> None:
        """Send a command; it is lost if the worker is just ending, which `on_end` tells."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(command.model_dump_json().encode() + b"\n")

    async def ask(self, make_question: Callable[[int], Check | View]) -> None:
        """Ask a question, and wait for its answer.

        Args:
            make_question: called with its number.

        Raises:
            Refusal: the answer is a refusal, or workers ended again and again.
        """
        for _ in range(TRIES):
            answer = await self._ask_once(make_question)
            if answer.status != 503:
                break
        if answer.status != 200:
            raise Refusal(answer.status, answer.error, WAIT if answer.status == 503 else None)

    async def _ask_once(self, make_question: Callable[[int], Check | View]) -> Answer:
        await self.ready()
        number = next(self._numbers)
        question = make_question(number)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._questions[number] = (question, future)
        self.send(question)
        try:
            return await future
        finally:
            self._questions.pop(number, None)

    async def _run_once(self) -> bool:
        """Start a worker, pass on its reports until it ends, and return whether it was ready."""
        pipe = asyncio.subprocess.PIPE
        environment = {**os.environ, **self._words.environment}
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._words.command, stdin=pipe, stdout=pipe, env=environment, limit=MAX_LINE
            )
        except OSError:  # there is no memory for it at the moment
            return False
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError):  # it says what is no report
            while line := await self._process.stdout.readline():
                self._hear(REPORTS.validate_json(line))
        status = await _ended(self._process)
        was_ready = self.is_ready
        self._process = None
        self._is_ready.clear()
        self._on_end(Ended(_reason(status), self._give_up(_reason(status))))
        return was_ready

    def _hear(self, report: Report) -> None:
        if report.kind == "answer":
            _, future = self._questions.get(report.number, (None, None))
            if future is not None and not future.done():
                future.set_result(report)
            return
        if report.kind == "ready":
            self._ready = report
            self._is_ready.set()
        self._on_report(report)

    def _give_up(self, reason: str) -> str | None:
        """Answer all questions after the worker's end, and return the picture that it was showing."""
        shown: str | None = None
        for number, (question, future) in sorted(self._questions.items()):
            answer = Answer(number=number, status=503, error="the worker ended and starts again: ask again")
            if question.kind == "view" and shown is None:  # they are made in this order
                shown = question.source
                line = f"{question.name}: the worker ended ({reason}) while it read this: convert it first"
                answer = Answer(number=number, status=415, error=line)
            if not future.done():
                future.set_result(answer)
        return shown

    async def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()  # all that it writes is whole or not at all
            await process.wait()


async def _ended(process: asyncio.subprocess.Process) -> int:
    """Return the status of a process that said its last, and end it if it does not do so itself.

    It is not killed at once: a signal to one that has ended would take its status away.
    """
    with contextlib.suppress(TimeoutError):
        return await asyncio.wait_for(process.wait(), GRACE)
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    return await process.wait()


def _reason(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"status {status}"
