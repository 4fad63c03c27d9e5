"""What a container of little memory does with a folder in which one picture has 100 megapixels.

    python benchmarks/admission.py

The folder is restored in a control group of Linux of each limit, for which root's rights are needed. A
picture that does not fit must be one line and the others restored; the kernel must never kill the process.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyvips

LIMITS = (4096, 3072, 2048, 1024)
"""In MiB."""
GROUPS = Path("/sys/fs/cgroup")


def make_folder(folder: Path) -> None:
    """Write pictures of 0.1, 100 and 0.1 megapixels."""
    texture = np.random.default_rng(0).integers(0, 256, (625, 625, 3), dtype=np.uint8)
    small = pyvips.Image.new_from_array(texture, interpretation="srgb")
    small.crop(0, 0, 300, 300).write_to_file(folder / "1.jpg")
    small.resize(16, kernel="cubic").write_to_file(folder / "2.jpg")
    small.crop(300, 300, 300, 300).write_to_file(folder / "3.jpg")


def restore(folder: Path, out: Path, limit: int) -> None:
    """Restore the folder in a group of a limit, and print a line."""
    first = (GROUPS / "memory").is_dir()
    group = (GROUPS / "memory" if first else GROUPS) / f"refusion-{os.getpid()}"
    group.mkdir()
    (group / ("memory.limit_in_bytes" if first else "memory.max")).write_text(str(limit * 2**20))
    began = time.perf_counter()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "refusion", "restore", folder, "-o", out, "--overwrite"],
            preexec_fn=lambda: (group / "cgroup.procs").write_text(str(os.getpid())),
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        said = process.communicate()
        seconds = time.perf_counter() - began
        peak = int((group / ("memory.max_usage_in_bytes" if first else "memory.peak")).read_text())
    finally:
        group.rmdir()
    text = " ".join(" ".join(said).split())
    print(f"{limit} MiB: status {process.returncode}, {seconds:.0f} s, {peak / 2**30:.2f} GiB peak: {text}")


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "in"
        folder.mkdir()
        make_folder(folder)
        for limit in LIMITS:
            restore(folder, Path(place) / "out", limit)


if __name__ == "__main__":
    main()
