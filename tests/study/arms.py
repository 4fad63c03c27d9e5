"""A study of two tiny arms."""

from typing import Any

from refusion.study.plan import Study
from refusion.study.runs import Run
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
        "precision": "32",  # in processes that a test starts, too
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
