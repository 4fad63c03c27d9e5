"""One worker at a time: whoever is alive keeps a folder, and whoever is not loses it."""

import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from refusion.study.lease import HOLDER, lease


def leave_behind(folder: Path, number: int, host: str, process: int, age: float) -> Path:
    """The lease of a worker that stopped beating."""
    left = folder / f".lease-{number:06d}"
    left.mkdir(parents=True)
    (left / HOLDER).write_text(f"{host} {process}\n")
    os.utime(left, (time.time() - age,) * 2)
    return left


def leases(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(".*"))


def test_a_folder_is_held_by_one_and_given_back(tmp_path: Path) -> None:
    with lease(tmp_path / "run") as first, lease(tmp_path / "run") as second:
        assert (first, second) == (True, False)
    assert leases(tmp_path / "run") == []
    with lease(tmp_path / "run") as third:
        assert third


def test_it_is_given_back_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), lease(tmp_path):
        raise KeyboardInterrupt
    with lease(tmp_path) as held:
        assert held


@pytest.mark.parametrize(("age", "free"), [(10.0, False), (500.0, True)])
def test_of_another_machine_only_the_heartbeat_tells(tmp_path: Path, age: float, free: bool) -> None:
    leave_behind(tmp_path, 3, "elsewhere", os.getpid(), age)
    with lease(tmp_path) as held:
        assert held is free
        assert len(leases(tmp_path)) == 1 + free


def test_what_was_killed_here_is_free_at_once(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    leave_behind(tmp_path, 0, socket.gethostname(), ended.pid, 1.0)
    with lease(tmp_path) as held:
        assert held
    assert leases(tmp_path) == [".lease-000000"]  # kept, so that no slow worker takes number 1 from another


def test_a_dead_lease_is_taken_over_by_one_alone(tmp_path: Path) -> None:
    leave_behind(tmp_path, 0, "elsewhere", 1, 500.0)
    start, end = Barrier(8), Barrier(8)

    def take(_: int) -> bool:
        start.wait()
        with lease(tmp_path) as held:
            end.wait()
            return held

    with ThreadPoolExecutor(8) as workers:
        assert sum(workers.map(take, range(8))) == 1


def test_a_heartbeat_keeps_it(tmp_path: Path) -> None:
    """Its time is set back again and again; with the heart it is soon the present one."""
    with lease(tmp_path, beat=0.01):
        (mine,) = tmp_path.glob(".lease-*")
        for _ in range(3):
            os.utime(mine, (0, 0))
            until = time.monotonic() + 20
            while mine.stat().st_mtime == 0:
                assert time.monotonic() < until
                time.sleep(0.005)
        (mine / HOLDER).write_text("elsewhere 1\n")
        with lease(tmp_path) as second:
            assert not second
