"""Jobs and their files on disk: they survive the end of the service.

    FOLDER/jobs/jobs.sqlite    a record for each job
    FOLDER/jobs/ID/            picture, right, mask, guide: as uploaded
                               result.png, result-right.png, uncertainty.png, preview, steps/, views/

Only the owner may enter jobs/. No name in it comes from a client.
"""

import contextlib
import os
import re
import secrets
import shutil
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from refusion.errors import RefusionError
from refusion.web.schema import JobOptions, State

FINISHED = ("done", "failed", "cancelled")
MIN_FREE = 2**29
"""Bytes that stay free on the disk."""
ID_BYTES = 16
_ID = re.compile(r"[A-Za-z0-9_-]{22}")  # that many bytes in base64


class Record(BaseModel):
    """A job as it is stored.

    Args:
        id: random; also the name of its folder.
        names: what the client calls the uploaded files, by their names in the folder.
        options: see `JobOptions`.
        state: see `State`.
        created: Unix time of the request.
        queued: Unix time since which it waits, or waited; the first is restored next.
        finished: Unix time of its end.
        starts: how often its restoration was begun.
        steps: of all samples or orientations.
        seconds: of the restoration.
        error: a line, if it failed.
        notices: lines about the result.
        width, height: of the result.
        megapixels: of all input pictures.
        suffix: of the result's file; empty before.
        uncertainty: whether there is a picture of it.
        kept: pictures after steps.
        previews: versions of the preview.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    names: dict[str, str]
    options: JobOptions
    state: State = "waiting"
    created: float
    queued: float
    finished: float = 0.0
    starts: int = 0
    steps: int = 0
    seconds: float = 0.0
    error: str = ""
    notices: list[str] = []
    width: int | None = None
    height: int | None = None
    megapixels: float | None = None
    suffix: str = ""
    uncertainty: bool = False
    kept: int = 0
    previews: int = 0

    @property
    def is_finished(self) -> bool:
        return self.state in FINISHED


@dataclass(frozen=True)
class Keeping:
    """How long and how much is kept.

    Args:
        seconds: after which finished jobs are deleted.
        bytes: of all files; beyond it, the finished jobs that ended first are deleted.
    """

    seconds: float = 7 * 86400.0
    bytes: int = 20 * 2**30


class Store:
    """The records of all jobs, in memory and in a database, and the folders of their files.

    It may be made in one thread and used in another one, but not in two at a time.

    Args:
        folder: in which jobs/ is created if it does not exist, for the owner alone.

    Raises:
        RefusionError: the folder cannot be used, or another service uses it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._jobs = folder, folder / "jobs"
        try:
            self._jobs.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._jobs.chmod(0o700)
        except OSError as error:
            raise RefusionError(f"{folder} cannot be used ({error.strerror}): give another --data") from error
        self._database, rows = _opened(self._jobs / "jobs.sqlite")
        records = (Record.model_validate_json(row[0]) for row in rows)
        self.records = {record.id: record for record in records}
        self._sizes = {id: size_of(self.folder_of(id)) for id in self.records}

    def close(self) -> None:
        self._database.close()

    def new_folder(self) -> tuple[str, Path]:
        """Create the folder of a new job, and return its random id and the folder."""
        id = secrets.token_urlsafe(ID_BYTES)
        folder = self._jobs / id
        folder.mkdir(mode=0o700)
        return id, folder

    def folder_of(self, id: str) -> Path:
        return self._jobs / id

    def put(self, record: Record) -> None:
        """Store a record; it replaces that of the same id. The bytes of its files are counted anew."""
        values = (record.id, record.model_dump_json())
        with contextlib.suppress(sqlite3.OperationalError):  # the disk is full: it counts until the end
            self._database.execute("INSERT OR REPLACE INTO jobs VALUES (?, ?)", values)
        self.records[record.id] = record
        self._sizes[record.id] = size_of(self.folder_of(record.id))

    def forget(self, id: str) -> None:
        """Remove the record of a job; its files stay until `discard`."""
        with contextlib.suppress(sqlite3.OperationalError):
            self._database.execute("DELETE FROM jobs WHERE id = ?", (id,))
        self.records.pop(id, None)
        self._sizes.pop(id, None)

    def discard(self, id: str) -> None:
        """Remove the files of a job."""
        shutil.rmtree(self.folder_of(id), ignore_errors=True)

    def clear(self, id: str) -> None:
        """Remove the files of a job but the uploads."""
        for path in self.folder_of(id).iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name not in self.records[id].names:
                path.unlink(missing_ok=True)

    def waiting(self) -> list[Record]:
        """Return the jobs that wait, the next one first."""
        waiting = [record for record in self.records.values() if record.state == "waiting"]
        return sorted(waiting, key=lambda record: record.queued)

    def strays(self) -> list[str]:
        """Return the names of folders without a record, which a service left that was killed.

        Folders whose name is no id are not the service's, and stay.
        """
        names = [path.name for path in self._jobs.iterdir() if path.name not in self.records]
        return [name for name in names if _ID.fullmatch(name)]

    def is_full(self, most: int) -> bool:
        """Return whether all files have that many bytes, or the disk has next to no room."""
        return sum(self._sizes.values()) >= most or shutil.disk_usage(self.folder).free < MIN_FREE

    def expired(self, keeping: Keeping, now: float) -> list[str]:
        """Return the ids of the finished jobs that are to be deleted, by age and bytes of all files."""
        finished = sorted((r for r in self.records.values() if r.is_finished), key=lambda r: r.finished)
        total = sum(self._sizes.values())
        expired: list[str] = []
        for record in finished:
            if now - record.finished <= keeping.seconds and total < keeping.bytes:
                break
            total -= self._sizes[record.id]
            expired.append(record.id)
        return expired


def _opened(path: Path) -> tuple[sqlite3.Connection, list[tuple[str]]]:
    """Open a database for this process alone, and return it and its records.

    Raises:
        RefusionError: another process uses it, or it is damaged.
    """
    database = sqlite3.connect(path, timeout=0.2, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("CREATE TABLE IF NOT EXISTS jobs (id TEXT PRIMARY KEY, record TEXT)")
        database.execute("BEGIN IMMEDIATE")  # takes the lock, which stays
        database.execute("COMMIT")
        return database, database.execute("SELECT record FROM jobs").fetchall()
    except sqlite3.DatabaseError as error:
        database.close()
        remedy = "end the service that uses it, or give another --data"
        raise RefusionError(f"{path} cannot be used ({error}): {remedy}") from error


def size_of(folder: Path) -> int:
    """Return the bytes of all files in a folder; those that vanish meanwhile count nothing."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            status = path.lstat()
            total += status.st_size if status.st_nlink < 2 else status.st_size // status.st_nlink
    return total


def result_name(view: str, suffix: str) -> str:
    """Return the name of a result's file in the folder of its job.

    Args:
        view: "right" for that of the right view.
        suffix: of the file.
    """
    return f"result{'-right' if view == 'right' else ''}{suffix}"


def share_files(source: Path, target: Path, names: Iterable[str]) -> None:
    """Let a folder have files of another one, without a copy where the file system can."""
    for name in names:
        try:
            os.link(source / name, target / name)
        except OSError:
            shutil.copyfile(source / name, target / name)
