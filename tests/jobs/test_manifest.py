"""A manifest is a stream of jobs, each with a result of its own, and takes no memory."""

import errno
import tracemalloc
from pathlib import Path

import pytest

from refusion.errors import ImageError
from refusion.jobs.plan import Plan, plan
from refusion.jobs.shard import Shard
from refusion.remote import Remote, place


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in a folder of its own, in which it names files."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listed(text: str, out: str = "out") -> Plan:
    Path("list.txt").write_bytes(text.encode())
    return plan(["list.txt"], place(out))


def targets(planned: Plan) -> list[str]:
    return [str(job.targets[0]) for job in planned.jobs if not job.problem]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.jpg\nday 1/ü.png\n", ["out/a.jpg", "out/day 1/ü.png"]),
        ("\ufeffa.jpg\r\n\r\nb.gif", ["out/a.jpg", "out/b.gif.png"]),
        ("./a/b.jpg\na/c.nef", ["out/a/b.jpg", "out/a/c.nef.tif"]),
        ("/data/a.jpg\n/data/b/a.jpg\n", ["out/data/a.jpg", "out/data/b/a.jpg"]),
        ("s3://bucket/a b/c.jpg\n", ["out/bucket/a b/c.jpg"]),
        ("https://host.org/c.jpg?size=1\n", ["out/host.org/c.jpg"]),
        ("", []),
    ],
)
def test_results_keep_the_structure_of_the_names(text: str, expected: list[str]) -> None:
    planned = listed(text)
    assert targets(planned) == [str(Path(name)) for name in expected]
    assert targets(planned) == targets(planned)  # it may be read again and again


def test_results_may_go_elsewhere() -> None:
    (job,) = listed("a/b.gif\n", "s3://bucket/out").jobs
    assert job.targets == (Remote("s3://bucket/out/a/b.gif.png"),)
    assert job.sources == (Path("a/b.gif"),)


@pytest.mark.parametrize(
    ("text", "named"),
    [("a.jpg\n/b.jpg\n", "/b.jpg"), ("s3://b/a.jpg\na.jpg\n", "a.jpg"), ("a.jpg\n../b.jpg\n", "../b.jpg")],
)
def test_a_name_that_could_share_the_result_of_another_is_a_problem(text: str, named: str) -> None:
    first, second = listed(text).jobs
    assert not first.problem
    assert second.problem.startswith(named)
    assert not second.done


@pytest.mark.parametrize("name", ["/", ".", "s3://"])
def test_a_line_that_names_no_file_is_a_problem_of_its_own(name: str) -> None:
    first, second = listed(f"{name}\na.jpg\n").jobs
    assert first.problem.startswith(name)
    assert second.sources == (Path("a.jpg"),)


def test_a_manifest_in_utf_16_is_one_error() -> None:
    Path("list.txt").write_bytes("a.jpg\r\n".encode("utf-16"))
    with pytest.raises(ImageError, match="UTF-8"):
        plan(["list.txt"], Path("out"))


def test_a_result_that_cannot_be_asked_for_is_a_failure_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def exists(asked: Remote) -> bool:
        if asked.name == "a.png":
            raise OSError(errno.EIO, "slow down", str(asked))
        return False

    monkeypatch.setattr(Remote, "exists", exists)
    first, second = listed("a.png\nb.png\n", "s3://bucket/out").pending().jobs
    assert "slow down" in first.problem
    assert not second.problem


@pytest.mark.parametrize(
    ("paths", "out", "views"),
    [
        (["list.txt", "a.jpg"], "out", 1),
        (["list.txt", "list.txt"], "out", 2),
        (["list.txt"], "out.png", 1),
        (["list.txt"], ".", 1),
        (["list.txt"], "/", 1),
        (["none.txt"], "out", 1),
        (["list.txt"], "https://host.org/out", 1),
    ],
)
def test_what_a_manifest_cannot_be_is_one_error(paths: list[str], out: str, views: int) -> None:
    Path("list.txt").write_text("a.jpg\n")
    with pytest.raises(ImageError) as caught:
        plan(paths, place(out), views)
    assert "\n" not in str(caught.value)


def test_shares_of_folders_and_manifests_are_partitions_whatever_is_done() -> None:
    for i in range(30):
        Path("in").mkdir(exist_ok=True)
        Path(f"in/{i}.png").touch()
    Path("list.txt").write_text("".join(f"in/{i}.png\n" for i in range(30)))
    for path in ("in", "list.txt"):
        whole = plan([path], Path("out"))
        shares = [plan([path], Path(f"out {i}")).share(Shard(i, 3)) for i in (1, 2, 3)]
        found = [[str(job.sources[0]) for job in share.jobs] for share in shares]
        assert sorted(name for share in found for name in share) == sorted(
            str(job.sources[0]) for job in whole.jobs
        )
        done = Path(found[0][0].replace("in", "out 1") if path == "in" else f"out 1/{found[0][0]}")
        done.parent.mkdir(parents=True, exist_ok=True)
        done.touch()
        assert [str(job.sources[0]) for job in shares[0].jobs] == found[0]
        assert [str(job.sources[0]) for job in shares[0].pending().jobs] == found[0][1:]


@pytest.mark.slow
def test_many_names_take_no_memory() -> None:
    with Path("list.txt").open("w") as file:
        file.writelines(f"photos/{i // 1000}/{i}.jpg\n" for i in range(6000))
    taken = list[int]()
    tracemalloc.start()
    for i, _ in enumerate(plan(["list.txt"], Path("out")).pending().jobs):
        if i in (2000, 5999):
            taken.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert taken[1] - taken[0] < 4000 * 250  # bytes; a job that is kept has 650
