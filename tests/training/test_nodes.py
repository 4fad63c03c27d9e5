"""Training on several machines, here of one: as many agents of torchrun, each with processes of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from test_stages import recipe, weights

from refusion.training import processes
from refusion.training.run import train

STEPS = {"training__steps": 40, "training__validate_every": 40, "training__save_every": 5}


class Nodes:
    """Agents of torchrun that train one model.

    Args:
        count: of the agents.
        words: of `refusion train`.
    """

    def __init__(self, count: int, *words: object) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        launch = [sys.executable, "-m", "torch.distributed.run", "--master-addr=127.0.0.1"]
        launch += [f"--master-port={port}", f"--nnodes={count}", f"--nproc-per-node={2 // count}"]
        train = [
            "-m",
            "refusion",
            "train",
            *map(str, words),
            "--nodes",
            str(count),
            "--devices",
            str(2 // count),
        ]
        self.agents = [
            subprocess.Popen(
                [*launch, f"--node-rank={rank}", *train],
                env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            for rank in range(count)
        ]

    def trainer(self) -> psutil.Process:
        """Return the last of the processes that train."""
        children = psutil.Process(self.agents[-1].pid).children()
        return max((c for c in children if "refusion" in c.cmdline()), key=lambda c: int(c.environ()["RANK"]))

    def result(self) -> tuple[list[int], str]:
        """Wait for the end of all; return their statuses and what they said."""
        said = [agent.communicate(timeout=240)[1] for agent in self.agents]
        return [agent.returncode for agent in self.agents], "".join(said)

    def close(self) -> None:
        for agent in self.agents:
            if agent.poll() is None:
                os.killpg(agent.pid, signal.SIGKILL)
                agent.communicate()


@pytest.fixture
def started() -> Iterator[list[Nodes]]:
    """What is started; it is ended."""
    nodes: list[Nodes] = []
    yield nodes
    for one in nodes:
        one.close()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", [1, 2])
def test_a_killed_process_is_told_by_the_others_and_the_run_resumes_as_one_of_one_process(
    pairs: Path, tmp_path: Path, started: list[Nodes], count: int
) -> None:
    """At the same number of samples a step; sums of floats are of another order."""
    train(recipe(pairs, training__batch=4, **STEPS), tmp_path / "one")
    file, run = tmp_path / "two.yaml", tmp_path / "two"
    file.write_text(recipe(pairs, training__batch=2, **STEPS).to_yaml())
    started.append(Nodes(count, file, "-o", run))
    while not (run / "last.ckpt").exists():
        assert all(agent.poll() is None for agent in started[0].agents)
        time.sleep(0.01)
    started[0].trainer().kill()
    statuses, said = started[0].result()
    assert 0 not in statuses
    if count == 2:  # on one machine torchrun may be quicker, and ends it
        assert "refusion: process 0 of 2 lost another" in said
    reached = torch.load(run / "last.ckpt", weights_only=True)["global_step"]
    assert 0 < reached < 40
    started.append(Nodes(count, file, "-o", run))
    statuses, said = started[1].result()
    assert statuses == [0] * count, said
    for key, value in weights(tmp_path / "one").items():
        torch.testing.assert_close(weights(run)[key], value, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error"), True),
        (torch.distributed.DistBackendError("NCCL communicator was aborted"), True),
        (RuntimeError("CUDA out of memory"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_which_errors_say_that_another_process_is_lost(error: BaseException, lost: bool) -> None:
    assert processes.is_lost(error) == lost
