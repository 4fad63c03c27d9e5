"""A study of two tiny arms, and the pairs that it trains on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from refusion.imaging.arrays import from_array
from refusion.imaging.formats import write
from refusion.study.plan import Study, read_study
from refusion.study.runs import Run, make_runs
from tiny import SMALLEST

RECIPE = {
    **SMALLEST,
    "model": {**SMALLEST["model"], "sampling": {"steps": 1}},
    "data": {"patch": [16, 16]},
    "training": {
        "steps": 6,
        "batch": 2,
        "learning_rate": 1e-2,
        "validate_every": 2,
        "save_every": 2,
        "keep": 1,
        "rollback_drop_db": 100,
        "workers": 0,
    },
}
STUDY: dict[str, Any] = {
    "name": "tiny",
    "question": "Whether a level matters.",
    "recipe": "recipe.yaml",
    "factors": {
        "level": {
            10: {"model.process.noise_level": "10/255"},
            50: {"model.process.noise_level": "50/255"},
        }
    },
    "seeds": 2,
    "claims": [{"says": "Fifty is better.", "factor": "level", "better": 50, "than": 10}],
}
Planned = tuple[Study, list[Run]]


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
