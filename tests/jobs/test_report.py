"""A report holds a row for each outcome, whoever was killed, and says what failed."""

from pathlib import Path
from threading import Thread

import pytest

from refusion.errors import ImageError
from refusion.jobs.plan import Job
from refusion.jobs.report import COLUMNS, Report, Row, failed_files, path_of, rows
from refusion.jobs.run import Outcome
from refusion.jobs.shard import Shard


def outcome(name: str, error: str = "") -> Outcome:
    job = Job((Path(name),), (Path("out") / name,))
    return Outcome(job, "failed" if error else "restored", error, (), 1.23456, 12.0)


def add(path: Path, *outcomes: Outcome) -> None:
    report = Report(path, "dehazing", 7)
    for one in outcomes:
        report.add(one)
    report.close()


def test_a_row_is_what_was_added(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.csv"
    add(path, outcome('a, "b"\udcff.jpg'), outcome("c.jpg", "c.jpg is damaged,\nget another"))
    assert list(rows(path)) == [
        Row('a, "b"\udcff.jpg', "restored", "1.235", "12.000", "dehazing", "7", ""),
        Row("c.jpg", "failed", "1.235", "12.000", "dehazing", "7", "c.jpg is damaged, get another"),
    ]
    assert path.read_bytes().startswith(",".join(COLUMNS).encode())


def test_a_torn_line_is_no_row_wherever_it_was_torn(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    add(path, outcome("a.jpg"), outcome("b.jpg", "broken"))
    whole = path.read_bytes()
    first = whole.index(b"a.jpg")
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        add(path, outcome("c.jpg"))
        found = [row.file for row in rows(path)]
        assert found[-1] == "c.jpg"
        kept = whole[:end].count(b"\n", first)
        assert found[:-1] in (["a.jpg", "b.jpg"][:kept], ["a.jpg", "b.jpg"][: kept + 1])


def test_several_may_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    outcomes = [[outcome(f"{k}-{i}.jpg") for i in range(50)] for k in range(4)]
    threads = [Thread(target=add, args=(path, *some)) for some in outcomes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({row.file for row in rows(path)}) == len(list(rows(path))) == 200


def test_failures_are_those_of_all_shards_that_were_not_mended_since(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    third = path_of(path, Shard(3, 16))
    assert third == tmp_path / "out-3-of-16.csv"
    assert path_of(path, Shard()) == path
    with pytest.raises(ImageError, match="does not exist"):
        failed_files(path)
    add(third, outcome("a.jpg", "broken"), outcome("b.jpg", "broken"), outcome("c.jpg"))
    assert failed_files(path) == {"a.jpg", "b.jpg"}
    add(path, outcome("b.jpg"), outcome("d.jpg", "broken"))
    assert failed_files(path) == {"a.jpg", "d.jpg"}


def test_reports_of_other_runs_beside_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "night [1].csv"
    add(path_of(path, Shard(1, 2)), outcome("a.jpg", "broken"))
    add(tmp_path / "night [1]-blur-1-of-2.csv", outcome("a.jpg"), outcome("b.jpg", "broken"))
    assert failed_files(path) == {"a.jpg"}
    with pytest.raises(ImageError, match="does not exist"):
        failed_files(tmp_path / "none" / "out.csv")
