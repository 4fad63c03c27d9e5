"""The files of the study of two tiny arms, and the pairs that it trains on."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from arms import RECIPE, STUDY, Planned

from pairs import darker_pairs
from refusion.study.plan import read_study
from refusion.study.runs import make_runs


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pairs to train on and two to validate: the degraded picture is darker."""
    return darker_pairs(tmp_path_factory.mktemp("pairs"), {"train": 4, "val": 2}, 5)


@pytest.fixture
def plan(pairs: Path, tmp_path: Path) -> Callable[..., Planned]:
    """Write the files of a study, and plan its runs."""

    def write_files(**changes: object) -> Planned:
        file = tmp_path / "study.yaml"
        file.write_text(yaml.safe_dump({**STUDY, **changes}, sort_keys=False))
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
        study = read_study(file)
        return study, make_runs(study, file, str(pairs), tmp_path / "runs")

    return write_files
