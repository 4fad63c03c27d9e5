"""The worker: a process that decodes, restores and encodes. It alone imports torch and decoders.

It reads commands from standard input and writes reports to standard output, and ends when its input does.
Restorations run one after another in the main thread. Checks are answered by the thread that reads, and
pictures for browsers are made in a third one, so that neither waits for a restoration.
"""

import argparse
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from refusion.allocator import release_freed_memory
from refusion.errors import Cancelled, RefusionError, first_line, printable
from refusion.restoring.threads import use_threads
from refusion.web.messages import (
    COMMANDS,
    Answer,
    Cancel,
    Check,
    Failed,
    Ready,
    Report,
    Restore,
    Stopped,
    View,
)

if TYPE_CHECKING:
    from refusion.web.models import Shelf

EXPECTED = (RefusionError, ValueError, OSError, MemoryError)
"""Errors whose first line tells the client what to do."""


class Worker:
    """The threads of the worker and what they share.

    Args:
        shelf: the models.
        max_pixels: of a picture that is decoded.
        output: where reports are written.
    """

    def __init__(self, shelf: "Shelf", max_pixels: int, output: IO[bytes]) -> None:
        self._shelf, self._max_pixels, self._output = shelf, max_pixels, output
        self._writing = threading.Lock()
        self._jobs: queue.Queue[Restore] = queue.Queue()
        self._views: queue.Queue[View] = queue.Queue()
        self._cancelled: set[str] = set()

    def report(self, message: Report) -> None:
        """Write a report."""
        line = message.model_dump_json().encode() + b"\n"
        with self._writing:
            self._output.write(line)
            self._output.flush()

    def read(self, commands: IO[bytes]) -> None:
        """Read commands and hand them on; end the process when there are no more."""
        handlers = {
            "check": self._check,
            "restore": self._queue,
            "cancel": self._cancel,
            "view": self._views.put,
        }
        try:
            for line in commands:
                command = COMMANDS.validate_json(line)
                handlers[command.kind](command)  # type: ignore[operator]
        except Exception:
            traceback.print_exc()
            os._exit(1)  # a worker that hears nothing would wait for ever
        from refusion.files import discard_unfinished

        discard_unfinished()
        os._exit(0)  # whatever the other threads are at: the service has gone

    def restore(self) -> None:
        """Restore jobs for ever."""
        while True:
            command = self._jobs.get()
            self.report(self._restored(command))
            if self._jobs.empty():
                release_freed_memory()

    def view(self) -> None:
        """Make pictures for browsers for ever."""
        from refusion.web.pictures import make_view

        while True:
            command = self._views.get()
            answer = Answer(number=command.number)
            try:
                make_view(Path(command.source), Path(command.target), command.side, self._max_pixels)
            except Exception as error:
                line = _line(error).replace(command.source, command.name)
                answer = Answer(number=command.number, status=415, error=line)
            self.report(answer)

    def _restored(self, command: Restore) -> Report:
        from refusion.web.restoration import Hooks, restore_job

        def cancelled() -> bool:
            return command.id in self._cancelled

        try:
            model = self._shelf.load(command.options.model)
            return restore_job(command, model, self._max_pixels, Hooks(self.report, cancelled))
        except Cancelled:
            return Stopped(id=command.id)
        except Exception as error:
            return Failed(id=command.id, error=_named(_line(error), command))

    def _check(self, command: Check) -> None:
        self.report(self._checked(command))

    def _checked(self, command: Check) -> Answer:
        from refusion.imaging.formats import READABLE
        from refusion.web.models import check_job, is_picture_file
        from refusion.web.restoration import result_suffix

        folder = Path(command.folder)
        for part, name in command.names.items():
            if not is_picture_file(folder / part):
                line = f"{name} is not a picture in one of the formats {' '.join(READABLE)}: convert it first"
                return Answer(number=command.number, status=415, error=line)
        try:
            check_job(self._shelf.header(command.options.model), command.options, list(command.names))
            result_suffix(folder / "picture", command.options.suffix)
        except EXPECTED as error:
            return Answer(number=command.number, status=400, error=first_line(error))
        except Exception as error:
            return Answer(number=command.number, status=500, error=_line(error))
        return Answer(number=command.number)

    def _queue(self, command: Restore) -> None:
        self._cancelled.discard(command.id)  # by a cancel that came when its last try had just ended
        self._jobs.put(command)

    def _cancel(self, command: Cancel) -> None:
        self._cancelled.add(command.id)


def _line(error: Exception) -> str:
    """Return an error in one line; what the client cannot help is printed, too, as a fault of the program."""
    if isinstance(error, EXPECTED) or "memory" in str(error):
        return first_line(error)
    traceback.print_exception(error)
    return f"a fault of refusion ({type(error).__name__}: {first_line(error)}): please report it"


def _named(line: str, command: Restore) -> str:
    """Return an error with the client's names instead of the files of the service."""
    for part, name in command.names.items():
        path = str(Path(command.folder) / part)
        line = line.replace(f"{path}-crop.tif", name).replace(path, name)
    return line.replace(command.folder + os.sep, "")


def main(words: Sequence[str] | None = None) -> None:
    """Run a worker until standard input ends."""
    parser = argparse.ArgumentParser(prog="refusion.web.worker")
    parser.add_argument("models", type=Path, nargs="*")
    parser.add_argument("--device")
    parser.add_argument("--max-pixels", type=int, required=True)
    settings = parser.parse_args(words)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the service ends the worker
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no report
    use_threads(None)
    from refusion.diffusion.sampling import SAMPLERS
    from refusion.imaging.formats import READABLE
    from refusion.web.models import Shelf

    try:
        shelf = Shelf(settings.models, settings.device)
    except RefusionError as error:
        sys.exit(f"refusion: {printable(error)}")
    worker = Worker(shelf, settings.max_pixels, output)
    worker.report(Ready(models=shelf.described(), samplers=list(SAMPLERS), formats=list(READABLE)))
    threading.Thread(target=worker.view, daemon=True).start()
    threading.Thread(target=worker.read, args=[sys.stdin.buffer], daemon=True).start()
    worker.restore()


if __name__ == "__main__":
    main()
