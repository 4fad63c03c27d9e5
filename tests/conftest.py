"""What all tests share: checked shapes, repeatable randomness, golden numbers, commands in the process."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook
from safetensors.torch import load_file
from torch import Tensor

from command import Run, Said

# Before anything imports refusion: every shape and type in its signatures is checked from here on.
# An int is a float, as for a type checker.
install_import_hook("refusion", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

if TYPE_CHECKING:
    from pairs import Place
    from refusion.diffusion.sde import MeanRevertingSDE

GOLDEN = Path(__file__).parent / "golden"

# Small tensors: threads would only wait for each other. The variables are for commands and their processes.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("VIPS_CONCURRENCY", "1")
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None, max_examples=40)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _in_float32() -> Iterator[None]:
    """What is restored or trained without a precision is in float32, whatever is native.

    It holds from before the first fixture of the session, so that models which tests share are trained alike.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("refusion.nn.precision.native_precision", lambda device: "32")
        yield


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    return GOLDEN


@pytest.fixture(scope="session")
def golden() -> dict[str, Tensor]:
    """Numbers of the published SDE; golden/README.md names them."""
    return load_file(GOLDEN / "sde_T100.safetensors")


@pytest.fixture(scope="session")
def make_sde() -> "Callable[..., MeanRevertingSDE]":
    """A process of a named schedule, with the published settings unless told otherwise."""
    from refusion.diffusion.schedule import SCHEDULES, make_alphas
    from refusion.diffusion.sde import MeanRevertingSDE

    def make(
        schedule: str = "cosine", total: int = 100, noise_level: float = 50 / 255, delta: float = 0.005
    ) -> "MeanRevertingSDE":
        times = torch.arange(total + 1, dtype=torch.float64)
        return MeanRevertingSDE(make_alphas(SCHEDULES[schedule](times), delta), noise_level)

    return make


@pytest.fixture(scope="session")
def sde(make_sde: "Callable[..., MeanRevertingSDE]") -> "MeanRevertingSDE":
    """The published process: cosine, T = 100, lambda = 50/255, delta = 0.005."""
    return make_sde()


@pytest.fixture
def place(tmp_path: Path) -> "Place":
    """Write an array to a place in the test's folder."""
    from refusion.imaging.arrays import from_array
    from refusion.imaging.formats import write

    def put(name: str, array: np.ndarray) -> Path:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write(from_array(array), tmp_path / name)
        return tmp_path / name

    return put


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own to work in."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def run(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """`main` with the given words: what it says, and its exit status."""
    from refusion import cli

    def call(*words: object) -> Said:
        capsys.readouterr()
        app = partial(cli.app, [str(word) for word in words])
        with monkeypatch.context() as patch:
            patch.setattr(cli, "app", app)
            with pytest.raises(SystemExit) as caught:
                cli.main()
        said = Said(int(caught.value.code or 0), *capsys.readouterr())
        assert "Traceback" not in said.err
        return said

    return call
