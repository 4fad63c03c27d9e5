"""The files of the study of two tiny arms, and the pairs that it trains on."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from arms import RECIPE, STUDY, Planned

from refusion.imaging.arrays import from_array
from refusion.imaging.formats import write
from refusion.study.plan import read_study
from refusion.study.runs import make_runs


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pairs to train on and two to validate: the degraded picture is darker."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 2)):
        for side in ("lq", "gt"):
            (folder / part / side).mkdir(parents=True)
        for i in range(count):
            gt = rng.uniform(0.2, 0.8, (4, 5, 3)).repeat(5, 0).repeat(5, 1)
            write(from_array(gt), folder / part / "gt" / f"{i}.png")
            write(from_array(gt * 0.6), folder / part / "lq" / f"{i}.png")
    return folder


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
