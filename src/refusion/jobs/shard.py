"""The share of one machine or process in the work of several, which know nothing of each other."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Shard:
    """One of several shares, which together are the whole.

    Args:
        number: of this share, from 1.
        count: of all shares.

    Raises:
        ValueError: there is no such share.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ValueError(f"shard is {self}: expected 1/{self.count} to {self.count}/{self.count}")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def holds(self, name: str) -> bool:
        """Return whether what has this name belongs to this share, the same on all machines for ever."""
        digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        return int.from_bytes(digest) % self.count == self.number - 1


def parse_shard(text: str) -> Shard:
    """Return the share that is written as "3/16", the third of sixteen.

    Raises:
        ValueError: it is not of this form, or there is no such share.
    """
    found = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
    if found is None:
        raise ValueError(f"shard is {text}: give the number of this share and of all, as 3/16")
    return Shard(int(found[1]), int(found[2]))


def shard_of(environment: Mapping[str, str]) -> Shard:
    """Return the share that the environment of a process names; the whole if it names none.

    `RANK` and `WORLD_SIZE` are those of torchrun, from 0. The tasks of a SLURM array count from the least of
    their numbers in steps, whatever that is; within a task, ranks share its share.

    Raises:
        ValueError: a variable is missing or no number, or the array has gaps.
    """
    tasks, ranks = _array(environment), _ranks(environment)
    number = (tasks.number - 1) * ranks.count + ranks.number
    return Shard(number, tasks.count * ranks.count)


def _ranks(environment: Mapping[str, str]) -> Shard:
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return Shard()
    return Shard(_number(environment, "RANK") + 1, _number(environment, "WORLD_SIZE"))


def _array(environment: Mapping[str, str]) -> Shard:
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return Shard()
    names = ("ID", "COUNT", "MIN", "MAX", "STEP")
    task, count, least, largest, step = (_number(environment, f"SLURM_ARRAY_TASK_{name}") for name in names)
    if step < 1 or largest - least != (count - 1) * step or (task - least) % step:
        text = f"{count} tasks from {least} to {largest} in steps of {step}"
        raise ValueError(f"the SLURM array has gaps ({text}): give --shard")
    return Shard((task - least) // step + 1, count)


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not text.isdecimal():
        raise ValueError(f"{name} is {text or 'not set'}: expected a number, or give --shard")
    return int(text)
