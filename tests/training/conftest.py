"""The pairs on which the tests train."""

from pathlib import Path

import pytest
from torch import Tensor

from pairs import darker_pairs


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pairs to train on and three to validate: the degraded picture is darker."""
    return darker_pairs(tmp_path_factory.mktemp("pairs"), {"train": 6, "val": 3}, 6)


@pytest.fixture(scope="session")
def whole(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The weights of a run that nothing happened to."""
    from test_stages import recipe, weights

    from refusion.training.run import train

    folder = tmp_path_factory.mktemp("whole")
    train(recipe(pairs), folder)
    return weights(folder)
