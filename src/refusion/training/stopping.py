"""Signals that ask a training to stop: at once, or where that would lose work at the next good moment."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


class Stop:
    """Whether somebody asked to stop.

    A request is kept until it is raised by `check`, so that it is not lost where an exception in a signal
    handler is swallowed, as in a callback from C.
    """

    def __init__(self) -> None:
        self.request: BaseException | None = None
        self._deferring = False
        self._handlers: dict[int, Any] = {}

    def check(self) -> None:
        """Raise KeyboardInterrupt for SIGINT, or SystemExit with status 143 for SIGTERM, if there was one."""
        if self.request is not None:
            raise self.request

    @property
    def requested(self) -> bool:
        return self.request is not None

    @contextlib.contextmanager
    def deferred(self, when: bool = True) -> Iterator[None]:
        """Within the block a first signal raises nothing: the block asks `requested`, and saves its work."""
        self.check()
        self._deferring = when
        try:
            yield
        finally:
            self._deferring = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        """Keep a request; a second signal does what it did before training."""
        signal.signal(number, self._handlers[number])
        self.request = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
        if not self._deferring:
            raise self.request


@contextlib.contextmanager
def stop_requests() -> Iterator[Stop]:
    """Receive SIGINT and SIGTERM within the block; only the main thread can."""
    stop = Stop()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            stop._handlers[number] = signal.getsignal(number)
            signal.signal(number, stop._receive)
    try:
        yield stop
        stop.check()
    finally:
        for received, handler in stop._handlers.items():
            signal.signal(received, handler)


@contextlib.contextmanager
def without_interrupt() -> Iterator[None]:
    """Start processes that do not hear Ctrl-C, which a terminal sends to all: the first one ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
