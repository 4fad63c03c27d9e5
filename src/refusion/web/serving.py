"""The process that serves: its socket, its signals, and the browser."""

import asyncio
import contextlib
import socket
import tempfile
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from urllib.parse import quote

import uvicorn

from refusion.errors import RefusionError
from refusion.web.app import add_page, create_app
from refusion.web.process import Words
from refusion.web.security import Access
from refusion.web.service import Service, Settings
from refusion.web.store import Store


@dataclass(frozen=True)
class Serving:
    """All that a server needs to know.

    Args:
        host, port: where it listens.
        access: who may use it.
        data: folder of the store.
        words: what starts the worker.
        settings: of the service.
    """

    host: str
    port: int
    access: Access
    data: Path
    words: Words
    settings: Settings


def serve(serving: Serving, open_browser: bool, say: Callable[[str], object]) -> None:
    """Serve until a signal ends it.

    Args:
        serving: what is served, and where.
        open_browser: whether to open the page when there is a browser.
        say: called with the address.

    Raises:
        RefusionError: the port is taken, or the folder of the store cannot be used.
    """
    with _listen(serving.host, serving.port) as listening:
        store = Store(serving.data)
        tempfile.tempdir = str(store.folder)  # uploads on their way: one disk, and not in memory
        service: list[Service] = []

        def make_service() -> Service:
            service.append(Service(store, serving.words, serving.settings))
            return service[0]

        def started() -> None:
            address = _address(serving, listening.getsockname()[1])
            say(f"serving at {address} (Ctrl-C ends it)")
            if open_browser:
                with contextlib.suppress(webbrowser.Error):
                    webbrowser.open(address)

        app = create_app(make_service, serving.access)
        add_page(app, serving.settings.page)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
        )
        server = _Server(config, started, lambda: service[0].hang_up())
        server.run(sockets=[listening])


class _Server(uvicorn.Server):
    """A server that tells when it is there, and lets its listeners go when it ends."""

    def __init__(
        self, config: uvicorn.Config, started: Callable[[], object], ending: Callable[[], object]
    ) -> None:
        super().__init__(config)
        self._tell, self._ending = started, ending
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._loop.run_in_executor(None, self._tell)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._ending)


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        RefusionError: the host is unknown, or the port taken.
    """
    try:
        family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(place[:2], family=family, backlog=2048)
    except OSError as error:
        text = f"{host}:{port} cannot be listened at ({error.strerror})"
        raise RefusionError(f"{text}: give another --port, or end what uses it") from error


def _address(serving: Serving, port: int) -> str:
    """Return the address of the page, with the token if there is one."""
    host = "127.0.0.1" if serving.host in ("0.0.0.0", "::", "") else serving.host
    shown = f"[{host}]" if ":" in host else host
    query = f"?token={quote(serving.access.token)}" if serving.access.token else ""
    return f"http://{shown}:{port}/{query}"
