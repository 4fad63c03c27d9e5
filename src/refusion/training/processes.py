"""The processes of a run: how they begin and how they end."""

import contextlib
import subprocess
from collections.abc import Iterator

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from refusion.errors import RecipeError, RefusionError
from refusion.models.checkpoint import best_device
from refusion.training.stopping import without_signals

GRACE = 5.0
"""Seconds in which processes that agreed on stopping do so."""


def make_fabric(devices: int | None = None, nodes: int = 1) -> Fabric:
    """Return the engine: processes, devices and their communication.

    Args:
        devices: processes on each machine; None takes all accelerators, or one CPU.
        nodes: machines.

    Raises:
        RecipeError: fewer than one of them.
    """
    for name, count in (("devices", devices), ("nodes", nodes)):
        if count is not None and count < 1:
            raise RecipeError(f"{name} is {count}: give at least 1")
    return Fabric(devices=devices or (1 if best_device().type == "cpu" else "auto"), num_nodes=nodes)


@contextlib.contextmanager
def launched(fabric: Fabric) -> Iterator[None]:
    """Start the processes, and end those that this one started if an error or a signal ends the block.

    They hear no signals; this one tells them, see `Stop.agreed`. Where they wait for it in C, nothing but
    SIGKILL ends them; that loses nothing, because the first process alone writes.

    Raises:
        RefusionError: another process ended, or its machine cannot be reached.
    """
    try:
        with without_signals():
            fabric.launch()
        yield
    except BaseException as error:
        launcher = fabric.strategy.launcher
        if isinstance(launcher, _SubprocessScriptLauncher):  # of several processes
            _end(launcher.procs)
        if fabric.world_size > 1 and is_lost(error):
            text = (
                f"process {fabric.global_rank} of {fabric.world_size} lost another, which ended or is cut off"
            )
            raise RefusionError(f"{text}: see what that said, then resume by the same command") from error
        raise


def is_lost(error: BaseException) -> bool:
    """Return whether an error says that another process does not answer; gloo has no type for that."""
    if isinstance(error, torch.distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and "gloo" in str(error)


def _end(processes: "list[subprocess.Popen[bytes]]") -> None:
    """Kill the processes that do not end by themselves, and wait for the end of all.

    Args:
        processes: are taken from this list, in which Lightning looks for dead ones, to kill this one, too.
    """
    started = processes[:]
    processes.clear()
    for process in started:
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
