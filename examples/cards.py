"""Cut the before and after of every bundled model, for the cards of `refusion serve`, out of the first
case of its figure in the docs: python examples/cards.py
"""

from pathlib import Path

import numpy as np
import pyvips
from figures import FIGURES, versions

CARDS = Path(__file__).parents[1] / "src" / "refusion" / "web" / "page" / "examples"
WIDTH, HEIGHT = 360, 240
QUALITY = 74

WINDOWS = {
    "bokeh": (60, 0, 450),
    "deblurring": (10, 60, 390),
    "dehazing": (0, 60, 500),
    "deraining": (0, 27, 440),
    "gaussian-denoising": (20, 20, 280),
    "inpainting": (0, 26, 405),
    "low-light": (40, 10, 560),
    "real-denoising": (60, 45, 180),
    "shadow-removal": (0, 20, 480),
    "stereo-super-resolution": (260, 180, 210),
    "super-resolution": (130, 25, 200),
}
"""For each model the left, top and width of what is shown."""


def cut(pixels: np.ndarray, window: tuple[int, int, int]) -> pyvips.Image:
    """Return the window of a picture (h, w, 3) in [0, 1], in the size of a card."""
    left, top, width = window
    samples = np.rint(255 * pixels).astype(np.uint8)
    part = pyvips.Image.new_from_array(samples, interpretation="srgb").crop(
        left, top, width, width * HEIGHT // WIDTH
    )
    return part.thumbnail_image(WIDTH, height=HEIGHT, size="force")


def main() -> None:
    CARDS.mkdir(parents=True, exist_ok=True)
    for model, window in WINDOWS.items():
        found = versions(model, FIGURES[model].cases[0])
        for side in ("before", "after"):
            card = cut(found[side], window)
            card.jpegsave(str(CARDS / f"{model}-{side}.jpg"), Q=QUALITY, optimize_coding=True, keep="none")


if __name__ == "__main__":
    main()
