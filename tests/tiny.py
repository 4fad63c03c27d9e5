"""The smallest recipe that restores."""

from typing import Any

SMALLEST: dict[str, Any] = {
    "task": "test",
    "model": {
        "network": {"name": "ConditionalNAFNet", "width": 4, "encoder": [1], "middle": 1, "decoder": [1]},
        "codec": {"name": "Pixels", "factor": 2},
        "process": {"noise_level": "50/255"},
        "prediction": "clean",
    },
}
