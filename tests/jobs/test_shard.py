"""Shares are a partition, whoever asks and whatever is done, and the environment says which one is meant."""

import pytest

from refusion.jobs.shard import Shard, parse_shard, shard_of

NAMES = [f"day {i % 7}/{i}.jpg" for i in range(2000)]


@pytest.mark.parametrize("count", [1, 2, 3, 16])
def test_every_name_is_in_exactly_one_share_and_all_are_about_as_large(count: int) -> None:
    shares = [[name for name in NAMES if Shard(i + 1, count).holds(name)] for i in range(count)]
    assert sorted(name for share in shares for name in share) == sorted(NAMES)
    assert all(abs(len(share) - len(NAMES) / count) < 5 * (len(NAMES) / count) ** 0.5 for share in shares)


def test_a_share_is_the_same_for_ever() -> None:
    """Machines of other versions may help each other."""
    assert [name for name in NAMES[:20] if Shard(2, 4).holds(name)] == [
        f"day {i % 7}/{i}.jpg" for i in GOLDEN
    ]


GOLDEN = (1, 4, 16)


@pytest.mark.parametrize("text", ["3", "0/4", "5/4", "1/0", "-1/4", "a/b", "1/4/2", "1.0/4", " 1/4"])
def test_what_is_no_share_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="shard is"):
        parse_shard(text)


def test_a_share_is_written_as_it_is_read() -> None:
    assert parse_shard("3/16") == Shard(3, 16)
    assert str(Shard(3, 16)) == "3/16"


def array(task: int, tasks: list[int], step: int = 1) -> dict[str, str]:
    values = {"ID": task, "COUNT": len(tasks), "MIN": min(tasks), "MAX": max(tasks), "STEP": step}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


@pytest.mark.parametrize(
    ("tasks", "step"), [([0, 1, 2, 3], 1), ([1, 2, 3, 4], 1), ([5, 7, 9], 2), ([0], 1)], ids=str
)
def test_a_slurm_array_is_a_partition_whatever_its_numbers(tasks: list[int], step: int) -> None:
    found = [shard_of(array(task, tasks, step)) for task in tasks]
    assert found == [Shard(i + 1, len(tasks)) for i in range(len(tasks))]


def test_ranks_share_the_share_of_their_task() -> None:
    found = [
        shard_of({**array(task, [1, 2]), "RANK": str(rank), "WORLD_SIZE": "3"})
        for task in (1, 2)
        for rank in range(3)
    ]
    assert found == [Shard(i + 1, 6) for i in range(6)]
    assert shard_of({"RANK": "2", "WORLD_SIZE": "3"}) == Shard(3, 3)
    assert shard_of({"RANK": "2"}) == shard_of({}) == Shard()


@pytest.mark.parametrize(
    "environment",
    [array(3, [1, 3, 4]), {**array(1, [1, 2]), "SLURM_ARRAY_TASK_MIN": ""}, {"RANK": "x", "WORLD_SIZE": "2"}],
)
def test_what_leaves_gaps_is_an_error(environment: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="give --shard"):
        shard_of(environment)
