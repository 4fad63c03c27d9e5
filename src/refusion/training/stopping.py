"""Signals that ask a training to stop, which it does at the next good moment."""

import contextlib
import signal
import threading
from collections.abc import Iterable, Iterator
from multiprocessing import resource_tracker
from types import FrameType
from typing import Any, TypeVar

import torch
from lightning.fabric import Fabric

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether somebody asked to stop.

    A signal raises nothing, for it could come where C calls Python, or within a write: whoever works asks.
    """

    def __init__(self) -> None:
        self.number = 0  # of the signal; 0 of none
        self._handlers: dict[int, Any] = {}

    def check(self) -> None:
        """Raise KeyboardInterrupt for SIGINT, or SystemExit with status 143 for SIGTERM, if there was one."""
        if self.number:
            raise KeyboardInterrupt if self.number == signal.SIGINT else SystemExit(128 + self.number)

    def agreed(self, fabric: Fabric) -> bool:
        """Return whether any process was asked to stop, the same in all; all have to call it.

        A request that comes to one of them later is for the next call.
        """
        if fabric.world_size == 1:
            return self.number > 0
        largest: Any = fabric.all_reduce(torch.tensor(self.number, device=fabric.device), reduce_op="max")
        number = int(largest)
        if number:
            self.number = number
        return number > 0

    def raise_agreed(self, fabric: Fabric) -> None:
        """Raise in all processes what `check` does, if any was asked to stop; all have to call it."""
        if self.agreed(fabric):
            self.check()

    def heeded(self, items: Iterable[T], fabric: Fabric) -> Iterator[T]:
        """Yield items, as many in all processes, and ask before each, see `raise_agreed`."""
        for item in items:
            self.raise_agreed(fabric)
            yield item

    def _receive(self, number: int, frame: FrameType | None) -> None:
        """Keep a request; a second signal does what it did before training."""
        signal.signal(number, self._handlers[number])
        self.number = number


@contextlib.contextmanager
def stop_requests() -> Iterator[Stop]:
    """Receive SIGINT and SIGTERM within the block, and raise at its end what nobody asked for.

    Only the main thread can.
    """
    stop = Stop()
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            stop._handlers[number] = signal.getsignal(number)
            signal.signal(number, stop._receive)
    try:
        yield stop
        stop.check()
    finally:
        for received, handler in stop._handlers.items():
            signal.signal(received, handler)


@contextlib.contextmanager
def without_signals() -> Iterator[None]:
    """Start processes that hear neither Ctrl-C nor SIGTERM, which terminals and job schedulers send to all.

    The first process ends them.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        resource_tracker.ensure_running()  # of multiprocessing; its start ends the mask
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
