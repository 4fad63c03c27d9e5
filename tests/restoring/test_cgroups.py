"""Processors are those that affinity and quotas leave."""

import os
from pathlib import Path

import pytest

from refusion.restoring import cgroups


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One of 16 cores, in no container."""
    monkeypatch.setattr(cgroups, "CGROUPS", tmp_path)
    monkeypatch.setattr(cgroups, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    return tmp_path


def test_without_quotas_they_are_those_of_the_affinity(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cgroups.cores() == 16
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert cgroups.cores() == 3
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cgroups.cores() == 1


def test_the_smallest_quota_counts(machine: Path) -> None:
    (machine / "membership").write_text("0::/a/b\n")
    (machine / "a" / "b").mkdir(parents=True)
    (machine / "a" / "cpu.max").write_text("350000 100000\n")
    assert cgroups.cores() == 4
    (machine / "a" / "b" / "cpu.max").write_text("max 100000\n")
    assert cgroups.cores() == 4
    (machine / "a" / "b" / "cpu.max").write_text("20000 100000\n")
    assert cgroups.cores() == 1


@pytest.mark.parametrize(("quota", "expected"), [(-1, 16), (50_000, 1), (250_000, 3), (10**7, 16)])
def test_groups_of_version_1_have_other_files(machine: Path, quota: int, expected: int) -> None:
    (machine / "membership").write_text("4:cpu,cpuacct:/a\n1:memory:/b\n")
    (machine / "cpu" / "a").mkdir(parents=True)
    (machine / "cpu" / "a" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (machine / "cpu" / "a" / "cpu.cfs_period_us").write_text("100000\n")
    assert cgroups.cores() == expected
