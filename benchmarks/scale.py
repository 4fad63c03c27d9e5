"""What limits many machines: a simulation of up to 1,000 workers from the seconds of a measured report.

    python benchmarks/scale.py REPORT [PICTURES]

REPORT is what `refusion restore --report` wrote. Each picture takes seconds that are drawn from it. Static
shares are those of `--shard`: a worker has its pictures from the beginning. The queue is of `--engine ray`:
who is free takes the next one. Efficiency is the time of ideal workers, which never wait, divided by that of
the last one to end.
"""

import heapq
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from refusion.jobs.report import rows

WORKERS = (16, 128, 1000)
PICTURES = 1_000_000


@dataclass(frozen=True)
class Trouble:
    """What goes wrong.

    Args:
        name: of the row.
        latency: seconds of a store for each picture: reading, writing and asking, nothing of it hidden.
        slow: share of workers that take `factor` times as long.
        factor: see `slow`.
        deaths: deaths of a worker in an hour; each costs `restart` seconds and half a picture.
        restart: seconds until a worker has its model again.
    """

    name: str
    latency: float = 0.0
    slow: float = 0.0
    factor: float = 1.0
    deaths: float = 0.0
    restart: float = 60.0


TROUBLES = (
    Trouble("none"),
    Trouble("a store with 0.2 s a picture", latency=0.2),
    Trouble("1 of 100 workers half as fast", slow=0.01, factor=2.0),
    Trouble("a death in 10 hours of a worker", deaths=0.1),
    Trouble("all of these", latency=0.2, slow=0.01, factor=2.0, deaths=0.1),
)


def costs(seconds: np.ndarray, trouble: Trouble, rng: np.random.Generator) -> np.ndarray:
    """Return the seconds of a worker for pictures of these seconds, with its deaths."""
    taken = seconds + trouble.latency
    dies = rng.random(len(taken)) < trouble.deaths * taken / 3600
    return np.where(dies, 1.5 * taken + trouble.restart, taken)


def speeds(workers: int, trouble: Trouble, rng: np.random.Generator) -> np.ndarray:
    """Return how many times as long each worker takes."""
    slow = rng.permutation(workers) < round(trouble.slow * workers)
    return np.where(slow, trouble.factor, 1.0)


def static(seconds: np.ndarray, workers: int, trouble: Trouble, rng: np.random.Generator) -> float:
    """Return the seconds until the last of static shares is done; the hash of a name is a random number."""
    share = rng.integers(0, workers, len(seconds))
    sums = np.bincount(share, costs(seconds, trouble, rng), workers)
    return float((sums * speeds(workers, trouble, rng)).max())


def queue(seconds: np.ndarray, workers: int, trouble: Trouble, rng: np.random.Generator) -> float:
    """Return the seconds until the last worker is done, where who is free takes the next picture."""
    factors = speeds(workers, trouble, rng).tolist()
    free = [(0.0, worker) for worker in range(workers)]
    for cost in costs(seconds, trouble, rng).tolist():
        at, worker = free[0]
        heapq.heapreplace(free, (at + cost * factors[worker], worker))
    return max(free)[0]


def main() -> None:
    measured = np.array([float(row.seconds) for row in rows(Path(sys.argv[1])) if row.status == "restored"])
    pictures = int(sys.argv[2]) if sys.argv[2:] else PICTURES
    text = f"{len(measured)} measured: mean {measured.mean():.3f} s, median {np.median(measured):.3f} s"
    print(f"{text}, 99 % {np.quantile(measured, 0.99):.3f} s, largest {measured.max():.3f} s")
    print("| trouble | workers | ideal hours | shares | queue |\n|---|---|---|---|---|")
    for trouble in TROUBLES:
        for workers in WORKERS:
            rng = np.random.default_rng(workers)
            seconds = rng.choice(measured, pictures)
            ideal = float(seconds.sum()) / workers
            by_share, by_queue = (
                ideal / way(seconds, workers, trouble, np.random.default_rng(1)) for way in (static, queue)
            )
            row = f"| {trouble.name} | {workers} | {ideal / 3600:.2f} | {by_share:.0%} | {by_queue:.0%} |"
            print(row, flush=True)


if __name__ == "__main__":
    main()
