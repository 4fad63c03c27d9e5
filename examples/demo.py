"""Restore a photograph with the bundled shadow-removal model and write demo.png: before | after.

    python examples/demo.py [PHOTO]

Without a photograph, a soft shadow is rendered on one that scikit-image carries (a pavement, toned since
it is grey), so that the true picture is known and the numbers can be printed.
"""

import sys
import time

import numpy as np
from skimage import data
from skimage.filters import gaussian

import refusion
from refusion.evaluation.metrics import psnr, ssim
from refusion.imaging.arrays import from_array


def pavement() -> np.ndarray:
    """A photograph (400, 512, 3) in [0, 1]."""
    grey = data.brick()[:400, :, None].astype(np.float32) / 255
    return grey * np.array([1, 0.97, 0.92], np.float32)


def cast_shadow(picture: np.ndarray) -> np.ndarray:
    """The picture (h, w, 3) in [0, 1] with the soft bluish shadow of somebody leaning into it."""
    height, width = picture.shape[:2]
    y, x = np.mgrid[0:height, 0:width]
    body = x - 0.35 * (height - y) - 0.30 * width
    head = (x - 0.36 * width) ** 2 + (y - 0.24 * height) ** 2 < (0.15 * height) ** 2
    shadow = head | ((body > 0) & (body < 0.22 * width) & (y > 0.18 * height))
    depth = gaussian(shadow.astype(float), sigma=0.008 * width)[..., None]
    light = 1 - depth * (1 - np.array([0.36, 0.40, 0.46]))
    return ((picture**2.2 * light) ** (1 / 2.2)).astype(np.float32)


def main() -> None:
    started = time.perf_counter()
    truth = None
    if sys.argv[1:]:
        before = refusion.read(sys.argv[1])
    else:
        before, truth = from_array(cast_shadow(pavement())), from_array(pavement())
    after = refusion.load("shadow-removal")(before)
    gap = np.ones((before.size[1], 8, 3), np.float32)
    both = np.concatenate([before.pixels, gap, after.pixels], axis=1)
    refusion.write(from_array(both), "demo.png")
    print(
        f"demo.png: before | after, {before.size[0]}x{before.size[1]}, {time.perf_counter() - started:.1f} s"
    )
    if truth:
        for name, picture in (("before", before), ("after", after)):
            scores = psnr(picture.pixels, truth.pixels), ssim(picture.pixels, truth.pixels)
            print(f"{name:7}{scores[0]:6.2f} dB, SSIM {scores[1]:.4f} to the picture without shadow")


if __name__ == "__main__":
    main()
