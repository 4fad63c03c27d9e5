"""Free memory is what the machine and its containers leave."""

from pathlib import Path

import psutil
import pytest
import torch

from refusion.diffusion.sde import MeanRevertingSDE
from refusion.errors import ImageError
from refusion.restoring import memory
from refusion.restoring.codec import Pixels, Pyramid
from refusion.restoring.memory import Demand, free_memory
from restorers import photo, small_restorer

CPU = torch.device("cpu")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One with much memory, in no container."""
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "MEMBERSHIP", tmp_path / "membership")
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


# ---- admission


def test_what_does_not_fit_is_refused_with_its_size_and_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: 3 * 2**30)
    Demand(2**30, 2**31).admit("a.png", CPU)
    with pytest.raises(
        ImageError, match=r"^a\.png needs 3\.50 GiB .* 3\.00 GiB are free on cpu: .*--tile"
    ) as caught:
        Demand(3 * 2**29, 2**31).admit("a.png", CPU)
    assert "\n" not in str(caught.value)


def test_pictures_and_states_are_in_the_memory_of_their_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"cpu": 100, "cuda": 50}
    monkeypatch.setattr(memory, "free_memory", lambda device: free[device.type])
    cuda = torch.device("cuda")
    Demand(100, 50).admit("a.png", cuda)
    for host, device, place in ((101, 0, "cpu"), (0, 51, "cuda")):
        with pytest.raises(ImageError, match=f"free on {place}"):
            Demand(host, device).admit("a.png", cuda)


@pytest.mark.parametrize("codec", [Pixels(2), Pyramid(64, 2)], ids=repr)
def test_more_pixels_samples_and_steps_need_more(sde: MeanRevertingSDE, codec: Pixels) -> None:
    restorer = small_restorer(sde, codec)

    def total(side: int, **options: object) -> int:
        needed = restorer.demand((side, side), **options)  # type: ignore[arg-type]
        return needed.host + needed.device

    sizes = [total(side) for side in (1, 100, 1000, 4000, 11000, 20000)]  # 4000 whole, 11000 in strips
    assert sizes == sorted(sizes)
    assert sizes[-1] > 12 * 20000**2
    assert total(1000, samples=2) > total(1000)
    assert total(1000, trajectory=True, steps=9) > total(1000, trajectory=True, steps=5) > total(1000)
    assert total(4000, tile=2000) >= total(4000)


def test_a_large_pyramid_needs_no_copies(sde: MeanRevertingSDE) -> None:
    needed = small_restorer(sde, Pyramid(64, 2)).demand((10_000, 10_000))
    assert needed.host + needed.device < 1.2 * 12 * 10**8


def test_a_request_that_does_not_fit_is_refused_unless_a_budget_is_handed_in(
    sde: MeanRevertingSDE, monkeypatch: pytest.MonkeyPatch
) -> None:
    restorer = small_restorer(sde)
    monkeypatch.setattr(memory, "free_memory", lambda device: 1000)
    with pytest.raises(ImageError, match="22 x 13 pixels needs"):
        restorer.run(restorer.request(photo()))
    assert restorer.run(restorer.request(photo(), memory=2**30)).image.size == (22, 13)
