"""A service that listens, in a thread of the tests, and its client."""

import asyncio
import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import torch
import uvicorn

from refusion.models.checkpoint import save
from refusion.models.spec import Card
from refusion.training.recipe import parse
from refusion.web.app import add_page, create_app
from refusion.web.process import Words
from refusion.web.security import Access
from refusion.web.service import Service, Settings
from refusion.web.store import Store
from tiny import SMALLEST

ACTOR = Words([sys.executable, str(Path(__file__).with_name("actor.py"))], {})
SOON = 60.0
"""Seconds within which everything happens that tests wait for."""


@dataclass
class Served:
    """A client of a service, and the service."""

    client: httpx2.Client
    service: Service
    loop: asyncio.AbstractEventLoop

    def post(self, content: bytes, name: str = "a.png", **options: Any) -> httpx2.Response:
        """Post a job with a picture, or with several files as a dict of the options' key `files`."""
        files = {"picture": (name, content)}
        files |= {part: (f"{part}.png", data) for part, data in options.pop("files", {}).items()}
        data = {"options": json.dumps({"model": "tiny", **options})}
        return self.client.post("/api/v1/jobs", files=files, data=data)

    def add(self, content: bytes, name: str = "a.png", **options: Any) -> str:
        """Post a job, and return its id."""
        answer = self.post(content, name, **options)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def get(self, path: str, **query: Any) -> httpx2.Response:
        return self.client.get(f"/api/v1/{path}", params=query or None)

    def job(self, id: str) -> dict[str, Any]:
        answer = self.get(f"jobs/{id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def ended(self, id: str) -> dict[str, Any]:
        """Wait for the end of a job."""
        wait_for(lambda: self.job(id)["state"] in ("done", "failed", "cancelled"))
        return self.job(id)

    def running(self, id: str) -> dict[str, Any]:
        """Wait for the first step of a job."""
        wait_for(lambda: self.job(id)["step"] > 0)
        return self.job(id)

    def call(self, method: Callable[[], Any]) -> None:
        """Call something in the event loop of the service."""
        done = threading.Event()
        self.loop.call_soon_threadsafe(lambda: (method(), done.set()))
        assert done.wait(SOON)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


@contextlib.contextmanager
def serving(
    folder: Path, settings: Settings = Settings(10**8), words: Words = ACTOR, access: Access = Access()
) -> Iterator[Served]:
    """Serve from a folder within the block."""
    store = Store(folder)
    services: list[Service] = []

    def make_service() -> Service:
        services.append(Service(store, words, settings))
        return services[0]

    app = create_app(make_service, access)
    add_page(app, settings.page)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    loops: list[asyncio.AbstractEventLoop] = []

    async def run() -> None:
        loops.append(asyncio.get_running_loop())
        await server.serve([listening])

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        wait_for(lambda: server.started)
        headers = {"Authorization": f"Bearer {access.token}"} if access.token else {}
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with httpx2.Client(base_url=address, headers=headers, timeout=SOON) as client:
            yield Served(client, services[0], loops[0])
    finally:
        if services:
            loops[0].call_soon_threadsafe(services[0].hang_up)
        server.should_exit = True
        thread.join()
        listening.close()


def save_models(folder: Path) -> Path:
    """Write a small model of each kind, which changes every picture."""
    network = SMALLEST["model"]["network"]
    kinds: dict[str, dict[str, Any]] = {
        "tiny": {},
        "denoising": {
            "process": {"kind": "denoising", "noise_level": "70/255"},
            "network": {**network, "conditional": False},
        },
        "bokeh": {"network": {**network, "conditions": 3}},
        "stereo": {"network": {**network, "stereo": True}, "enlarge": {"factor": 2}},
        "guided": {"network": {**network, "guides": 1}},
        "filling": {"network": {**network, "guides": 1}, "fill": "harmonic"},
    }
    for name, values in kinds.items():
        recipe = parse({**SMALLEST, "model": {**SMALLEST["model"], "sampling": {"steps": 2}, **values}}, name)
        restorer = recipe.model.build()
        torch.manual_seed(2)
        for parameter in restorer.network.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        card = Card(task="test", summary="For tests.", terms="None.", metrics={"psnr": 30.25})
        save(folder / f"{name}.safetensors", restorer, recipe.model, card, recipe.provenance())
    return folder
