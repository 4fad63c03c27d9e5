"""What the tests on servers and clusters share: commands as users run them, and a store that speaks S3."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from restored import COMMAND, contents

from refusion.imaging.arrays import from_array
from refusion.imaging.formats import write
from refusion.models.checkpoint import save
from refusion.models.spec import Card
from refusion.training.recipe import parse
from tiny import SMALLEST


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that changes every picture, in many small steps."""
    values = {**SMALLEST, "model": {**SMALLEST["model"], "sampling": {"steps": 4}}}
    recipe = parse(values, "test")
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    restorer = recipe.model.build()
    torch.manual_seed(2)
    for parameter in restorer.network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    save(path, restorer, recipe.model, Card(task="test", summary="", terms=""))
    return path


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures of several sizes, and one that is broken."""
    folder = tmp_path_factory.mktemp("photos") / "in"
    (folder / "sub").mkdir(parents=True)
    for i in range(12):
        pixels = np.random.default_rng(i).uniform(0.2, 0.8, (120 + 10 * i, 160, 3))
        write(from_array(pixels), folder / ("sub" if i % 3 == 0 else "") / f"{i}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return folder


@pytest.fixture(scope="session")
def whole(photos: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process makes of them."""
    out = tmp_path_factory.mktemp("whole") / "out"
    done = subprocess.run(
        [*COMMAND, photos, "--model", model, "-o", out], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.split()[:4]) == (1, ["restored", "12", "of", "13"]), done.stderr
    return contents(out)


@pytest.fixture(scope="session")
def s3() -> Iterator[dict[str, str]]:
    """The environment of a server of its own that speaks S3 over HTTP."""
    pytest.importorskip("moto")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        began = time.monotonic()
        while time.monotonic() - began < 60:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield {
            **os.environ,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    finally:
        server.kill()
        server.wait()
