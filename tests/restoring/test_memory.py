"""Free memory is what the machine and its containers leave."""

from pathlib import Path

import psutil
import pytest
import torch

from refusion.restoring import cgroups
from refusion.restoring.memory import free_memory

CPU = torch.device("cpu")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One with much memory, in no container."""
    monkeypatch.setattr(cgroups, "CGROUPS", tmp_path)
    monkeypatch.setattr(cgroups, "MEMBERSHIP", tmp_path / "membership")
    available = psutil.virtual_memory()._replace(available=1_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: available)
    return tmp_path


def group(folder: Path, limit: object, used: int, cached: int, second: bool = True) -> None:
    names = ("memory.max", "memory.current", "inactive_file")
    if not second:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 7\n{names[2]} {cached}\n")


def test_here_something_is_free() -> None:
    assert 0 < free_memory(CPU) <= psutil.virtual_memory().total


def test_without_containers_it_is_the_machines(machine: Path) -> None:
    assert free_memory(CPU) == 1_000_000
    (machine / "membership").write_text("0::/user\n")
    (machine / "user").mkdir()
    assert free_memory(CPU) == 1_000_000


@pytest.mark.parametrize("second", [True, False], ids=["v2", "v1"])
def test_containers_limit_it_and_cached_files_do_not(machine: Path, second: bool) -> None:
    (machine / "membership").write_text("0::/a/b\n" if second else "5:cpu:/x\n4:memory:/a/b\n0::/\n")
    root = machine if second else machine / "memory"
    group(root / "a" / "b", 500_000, 300_000, 50_000, second)
    assert free_memory(CPU) == 250_000
    group(root / "a", 400_000, 300_000, 0, second)  # the tightest counts
    assert free_memory(CPU) == 100_000
    group(root / "a" / "b", 200_000, 300_000, 0, second)
    assert free_memory(CPU) == 0
    unlimited: object = "max" if second else 2**63 - 4096
    for folder in (root / "a", root / "a" / "b"):
        group(folder, unlimited, 300_000, 0, second)
    assert free_memory(CPU) == 1_000_000


def test_on_cuda_what_is_cached_is_free_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 5000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 300)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100)
    assert free_memory(torch.device("cuda")) == 1200


def test_on_apples_gpu_it_is_what_is_recommended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 900)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 400)
    assert free_memory(torch.device("mps")) == 500
