"""The log of outcomes: a CSV file to which a row is added for each picture, and which no end can break."""

import csv
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from refusion.errors import ImageError
from refusion.jobs.run import Outcome
from refusion.jobs.shard import Shard

COLUMNS = ("file", "status", "seconds", "megapixels", "model", "seed", "error")
STATUSES = ("restored", "failed")


class Row(NamedTuple):
    """The outcome of a picture, as it is read from a report."""

    file: str
    status: str
    seconds: str
    megapixels: str
    model: str
    seed: str
    error: str


class Report:
    """A report that is written to.

    Each row is added by one call of the system, so that several processes may share a file. A line that a
    killed process or a full disk left torn is ended, and is no row.

    Args:
        path: of the file, see `path_of`; it and its folder are made.
        model: of all rows.
        seed: of all rows.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, model: str, seed: int) -> None:
        self._model, self._seed = model, seed
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            torn = file.read() not in (b"", b"\n")
        self._file = path.open("ab", buffering=0)
        if size == 0:
            self._file.write(_line(COLUMNS))
        elif torn:
            self._file.write(b"\n")

    def add(self, outcome: Outcome) -> None:
        """Add the row of an outcome.

        Raises:
            OSError: the disk is full.
        """
        seconds, megapixels = f"{outcome.seconds:.3f}", f"{outcome.megapixels:.3f}"
        for source in outcome.job.sources:
            values = (str(source), outcome.status, seconds, megapixels, self._model, str(self._seed))
            self._file.write(_line((*values, outcome.error)))

    def close(self) -> None:
        self._file.close()


def path_of(path: Path, shard: Shard) -> Path:
    """Return the file of a shard's report: of the third of sixteen out-3-of-16.csv, of the whole out.csv."""
    return path if shard.count == 1 else path.with_stem(f"{path.stem}-{shard.number}-of-{shard.count}")


def failed_files(path: Path) -> set[str]:
    """Return the files that failed and were never restored, by a report and those of its shards.

    Raises:
        ImageError: there is no report.
    """
    of_shard = re.compile(rf"{re.escape(path.stem)}-\d+-of-\d+{re.escape(path.suffix)}")
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    reports = [report for report in beside if report.name == path.name or of_shard.fullmatch(report.name)]
    if not reports:
        raise ImageError(f"{path} does not exist: give the --report of the run whose failures are meant")
    failed = {row.file for report in reports for row in rows(report) if row.status == "failed"}
    restored = (row.file for report in reports for row in rows(report) if row.status == "restored")
    return failed.difference(restored)


def rows(path: Path) -> Iterator[Row]:
    """Yield the whole rows of a report; lines that were torn are passed over."""
    with path.open("r", encoding="utf-8", errors="surrogateescape", newline="") as file:
        for line in file:
            values = next(csv.reader([line]), [])
            if line.endswith("\n") and len(values) == len(COLUMNS) and values[1] in STATUSES:
                yield Row(*values)


def _line(values: tuple[str, ...]) -> bytes:
    text = io.StringIO()
    shown = [value.replace("\r", " ").replace("\n", " ") for value in values]
    csv.writer(text, lineterminator="\n").writerow(shown)
    return text.getvalue().encode("utf-8", "surrogateescape")
