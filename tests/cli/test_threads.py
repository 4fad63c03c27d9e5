"""The threads of a command."""

from collections.abc import Iterator

import pytest
import torch

from refusion.cli.threads import use_threads
from refusion.restoring import cgroups


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("OMP_NUM_THREADS", "VIPS_CONCURRENCY"):
        monkeypatch.setenv(name, "")  # so that what is set here is undone
        monkeypatch.delenv(name)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("cores", [1, 3])
def test_there_is_one_for_each_core(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    monkeypatch.setattr(cgroups, "cores", lambda: cores)
    use_threads(None)
    assert torch.get_num_threads() == cores


def test_the_environment_goes_before_the_cores_and_the_option_before_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cgroups, "cores", lambda: 5)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    torch.set_num_threads(2)  # as torch does when it is loaded
    use_threads(None)
    assert torch.get_num_threads() == 2
    use_threads(3)
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("count", [0, -1])
def test_there_is_at_least_one(count: int) -> None:
    with pytest.raises(ValueError, match=f"--threads is {count}: give at least 1"):
        use_threads(count)
