"""A look at a folder of pairs before training: all its problems at once, and a sheet of its pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from refusion.data.degradation import Degradation
from refusion.data.pairs import METADATA, SIDES, Pair, matched_pairs
from refusion.errors import DataError, ImageError
from refusion.imaging.analysis import vertical_offset
from refusion.imaging.arrays import from_array
from refusion.imaging.formats import READABLE
from refusion.imaging.image import Image
from refusion.imaging.resize import antialiased


@dataclass(frozen=True)
class Finding:
    """The report of `inspect_pairs` on a folder; without `problems` it can be trained on.

    Args:
        pairs: that can be trained on.
        sizes: of the degraded pictures, with their counts.
        problems: a line for each.
        passed_over: files beside the pictures that are of a kind which is not read.
    """

    pairs: list[Pair]
    sizes: dict[tuple[int, int], int]
    problems: list[str]
    passed_over: list[Path]


def inspect_pairs(
    folder: Path,
    degradation: Degradation | None = None,
    factor: int = 1,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Finding:
    """Open every picture of a folder of pairs and report all its problems at once.

    Args:
        folder: see `find_pairs`.
        degradation: see `find_pairs`.
        factor: see `find_pairs`.
        progress: called with the number of pairs that are looked at, and that of all.
    """
    matched, alone = matched_pairs(folder, degradation, factor)
    problems = [f"{name}: no partner" for name in alone]
    pairs: list[Pair] = []
    sizes: dict[tuple[int, int], int] = {}
    for done, pair in enumerate(matched):
        progress(done, len(matched))
        try:
            if not pair.lq and degradation is None:
                raise DataError(f"{pair.name}: no degraded picture; name a recipe that makes it")
            views = pair.read()
            offset = vertical_offset(*(z.tensor() for z in views.gt)) if len(views.gt) > 1 else 0.0
        except (DataError, ImageError) as error:
            problems.append(str(error))
            continue
        if abs(offset) > 1:
            problems.append(f"{pair.name}: right is {offset:+.1f} pixels lower than left; rectify them")
        pairs.append(pair)
        sizes[views.lq[0].size] = sizes.get(views.lq[0].size, 0) + 1
    progress(len(matched), len(matched))
    if not matched and not alone:
        problems.append(f"{folder}: no pictures")
    return Finding(pairs, sizes, problems, _passed_over(folder))


def _passed_over(folder: Path) -> list[Path]:
    """Return the files beside the pictures of pairs that are not read, but hidden ones and meta.txt."""
    parts = [folder / part for part in ("lq", "gt") if (folder / part).is_dir()] or [folder]
    places = [place for part in parts for place in (part, *(part / side for side in SIDES)) if place.is_dir()]
    files = [path for place in places for path in sorted(place.iterdir()) if path.is_file()]
    others = [path for path in files if path.suffix.lower() not in READABLE and path.name[0] != "."]
    return [path for path in others if path != folder / METADATA]


def contact_sheet(pairs: Sequence[Pair], columns: int = 8, side: int = 160) -> Image:
    """Return the first pairs in one picture, each degraded picture above its clean one."""
    cells = []
    for pair in pairs[:columns]:
        views = pair.read()
        column = []
        for picture in (*views.lq, *views.gt):
            scale = side / max(picture.size)
            small = [max(1, round(n * scale)) for n in picture.size[::-1]]
            fitted = antialiased(picture.tensor()[None], small)[0]
            column.append(F.pad(fitted, (0, side - small[1], 0, side - small[0]), value=1.0))
        cells.append(torch.cat(column, dim=-2))
    return from_array(torch.cat(cells, dim=-1).clamp(0, 1))
