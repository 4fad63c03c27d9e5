"""SSIMULACRA 2 against the scores of libjxl's tool; golden/README.md tells how they were made."""

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torch import Tensor

from refusion.evaluation.ssimulacra2 import SIGMA, Ssimulacra2, gaussian

Picture = np.ndarray
"""8 bit, height x width x 3."""


def blurred(picture: Picture, times: int) -> Picture:
    x = picture.astype(np.float64)
    for axis in (0, 1):
        for _ in range(times):
            x = (np.roll(x, 1, axis) + 2 * x + np.roll(x, -1, axis)) / 4
    return x.round().astype(np.uint8)


def noisy(picture: Picture, std: float) -> Picture:
    noise = np.random.default_rng(0).normal(0, std, picture.shape)
    return (picture + noise).round().clip(0, 255).astype(np.uint8)


def jpeg(picture: Picture, quality: int) -> Picture:
    file = BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))


PICTURES: dict[str, Callable[[], Picture]] = {
    "astronaut": lambda: data.astronaut()[:256, 128:384],
    "coffee": lambda: data.coffee()[60:193, 200:315],
    "chelsea": lambda: data.chelsea()[:, 80:400],
    "small": lambda: data.chelsea()[100:140, 200:224],
    "grey": lambda: np.repeat(data.camera()[100:250, 150:310, None], 3, 2),
}
WORSE: dict[str, Callable[[Picture], Picture]] = {
    "same": lambda picture: picture,
    "blur-1": lambda picture: blurred(picture, 1),
    "blur-4": lambda picture: blurred(picture, 4),
    "blur-16": lambda picture: blurred(picture, 16),
    "noise-3": lambda picture: noisy(picture, 3),
    "noise-12": lambda picture: noisy(picture, 12),
    "jpeg-80": lambda picture: jpeg(picture, 80),
    "jpeg-40": lambda picture: jpeg(picture, 40),
    "jpeg-10": lambda picture: jpeg(picture, 10),
    "dark": lambda picture: picture // 2,
}
CASES = [(name, kind) for name in PICTURES for kind in WORSE]


def batch(*pictures: Picture) -> Tensor:
    return torch.stack([torch.from_numpy(p).permute(2, 0, 1).float() / 255 for p in pictures])


def score(picture: Picture, original: Picture) -> float:
    (value,) = Ssimulacra2()(batch(picture), batch(original))
    return float(value)


@pytest.fixture(scope="module")
def tool(golden_folder: Path) -> dict[str, dict[str, float]]:
    scores: dict[str, dict[str, float]] = json.loads((golden_folder / "ssimulacra2.json").read_text())
    return scores


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_score_is_that_of_the_tool(name: str, kind: str, tool: dict[str, dict[str, float]]) -> None:
    original = np.ascontiguousarray(PICTURES[name]())
    assert score(WORSE[kind](original), original) == pytest.approx(tool[name][kind], abs=0.15)


def test_the_window_has_the_gaussians_moments() -> None:
    window = gaussian()
    offsets = torch.arange(len(window)) - len(window) // 2
    assert float(window.sum()) == pytest.approx(1)
    assert float((window * offsets**2).sum()) == pytest.approx(SIGMA**2)
    torch.testing.assert_close(window, window.flip(0))
    exact = torch.exp(-(offsets.double() ** 2) / (2 * SIGMA**2))
    torch.testing.assert_close(window, exact / exact.sum(), atol=0.003, rtol=0)


def test_pictures_are_scored_one_by_one() -> None:
    original = np.ascontiguousarray(PICTURES["astronaut"]())
    worse = [blurred(original, 2), noisy(original, 8)]
    together = Ssimulacra2()(batch(*worse), batch(original, original))
    assert together.tolist() == pytest.approx([score(picture, original) for picture in worse], abs=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 7), (3, 50)])
def test_pictures_too_small_for_the_tool_have_a_score(size: tuple[int, int]) -> None:
    original = data.astronaut()[100 : 100 + size[0], 200 : 200 + size[1]]
    assert score(original, original) == 100
    assert score(255 - original, original) < 100
