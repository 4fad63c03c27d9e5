"""Make every picture of the README and the docs anew: python examples/figures.py

All photographs come with scikit-image; shadows on them are rendered.
"""

from pathlib import Path

import numpy as np
import torch
from demo import cast_shadow, pavement
from skimage import data

import refusion
from refusion.image import from_array
from refusion.recipe import Process
from refusion.restorer import noise_source

IMAGES = Path(__file__).parents[1] / "docs" / "images"


def row(*pictures: np.ndarray) -> np.ndarray:
    """Pictures (h, w, 3) of one height side by side, with a white gap."""
    gap = np.ones((pictures[0].shape[0], 8, 3), np.float32)
    return np.concatenate([part for picture in pictures for part in (picture, gap)][:-1], axis=1)


def save(name: str, pixels: np.ndarray) -> None:
    refusion.write(from_array(pixels.astype(np.float32).clip(0, 1)), IMAGES / name)


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    restore = refusion.load("shadow-removal", "cpu")
    shadowed = cast_shadow(pavement())
    save("before-after.jpg", row(shadowed, restore(shadowed).pixels))

    failures = []
    for photograph in (data.coffee(), data.chelsea()[:, :450]):
        before = cast_shadow(photograph[:300, :400] / 255)
        failures.append(row(before, restore(before).pixels))
    save("failures.jpg", np.concatenate(failures))

    drawn = restore.samples(shadowed, 8, steps=10)
    error = np.abs(drawn.mean.pixels - pavement()).mean(-1)
    maps = [np.repeat((10 * z[..., None]).clip(0, 1), 3, axis=2) for z in (drawn.deviation, error)]
    save("uncertainty.jpg", row(drawn.mean.pixels, *maps))

    x0, mu = (from_array(z.astype(np.float32)).tensor()[None] for z in (pavement(), shadowed))
    sde = Process(noise_level=50 / 255).build()
    states = list(sde.forward(x0, mu, noise_source(mu, 0)))
    film = [torch.nn.functional.interpolate(states[t], scale_factor=0.5)[0] for t in (0, 25, 50, 75, 100)]
    save("forward.jpg", row(*(z.permute(1, 2, 0).numpy() for z in film)))


if __name__ == "__main__":
    main()
