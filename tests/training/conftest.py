"""The pairs on which the tests train."""

from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from refusion.imaging.arrays import from_array
from refusion.imaging.formats import write


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pairs to train on and three to validate: the degraded picture is darker."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("val", 3)):
        for side in ("lq", "gt"):
            (folder / part / side).mkdir(parents=True)
        for i in range(count):
            gt = rng.uniform(0.2, 0.8, (4, 5, 3)).repeat(6, 0).repeat(6, 1)
            write(from_array(gt), folder / part / "gt" / f"{i}.png")
            write(from_array(gt * 0.6), folder / part / "lq" / f"{i}.png")
    return folder


@pytest.fixture(scope="session")
def whole(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The weights of a run that nothing happened to."""
    from test_stages import recipe, weights

    from refusion.training.run import train

    folder = tmp_path_factory.mktemp("whole")
    train(recipe(pairs), folder)
    return weights(folder)
