"""The threads of a command."""

import builtins
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from refusion.cli import measuring, models, restoring, studying, training
from refusion.restoring import cgroups
from refusion.restoring.threads import use_threads


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("OMP_NUM_THREADS", "VIPS_CONCURRENCY"):
        monkeypatch.setenv(name, "")  # so that what is set here is undone
        monkeypatch.delenv(name)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("cores", [1, 3])
def test_there_is_one_for_each_core(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    monkeypatch.setattr(cgroups, "cores", lambda: cores)
    use_threads(None)
    assert torch.get_num_threads() == cores


def test_the_environment_goes_before_the_cores_and_the_option_before_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cgroups, "cores", lambda: 5)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    torch.set_num_threads(2)  # as torch does when it is loaded
    use_threads(None)
    assert torch.get_num_threads() == 2
    use_threads(3)
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("count", [0, -1])
def test_there_is_at_least_one(count: int) -> None:
    with pytest.raises(ValueError, match=f"--threads is {count}: give at least 1"):
        use_threads(count)


FAMILIES = (measuring, models, restoring, studying, training)
PLACE = Path("x")
ARGUMENTS: dict[Callable[..., object], dict[str, Any]] = {
    measuring.calibrate: {"data": PLACE},
    measuring.evaluate: {"data": PLACE},
    models.export: {"model": "x", "out": PLACE, "to": "onnx"},
    restoring.diffuse: {"start": PLACE, "end": PLACE},
    restoring.restore: {},
    studying.run: {"file": PLACE},
    training.train: {"recipe": "x"},
}
"""What the commands with `--threads` need."""


def test_every_command_with_threads_is_tested() -> None:
    takers = {
        value
        for family in FAMILIES
        for value in vars(family).values()
        if inspect.isfunction(value) and "threads" in inspect.signature(value).parameters
    }
    assert takers == set(ARGUMENTS)


@pytest.mark.parametrize("command", ARGUMENTS, ids=lambda command: command.__name__)
def test_a_command_imports_nothing_before_its_threads_are_set(
    command: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For most of the package imports pyvips, which then reads the number of its threads."""
    imported: list[str] = []
    load = builtins.__import__

    def record(name: str, *rest: Any, **more: Any) -> Any:
        imported.append(name)
        return load(name, *rest, **more)

    def stop(count: int | None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"{command.__module__}.use_threads", stop)
    monkeypatch.setattr(builtins, "__import__", record)
    with pytest.raises(KeyboardInterrupt):
        command(**ARGUMENTS[command])
    monkeypatch.undo()
    assert [name for name in imported if name.partition(".")[0] == "refusion"] == []
