"""A Ray cluster of two machines, here of one, writes what one process writes, whoever is killed."""

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from restored import COMMAND, contents

pytest.importorskip("ray")

ENVIRONMENT = {**os.environ, "RAY_memory_monitor_refresh_ms": "0", "RAY_USAGE_STATS_ENABLED": "0"}


class Cluster:
    """A head and a second node, each with one core."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        port = self.address.rpartition(":")[2]
        self.nodes = [self._start("--head", f"--port={port}", "--include-dashboard=false")]
        while self._nodes() < 1:
            time.sleep(0.5)
        self.nodes.append(self._start(f"--address={self.address}"))
        while self._nodes() < 2:
            time.sleep(0.5)

    def _start(self, *words: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *words, "--num-cpus=1", "--block"]
        return subprocess.Popen(
            [*command, "--disable-usage-stats"],
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _nodes(self) -> int:
        """Return how many machines the cluster has."""
        from ray._raylet import GcsClient

        try:
            found = GcsClient(address=self.address).get_all_node_info()
        except Exception:  # the head is starting
            return 0
        return sum(node.state == 0 for node in found.values())

    def workers(self, node: int) -> list[psutil.Process]:
        """Return the processes of a node that restore."""
        children = psutil.Process(self.nodes[node].pid).children(recursive=True)
        return [child for child in children if "Worker" in "".join(child.cmdline()[:1])]

    def kill(self, node: int) -> None:
        """Kill all processes of a node."""
        process = psutil.Process(self.nodes[node].pid)
        for one in [process, *process.children(recursive=True)]:
            if one.is_running():
                one.kill()
        self.nodes[node].wait()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    yield cluster
    for number, node in enumerate(cluster.nodes):
        if node.poll() is None:
            cluster.kill(number)


def interrupted(command: list[object], out: Path, strike: Callable[["subprocess.Popen[str]"], object]) -> str:
    """Run a command, strike when it has written something, and return what it said at its end."""
    process = subprocess.Popen(
        [str(word) for word in command],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (out.exists() and contents(out)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    time.sleep(random.Random(0).uniform(0, 0.3))
    strike(process)
    return "".join(process.communicate(timeout=600))


@pytest.mark.timeout(1800)
def test_whoever_is_killed_every_file_is_written_once_and_whole(
    cluster: Cluster, photos: Path, model: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    """A worker, then the command, then a machine."""
    words = [*COMMAND, photos, "--model", model, "--engine", "ray", "--threads", "1"]
    words += ["--address", cluster.address, "-o"]
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    report = tmp_path / "out.csv"
    said = interrupted(
        [*words, first, "--report", report], first, lambda process: cluster.workers(0)[0].kill()
    )
    assert f"restored 12 of 13 to {first}" in said
    assert "broken.png is damaged" in said
    assert contents(first) == whole
    assert len(report.read_text().splitlines()) == 1 + 13
    interrupted([*words, second], second, lambda process: process.kill())
    found = contents(second)
    assert found.items() <= whole.items() or any(name.endswith(".part") for name in found)
    done = subprocess.run([*words, second], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert "were there already" in done.stdout, done.stderr
    assert contents(second) == whole
    said = interrupted([*words, third], third, lambda process: cluster.kill(1))
    assert f"restored 12 of 13 to {third}" in said
    assert {name: data for name, data in contents(third).items() if not name.endswith(".part")} == whole
