"""A restoration in a shorter precision is close to that in float32, and the same every time."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import refusion
from refusion.imaging.arrays import from_array
from refusion.nn import precision as module
from refusion.restoring.request import Limits
from refusion.restoring.restorer import Restorer


@pytest.fixture(scope="module")
def restore() -> Restorer:
    return refusion.load("dehazing", "cpu")


PICTURE = from_array(np.random.default_rng(0).random((96, 128, 3), dtype=np.float32))


def restored(restore: Restorer, **options: Any) -> np.ndarray:
    return restore(PICTURE, steps=2, **options).pixels


@pytest.mark.parametrize(("precision", "largest"), [("bf16", 0.02), ("16", 0.004)])
def test_a_shorter_precision_is_close_and_deterministic(
    precision: Any, largest: float, restore: Restorer
) -> None:
    exact, short = restored(restore, precision="32"), restored(restore, precision=precision)
    assert 0 < np.abs(short - exact).max() < largest
    assert np.array_equal(short, restored(restore, precision=precision))


def test_auto_is_what_the_device_multiplies(restore: Restorer, monkeypatch: pytest.MonkeyPatch) -> None:
    for native in ("32", "bf16"):
        monkeypatch.setattr(module, "native_precision", lambda device, native=native: native)
        assert np.array_equal(restored(restore), restored(restore, precision=native))


def test_states_stay_in_float32(restore: Restorer) -> None:
    seen: set[torch.dtype] = set()
    prediction = restore.prediction

    class Watching(type(prediction)):  # type: ignore[misc]
        def clean(self, output: torch.Tensor, *rest: Any) -> torch.Tensor:
            seen.add(output.dtype)
            x0: torch.Tensor = prediction.clean(output, *rest)
            seen.add(x0.dtype)
            return x0

    restored(replace(restore, prediction=Watching()), precision="bf16")
    assert seen == {torch.float32}


def test_an_unknown_precision_is_named() -> None:
    """Outside of these tests, which check types before."""
    with pytest.raises(ValueError, match="precision is 'fp8': there are auto, 32, bf16, 16"):
        Limits.__post_init__(SimpleNamespace(precision="fp8"))  # type: ignore[arg-type]
