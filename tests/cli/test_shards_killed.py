"""Shards that are killed at random moments: what was done stays, and together they are one run."""

import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from terminal import photo, save_model

from moments import Command, wait_for_handlers
from refusion.jobs.report import rows

SHARDS = 3


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_shards_write_every_file_once_and_whole(tmp_path: Path) -> None:
    """From a manifest, with a report, a broken picture among them, and another count of shards at the end."""
    for i in range(24):
        photo(str(tmp_path / f"in/{i}.png"), i, height=150, width=200)
    (tmp_path / "in/broken.png").write_bytes(b"broken")
    manifest, report, out = tmp_path / "list.txt", tmp_path / "out.csv", tmp_path / "out"
    manifest.write_text("".join(f"{path}\n" for path in sorted((tmp_path / "in").iterdir())))
    model = save_model(tmp_path / "model.safetensors", 0.05)
    words = ["restore", manifest, "--model", model, "-o"]
    whole = tmp_path / "whole"
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "refusion", *map(str, [*words, whole])], check=False)
    lasts, rng, killed = time.monotonic() - began, random.Random(0), Counter[int]()
    expected = contents(whole)
    assert len(expected) == 24
    command = Command(tmp_path / "stderr.txt", "refusion.jobs.run")
    try:
        for number in range(4 * SHARDS):
            before = {path: path.stat().st_ino for path in out.rglob("[!.]*.png")}
            shard = f"{number % SHARDS + 1}/{SHARDS}"
            pid = command.start(*words, out, "--report", report, "--shard", shard)
            wait_for_handlers(pid)
            if not command.ends_within(rng.uniform(0, lasts / SHARDS)):
                os.kill(pid, 9)
            killed[command.result()[0]] += 1
            assert expected.items() >= contents(out).items()
            assert before.items() <= {path: path.stat().st_ino for path in out.rglob("[!.]*.png")}.items()
        command.start(*words, out, "--report", report, "--shard", "1/1")
        status, error = command.result()
    finally:
        command.close()
    print(f"statuses: {dict(killed)}")
    assert status == 1
    assert "broken.png" in error
    assert contents(out) == expected
    done = [row for path in tmp_path.glob("out*.csv") for row in rows(path) if row.status == "restored"]
    assert len({row.file for row in done}) == len(done) >= 24 - killed[-9]
    shutil.rmtree(out)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("[!.]*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
