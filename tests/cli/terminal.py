"""What the tests of all commands share: what is said, pictures to work on, and models of every task."""

from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch

import refusion
from command import Said
from refusion.imaging.arrays import from_array
from refusion.imaging.formats import read, write
from refusion.models.checkpoint import save
from refusion.models.spec import Card
from refusion.training.recipe import Recipe, parse
from tiny import SMALLEST


def described(**model: Any) -> dict[str, Any]:
    """The smallest recipe with two steps and other values for its model."""
    return {**SMALLEST, "model": {**SMALLEST["model"], "sampling": {"steps": 2}, **model}}


TINY = described()
NETWORK = SMALLEST["model"]["network"]
TASKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "denoising": {
        "process": {"kind": "denoising", "noise_level": "70/255"},
        "network": {**NETWORK, "conditional": False},
    },
    "bokeh": {"network": {**NETWORK, "conditions": 3}},
    "stereo": {
        "network": {**NETWORK, "stereo": True},
        "enlarge": {"factor": 2},
    },
    "views": {"network": {**NETWORK, "stereo": True}},
}
CARD = Card(task="test", summary="For tests.", terms="None.", metrics={"psnr": 30.25})


def save_model(path: Path, std: float, recipe: Recipe | None = None, card: Card = CARD) -> Path:
    """Weights of a deviation; of zero, a network that leaves every picture as it is."""
    recipe = recipe or parse(TINY, "test")
    restorer = recipe.model.build()
    torch.manual_seed(2)
    for parameter in restorer.network.parameters():
        torch.nn.init.normal_(parameter, std=std)
    save(path, restorer, recipe.model, card, recipe.provenance())
    return path


def one_line(said: Said, *parts: str, status: int = 1) -> None:
    assert said.status == status, said
    assert said.err.count("\n") == 1, said.err
    assert said.err.startswith("refusion: ")
    for part in parts:
        assert part in said.err, said.err


def photo(path: str, seed: int = 0, height: int = 8, width: int = 10) -> Path:
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    write(from_array(np.random.default_rng(seed).uniform(0.2, 0.8, (height, width, 3))), place)
    return place


def make_pairs(folder: str, count: int = 3) -> Path:
    for i in range(count):
        for side in ("lq", "gt"):
            photo(f"{folder}/{side}/{i}.png", i, height=16, width=20 + 2 * i)
    return Path(folder)


def mask(path: str, height: int = 8, width: int = 10) -> np.ndarray:
    """Writes a mask, white where the left half is missing; returns where it is."""
    holes = np.zeros((height, width), np.float32)
    holes[:, : width // 2] = 1
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write(from_array(holes), Path(path))
    return holes > 0


def views(left: str, right: str, height: int = 12, width: int = 20) -> None:
    texture = skimage.data.astronaut()[100 : 100 + height, 100 : 102 + width] / 255
    for path, picture in ((left, texture[:, :-2]), (right, texture[:, 2:])):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write(from_array(picture), Path(path))


def loaded(models: Path, name: str) -> refusion.Restorer:
    return refusion.load(models / f"{name}.safetensors", "cpu")


def assert_written(path: str, expected: np.ndarray) -> None:
    np.testing.assert_allclose(read(path).pixels, expected, atol=0.51 / 255)
