"""Pictures, masks, models and manifests in a store that speaks S3 over HTTP, and what a kill leaves there."""

import http.server
import random
import subprocess
import threading
import time
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from restored import COMMAND, contents

s3fs = pytest.importorskip("s3fs")


@pytest.fixture
def store(s3: dict[str, str], photos: Path, model: Path) -> Any:
    """A store with the pictures, the model, and nothing else."""
    files = s3fs.S3FileSystem(
        key="test",
        secret="test",
        endpoint_url=s3["AWS_ENDPOINT_URL"],
        use_listings_cache=False,
        skip_instance_cache=True,
    )
    urllib.request.urlopen(
        urllib.request.Request(f"{s3['AWS_ENDPOINT_URL']}/moto-api/reset", method="POST")
    ).close()
    files.mkdir("bucket")
    for path in photos.rglob("*.png"):
        files.put_file(str(path), f"bucket/in/{path.relative_to(photos).as_posix()}")
    files.put_file(str(model), "bucket/model.safetensors")
    return files


def stored(store: Any, folder: str) -> dict[str, bytes]:
    return {path.removeprefix(f"{folder}/"): store.cat_file(path) for path in store.find(folder)}


def test_folders_manifests_and_models_come_from_and_go_to_a_store(
    store: Any, s3: dict[str, str], whole: dict[str, bytes], tmp_path: Path
) -> None:
    environment = {**s3, "XDG_CACHE_HOME": str(tmp_path)}
    words = ["--model", "s3://bucket/model.safetensors", "--report", tmp_path / "out.csv"]
    done = subprocess.run(
        [*COMMAND, "s3://bucket/in", *words, "-o", "s3://bucket/out"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("restored 12 of 13 to s3://bucket/out"), done.stderr
    assert done.stderr.count("\n") == 1
    assert "s3://bucket/in/broken.png is damaged" in done.stderr
    assert stored(store, "bucket/out") == whole
    names = [f"s3://bucket/in/{name}\n" for name in [*whole, "broken.png", "none.png"]]
    store.pipe_file("bucket/list.txt", "".join(names).encode())
    for shard in ("1/2", "2/2"):
        done = subprocess.run(
            [*COMMAND, "s3://bucket/list.txt", *words, "--shard", shard, "-o", "s3://bucket/rows"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in (0, 1)
    assert stored(store, "bucket/rows/bucket/in") == whole


class Silent(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, without a log."""

    def log_message(self, *parts: Any) -> None:
        pass


def test_pictures_come_from_a_web_server(
    photos: Path, model: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=photos)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        root = f"http://127.0.0.1:{server.server_port}"
        (tmp_path / "list.txt").write_text(f"{root}/1.png?size=full\n{root}/none.png\n")
        command = [*COMMAND, tmp_path / "list.txt", "--model", model, "-o", tmp_path / "out"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        server.shutdown()
    assert done.stderr == f"refusion: {root}/none.png does not exist: check its name and folder\n"
    assert list(contents(tmp_path / "out").values()) == [whole["1.png"]]


def test_killed_at_any_moment_a_shard_leaves_whole_files_and_goes_on(
    store: Any, s3: dict[str, str], whole: dict[str, bytes], tmp_path: Path
) -> None:
    rng = random.Random(0)
    command = [
        *COMMAND,
        "s3://bucket/in",
        "--model",
        "s3://bucket/model.safetensors",
        "-o",
        "s3://bucket/out",
    ]
    environment = {**s3, "XDG_CACHE_HOME": str(tmp_path)}
    killed = 0
    while killed < 2:
        before = len(store.find("bucket/out"))
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while len(store.find("bucket/out")) <= before and process.poll() is None:
            time.sleep(0.1)
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        killed += process.wait() == -9
        found = stored(store, "bucket/out")
        assert whole.items() >= found.items()
        if found == whole:
            store.rm("bucket/out", recursive=True)
    subprocess.run(command, env=environment, check=False, capture_output=True)
    assert stored(store, "bucket/out") == whole
