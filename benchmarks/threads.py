"""What a second thread gains and costs: seconds of restoring 1 megapixel, beside busy neighbours or none.

    python benchmarks/threads.py

Each row is a fresh process of so many threads, which wait for each other actively or passively; a neighbour
is a process that never waits. Rows are measured in turn; the median counts.
"""

import os
import resource
import statistics
import subprocess
import sys
import time

MODELS = ("dehazing", "deraining")
ROUNDS = 3


def restored(model: str, threads: int) -> None:
    """Restore a random picture and print the seconds of the second time, and those of all processors."""
    import numpy as np
    import torch

    import refusion

    torch.set_num_threads(threads)
    picture = np.random.default_rng(0).random((816, 1224, 3), dtype=np.float32)
    restore = refusion.load(model, "cpu")
    restore(picture)
    used = resource.getrusage(resource.RUSAGE_SELF)
    began = time.perf_counter()
    restore(picture)
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_SELF)
    print(seconds, after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime)


def measured(model: str, threads: int, policy: str) -> tuple[float, float]:
    """Seconds by the clock and of the processors, in a fresh process."""
    environment = {**os.environ, "OMP_WAIT_POLICY": policy}
    environment.pop("OMP_NUM_THREADS", None)
    command = [sys.executable, __file__, model, str(threads)]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    seconds, processors = map(float, said.split())
    return seconds, processors


def main() -> None:
    if sys.argv[1:]:
        restored(sys.argv[1], int(sys.argv[2]))
        return
    cores = os.cpu_count() or 1
    rows = [(1, "passive"), (cores, "active"), (cores, "passive")]
    for neighbours in (0, 1):
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(neighbours)]
        try:
            for model in MODELS:
                rounds = [[measured(model, *row) for row in rows] for _ in range(ROUNDS)]
                for row, values in zip(rows, zip(*rounds, strict=True), strict=True):
                    wall, used = (statistics.median(column) for column in zip(*values, strict=True))
                    case = f"{model:10} {neighbours} neighbours, {row[0]} threads, {row[1]:7}"
                    print(f"{case} {wall:6.2f} s, of processors {used:6.2f} s", flush=True)
        finally:
            for process in busy:
                process.kill()


if __name__ == "__main__":
    main()
