"""The command `serve`."""

import os
import re
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from refusion.cli.console import say
from refusion.cli.flags import Device
from refusion.errors import RefusionError
from refusion.restoring.threads import check_threads

UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0}
Token = Annotated[str | None, Parameter(env_var="REFUSION_TOKEN")]
Data = Annotated[Path | None, Parameter(env_var="REFUSION_DATA")]


def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 8187,
    token: Token = None,
    models: Annotated[list[Path] | None, Parameter(negative="")] = None,
    data: Data = None,
    max_pixels: int = 400_000_000,
    max_bytes: int = 2**30,
    max_waiting: int = 1000,
    keep: str = "7d",
    room: int = 20 * 2**30,
    open: bool = True,
    threads: int | None = None,
    device: Device = None,
) -> None:
    """Restore pictures on a page in the browser, and by HTTP; Ctrl-C ends it.

    Args:
        host: Address to listen at; one that other machines reach needs a token.
        port: Port to listen at; 0 takes a free one.
        token: What clients must know, at least 16 characters; for other machines one is made by default.
        models: Models beside the bundled ones: files, folders of training runs, or folders of files.
        data: Folder of pictures and results; by default refusion in the user's folder for data.
        max_pixels: Refuse pictures with more pixels, before they are decoded.
        max_bytes: Refuse requests with more bytes.
        max_waiting: Jobs that may wait.
        keep: Age at which finished jobs are deleted, as 7d, 12h or 30m.
        room: Bytes of pictures and results, beyond which the oldest finished jobs are deleted.
        open: Open the page in the browser.
        threads: Threads of the worker; by default one for each core that it may use.
    """
    try:
        from refusion.web.serving import Serving, serve
    except ModuleNotFoundError as error:
        raise RefusionError(f"serving needs {error.name}: pip install 'refusion[serve]'") from error
    from refusion.web.process import worker_words
    from refusion.web.security import access_for
    from refusion.web.service import Settings
    from refusion.web.store import Keeping

    check_threads(threads)
    for name, value in (("max-pixels", max_pixels), ("max-bytes", max_bytes), ("max-waiting", max_waiting)):
        if value < 1:
            raise ValueError(f"--{name} is {value}: give at least 1")
    for path in models or []:
        if not path.exists():
            raise RefusionError(f"{path} does not exist: check its name and folder")
    serving = Serving(
        host=host,
        port=port,
        access=access_for(host, token),
        data=data or default_folder(),
        words=worker_words(models or [], device, max_pixels, threads),
        settings=Settings(max_pixels, max_bytes, max_waiting, Keeping(seconds_of(keep), room)),
    )
    serve(serving, open, _announce)


def _announce(line: str) -> None:
    """Print a line at once, also where the output is no terminal."""
    say(line)
    sys.stdout.flush()


def seconds_of(age: str) -> float:
    """Return the seconds of an age, as 7d, 12h or 30m.

    Raises:
        ValueError: it is written otherwise.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([mhd])", age, re.ASCII)
    if match is None:
        raise ValueError(f"--keep is {age}: give a number and m, h or d, as 7d")
    return float(match[1]) * UNITS[match[2]]


def default_folder() -> Path:
    """Return the folder of pictures and results in the user's folder for data."""
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local")) / "refusion"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "refusion"
