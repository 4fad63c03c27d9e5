"""Cut the before and after of every bundled model, for the cards of `refusion serve`, out of the figures
of the docs: python examples/cards.py

A figure shows pictures of one size in a row, 8 pixels apart: before, after and, in most, others.
"""

from pathlib import Path

import pyvips

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "images"
CARDS = ROOT / "src" / "refusion" / "web" / "page" / "examples"
GAP = 8
WIDTH, HEIGHT = 360, 240
QUALITY = 74

WINDOWS = {
    "bokeh": ("bokeh.jpg", 4, (60, 0, 450)),
    "deblurring": ("deblurring.jpg", 3, (10, 60, 390)),
    "dehazing": ("dehazed.jpg", 2, (0, 60, 500)),
    "deraining": ("deraining.jpg", 3, (0, 27, 440)),
    "gaussian-denoising": ("gaussian-denoising.jpg", 3, (20, 20, 280)),
    "inpainting": ("inpainting.jpg", 3, (0, 26, 405)),
    "low-light": ("low-light.jpg", 3, (40, 10, 560)),
    "real-denoising": ("real-denoising.jpg", 3, (60, 45, 180)),
    "shadow-removal": ("before-after.jpg", 2, (0, 20, 480)),
    "stereo-super-resolution": ("stereo-super-resolution.jpg", 3, (100, 40, 210)),
    "super-resolution": ("super-resolution.jpg", 3, (70, 25, 200)),
}
"""For each model its figure, how many pictures that holds, and the left, top and width of what is shown."""


def cut(figure: pyvips.Image, place: int, pictures: int, window: tuple[int, int, int]) -> pyvips.Image:
    """Return the window of one picture of a figure, in the size of a card."""
    step = (figure.width + GAP) // pictures
    left, top, width = window
    part = figure.crop(place * step + left, top, width, width * HEIGHT // WIDTH)
    return part.thumbnail_image(WIDTH, height=HEIGHT, size="force")


def main() -> None:
    CARDS.mkdir(parents=True, exist_ok=True)
    for model, (name, pictures, window) in WINDOWS.items():
        figure = pyvips.Image.new_from_file(str(FIGURES / name))
        for place, side in enumerate(("before", "after")):
            card = cut(figure, place, pictures, window)
            card.jpegsave(str(CARDS / f"{model}-{side}.jpg"), Q=QUALITY, optimize_coding=True, keep="none")


if __name__ == "__main__":
    main()
