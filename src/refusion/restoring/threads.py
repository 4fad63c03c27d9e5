"""The number of threads that a process computes with."""

import os


def use_threads(count: int | None) -> None:
    """Let torch and libvips compute with so many threads; call it before anything that imports pyvips.

    By default with as many as `OMP_NUM_THREADS` says, or as the process has cores. When pyvips is
    imported, libvips reads its number.

    Raises:
        ValueError: the count is below 1.
    """
    check_threads(count)
    import torch

    from refusion.restoring.cgroups import cores

    if count is not None:
        os.environ["OMP_NUM_THREADS"] = str(count)  # for the processes that training starts
    if count is not None or "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(count or cores())
    if count is not None or "VIPS_CONCURRENCY" not in os.environ:
        os.environ["VIPS_CONCURRENCY"] = str(torch.get_num_threads())


def check_threads(count: int | None) -> None:
    """Check a number of threads.

    Raises:
        ValueError: it is below 1.
    """
    if count is not None and count < 1:
        raise ValueError(f"--threads is {count}: give at least 1")
