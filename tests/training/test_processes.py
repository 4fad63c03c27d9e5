"""The processes of a run: how many there are, and that none is left."""

import subprocess
import sys

import pytest

from refusion.errors import RecipeError
from refusion.training import processes


@pytest.mark.parametrize(
    ("devices", "nodes", "name"), [(0, 1, "devices"), (-1, 1, "devices"), (1, 0, "nodes")]
)
def test_fewer_than_one_is_an_error(devices: int, nodes: int, name: str) -> None:
    with pytest.raises(RecipeError, match=rf"{name} is -?\d: give at least 1"):
        processes.make_fabric(devices, nodes)


def test_a_process_that_does_not_end_is_killed_and_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GRACE", 0.01)
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    watched = [process]
    processes._end(watched)
    assert process.returncode is not None
    assert watched == []
