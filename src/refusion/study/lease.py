"""A lease on the folder of a run: one worker at a time, on any machine that shares the disk.

A lease is a folder, since making one is atomic on every file system, shared ones too. Its name has a number:
who finds the lease of the highest number dead makes the next one, and only one of several can. A lease is
alive while its heartbeat is recent; on the holder's own machine also its process is looked for, so that a
killed run goes on at once. Two holders would do no harm but double work: a run is a function of its settings,
and its files are written whole or not at all.
"""

import contextlib
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil

BEAT = 15.0
"""Seconds between two heartbeats."""
STALE = 120.0
"""Seconds without a heartbeat after which a lease is dead."""
HOLDER = "holder"


@contextlib.contextmanager
def lease(folder: Path, beat: float = BEAT, stale: float = STALE) -> Iterator[bool]:
    """Hold a folder for the length of the block; yield whether it was free.

    Args:
        folder: of the run; it is made.
        beat: seconds between two heartbeats.
        stale: seconds without a heartbeat after which another's lease is dead.
    """
    folder.mkdir(parents=True, exist_ok=True)
    latest = _latest(folder)
    if latest is not None and _alive(latest, stale):
        yield False
        return
    mine = folder / f".lease-{_number(latest) + 1 if latest else 0:06d}"
    try:
        mine.mkdir()
    except FileExistsError:  # another worker was quicker
        yield False
        return
    (mine / HOLDER).write_text(f"{socket.gethostname()} {os.getpid()}\n", encoding="utf-8")
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(mine, beat, ended), daemon=True)
    heart.start()
    try:
        yield True
    finally:
        ended.set()
        heart.join()
        (mine / HOLDER).unlink(missing_ok=True)
        mine.rmdir()  # only this one: of an earlier number that came back, a slow worker could take a second


def _latest(folder: Path) -> Path | None:
    return max(folder.glob(".lease-*"), key=_number, default=None)


def _number(lease: Path) -> int:
    return int(lease.name.rpartition("-")[2])


def _alive(lease: Path, stale: float) -> bool:
    """Return whether a lease's holder lives; by the clock of the disk, as those of machines differ."""
    try:
        host, _, process = (lease / HOLDER).read_text(encoding="utf-8").partition(" ")
        if host == socket.gethostname() and not psutil.pid_exists(int(process)):
            return False
    except (OSError, ValueError):  # just made, or just given back
        pass
    probe = lease.parent / f".now-{uuid.uuid4().hex}"
    try:
        probe.touch()
        return probe.stat().st_mtime - lease.stat().st_mtime < stale
    except FileNotFoundError:  # given back; its folder is free on the next pass
        return True
    finally:
        probe.unlink(missing_ok=True)


def _beat(lease: Path, beat: float, ended: threading.Event) -> None:
    while not ended.wait(beat):
        with contextlib.suppress(OSError):  # a disk that is away for a while
            os.utime(lease)
