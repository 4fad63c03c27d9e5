"""The entry point of `refusion` and of `python -m refusion`.

Signals are heeded before anything heavy is imported.
"""

import contextlib
import os
import signal
import sys
from types import FrameType

from refusion.allocator import keep_freed_memory

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main() -> None:
    """Run a command; SIGINT and SIGTERM end it at once, with a line and the status 128 + their number."""
    heed_signals()
    # Threads that wait for each other asleep, not in a loop: beside another program that takes a core, loops
    # made two threads several times slower than one.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed_memory()
    try:
        from refusion.cli import main as run

        run()
    finally:  # SystemExit, too: all is written, and the status is known
        ignore_signals()


def heed_signals() -> None:
    """Let SIGINT and SIGTERM end the process from within the handler.

    An exception, as Python's KeyboardInterrupt, would be swallowed where C calls Python, as libvips and torch
    do, and by what is being imported. Nothing needs to be unwound: files are written whole or not at all.
    Training replaces these handlers while it runs.
    """
    owner = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:  # not a forked worker
            files = sys.modules.get("refusion.files")  # which imports torch
            with contextlib.suppress(Exception):  # it may be half imported
                if files is not None:
                    files.discard_unfinished()
            clear = b"\r\x1b[K" if os.isatty(2) else b""  # of a progress bar
            with contextlib.suppress(OSError):
                os.write(2, clear + b"refusion: stopped\n")
        os._exit(128 + number)

    for number in SIGNALS:
        signal.signal(number, stop)


def ignore_signals() -> None:
    """Let the interpreter end with the status of the command.

    While it ends it takes back the handlers, and a signal would kill a command that is done.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    main()
