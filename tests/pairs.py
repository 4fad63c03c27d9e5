"""Pairs whose pixels say where they are from."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from refusion.data.pairs import Pair
from refusion.imaging.arrays import from_array
from refusion.imaging.formats import write

Place = Callable[[str, np.ndarray], Path]
"""Write an array to a place in the data's folder."""


def degrade(gt: np.ndarray) -> np.ndarray:
    """Of each pixel alone, so that cropping and turning commute with it."""
    return gt * 0.5 + 0.1


def texture(seed: int, height: int, width: int) -> np.ndarray:
    """Values of 16 bit, so that a file holds them exactly."""
    return np.random.default_rng(seed).integers(0, 65536, (height, width, 3)).astype(np.uint16)


def make_pairs(place: Place, sizes: list[tuple[int, int]]) -> list[Pair]:
    pairs = []
    for i, size in enumerate(sizes):
        gt = texture(i, *size) / 65535
        pairs.append(Pair((place(f"lq/{i}.tif", degrade(gt)),), (place(f"gt/{i}.tif", gt),)))
    return pairs


def darker_pairs(folder: Path, counts: dict[str, int], block: int) -> Path:
    """Write pairs of 4 x 5 even blocks for each part, as "train"; the degraded picture is darker."""
    rng = np.random.default_rng(0)
    for part, count in counts.items():
        for side in ("lq", "gt"):
            (folder / part / side).mkdir(parents=True)
        for i in range(count):
            gt = rng.uniform(0.2, 0.8, (4, 5, 3)).repeat(block, 0).repeat(block, 1)
            write(from_array(gt), folder / part / "gt" / f"{i}.png")
            write(from_array(gt * 0.6), folder / part / "lq" / f"{i}.png")
    return folder


def views(place: Place, name: str = "a", size: tuple[int, int] = (24, 30), far: int = 3) -> Pair:
    """Red is the row, green the column of the left view, blue 0 in the left and 1 in the right view, which
    shows at column x what is at x + far of the left one. lq is half as bright."""
    y, x = np.mgrid[: size[0], : size[1]]
    files = []
    for side, shift in (("left", 0), ("right", far)):
        gt = np.stack([y / 50, (x + shift) / 50, np.full(size, float(side == "right"))], axis=-1)
        files.append((place(f"lq/{side}/{name}.tif", gt / 2), place(f"gt/{side}/{name}.tif", gt)))
    lq, gt_files = zip(*files, strict=True)
    return Pair(lq, gt_files)


def flat(place: Place, name: str, lq: float, gt: float) -> Pair:
    """A pair of two even pictures."""
    files = [place(f"{side}/{name}.tif", np.full((6, 6, 3), z)) for side, z in (("lq", lq), ("gt", gt))]
    return Pair((files[0],), (files[1],))


def blocks(place: Place, factor: int) -> Pair:
    """A picture of even blocks, and the same picture with a pixel for each block."""
    small = texture(0, 9, 12) / 65535
    large = small.repeat(factor, 0).repeat(factor, 1)
    return Pair((place("lq/a.tif", small),), (place("gt/a.tif", large),), factor=factor)
