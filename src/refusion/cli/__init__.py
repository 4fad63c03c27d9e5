"""The command line: typed functions that call the package and print.

The modules import nothing heavy, so that help and errors appear at once; each command imports what it needs.
"""

import contextlib
import os
import sys
from typing import Any

from cyclopts import App, CycloptsError

import refusion
from refusion.cli import measuring, models, restoring, serving, studying, training
from refusion.cli.console import complain, warnings_as_lines
from refusion.cli.pipes import spelt_out
from refusion.errors import RefusionError, first_line


class Program(App):
    """The commands; "-" is standard input or output for `restore`."""

    def __call__(self, tokens: Any = None, **settings: Any) -> Any:
        words = sys.argv[1:] if tokens is None else tokens
        return super().__call__(words if isinstance(words, str) else spelt_out(words), **settings)


app = Program(
    name="refusion",
    version=refusion.__version__,
    help="Restore photographs with mean-reverting diffusion.",
    suppress_keyboard_interrupt=False,
)
for command in (
    restoring.restore,
    training.train,
    measuring.evaluate,
    measuring.calibrate,
    training.doctor,
    restoring.diffuse,
    serving.serve,
    models.export,
    models.models,
    models.info,
):
    app.command(command)
app.command(models.import_, name="import")
app.command(studying.study)
app.register_install_completion_command(
    add_to_startup=False, help="Write the completion of commands and options for your shell, and say where."
)


CLOSED_PIPE = 141
"""The status of a program whose reader went away, as shells report it: 128 + SIGPIPE."""


def main() -> None:
    """Run a command; an expected failure prints one line and exits with status 1, a closed pipe is silent."""
    try:
        status = _run()
        sys.stdout.flush()  # the interpreter would do it too late for a message
    except BrokenPipeError:
        status = CLOSED_PIPE
        _silence()
    except OSError as error:
        _silence()
        complain(f"the output cannot be written ({error.strerror})")
        status = 1
    sys.exit(status)


def _run() -> int:
    try:
        with warnings_as_lines():
            status = app(result_action="return_value", exit_on_error=False, print_error=False)
    except CycloptsError as error:
        complain(" ".join(str(error).split()))
        status = 2
    except BrokenPipeError:
        raise
    except (RefusionError, ValueError, OSError) as error:
        complain(error)
        status = 1
    except RuntimeError as error:
        if "memory" not in str(error):
            raise
        complain(first_line(error))
        status = 1
    except KeyboardInterrupt:
        complain("stopped")
        status = 130
    except SystemExit as stopped:  # of training, by SIGTERM
        complain("stopped")
        status = stopped.code
    return status if isinstance(status, int) else 0


def _silence() -> None:
    """Send what stdout still holds to nowhere, lest the interpreter complains about it at its end."""
    with contextlib.suppress(OSError, ValueError):  # without a file beneath
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
