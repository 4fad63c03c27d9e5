"""A picture of 100 megapixels is restored in the memory of a small machine."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import pyvips
from terminal import photo

from refusion.imaging.formats import read


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "wait4"), reason="Windows does not tell the memory of a child")
def test_a_folder_with_100_megapixels_stays_under_4_gib(tmp_path: Path) -> None:
    photo(str(tmp_path / "in/1.jpg"))
    texture = np.random.default_rng(0).integers(0, 256, (625, 625, 3), dtype=np.uint8)
    large = pyvips.Image.new_from_array(texture, interpretation="srgb").resize(16, kernel="cubic")
    large.write_to_file(tmp_path / "in/2.jpg")
    photo(str(tmp_path / "in/3.jpg"))
    command = [sys.executable, "-m", "refusion", "restore", "in", "-o", "out", "--device", "cpu"]
    process = subprocess.Popen([*command, "--model", "shadow-removal"], cwd=tmp_path)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    assert peak < 3.2 * 2**30
    assert read(tmp_path / "out/2.jpg").size == (10_000, 10_000)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1.jpg", "2.jpg", "3.jpg"]
