"""Pairs of pictures, or of views of a scene, by file stem."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from refusion.degradation import Degradation
from refusion.errors import DataError, ImageError
from refusion.image import SUFFIXES, Image, from_array, read, sized
from refusion.lens import read_metadata
from refusion.rendering import vertical_offset
from refusion.resize import antialiased

SIDES = ("left", "right")
"""The folders of two views."""
METADATA = "meta.txt"


class Views(NamedTuple):
    """What a pair holds: the pictures of one scene, one for each view."""

    lq: tuple[Image, ...]
    gt: tuple[Image, ...]
    condition: tuple[float, ...]
    """Numbers that tell the network what is wanted, as lenses do."""


@dataclass(frozen=True)
class Pair:
    """A degraded and a clean picture, or two views of each.

    Args:
        lq: files of the degraded one; none where it is made.
        gt: files of the clean one.
        condition: see `Views`.
        degradation: makes what is not in files.
        factor: the sides of gt are so many times those of lq.
        number: seeds the degradation.
    """

    lq: tuple[Path, ...]
    gt: tuple[Path, ...]
    condition: tuple[float, ...] = ()
    degradation: Degradation | None = None
    factor: int = 1
    number: int = 0

    @property
    def name(self) -> str:
        return self.gt[0].stem

    @property
    def names(self) -> tuple[str, ...]:
        """One for each view."""
        sides = ("-left", "-right") if len(self.gt) > 1 else ("",)
        return tuple(self.name + side for side in sides)

    def read(self) -> Views:
        """All pictures; what is made is rounded to 8 bit, as if it came from a file.

        Raises:
            DataError: their sizes do not belong together.
            ImageError: one cannot be read.
        """
        gt, condition = self.clean(), self.condition
        if self.lq:
            lq = tuple(read(path) for path in self.lq)
        else:
            lq, gt, condition = self._made(gt)
        if len(lq) != len(gt):
            raise DataError(f"{self.name}: {len(lq)} views in lq/ and {len(gt)} in gt/; give as many")
        for degraded, clean in zip(lq, gt, strict=True):
            if clean.size != tuple(side * self.factor for side in degraded.size):
                times = f"; gt should be {self.factor} times as large" if self.factor > 1 else ""
                said = f"lq and gt have sizes {sized(degraded, clean)}{times}"
                raise DataError(f"{self.name}: {said}; crop one of them")
        return Views(lq, gt, condition)

    def clean(self) -> tuple[Image, ...]:
        """What is in the files of gt.

        Raises:
            DataError: the views have two sizes.
            ImageError: one cannot be read.
        """
        gt = tuple(read(path) for path in self.gt)
        if len({picture.size for picture in gt}) > 1:
            said = f"left and right have sizes {sized(*gt)}"
            raise DataError(f"{self.name}: {said}; crop one of them to the other")
        return gt

    def _made(self, clean: tuple[Image, ...]) -> Views:
        if self.degradation is None:
            raise DataError(f"{self.gt[0]}: no degraded picture, and no data.degradation that makes one")
        try:
            made = [self.degradation(z.tensor(), np.random.default_rng(self.number)) for z in clean]
        except ValueError as error:
            raise DataError(f"{self.gt[0]}: {error}") from error
        lq = tuple(from_array((255 * one.lq.clamp(0, 1)).round() / 255) for one in made)
        return Views(lq, tuple(from_array(one.gt.clamp(0, 1)) for one in made), made[0].condition)


def stems(folder: Path) -> dict[str, Path]:
    """The pictures directly in a folder by stem.

    Raises:
        DataError: the folder is missing, or two pictures share a stem.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; pairs live in lq/ and gt/ with equal file stems")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            if path.stem in found:
                raise DataError(f"{path}: same stem as {found[path.stem].name}; rename one of them")
            found[path.stem] = path
    return found


def _views(root: Path, part: str) -> tuple[dict[str, tuple[Path, ...]], list[str]]:
    """The files of a part of a folder by stem, or of both of its left/ and right/; and who has no partner."""
    folder = root / part
    if not any((folder / side).is_dir() for side in SIDES):
        return {stem: (path,) for stem, path in stems(folder).items()}, []
    left, right = (stems(folder / side) for side in SIDES)
    both: dict[str, tuple[Path, ...]] = {
        stem: (left[stem], right[stem]) for stem in sorted(left.keys() & right.keys())
    }
    return both, [
        (Path(part) / SIDES[stem in right] / stem).as_posix() for stem in sorted(left.keys() ^ right.keys())
    ]


def _matched(folder: Path, degradation: Degradation | None, factor: int) -> tuple[list[Pair], list[str]]:
    """The pairs of a folder in order of stem, and the pictures without a partner."""
    parts = [part for part in ("lq", "gt") if (folder / part).is_dir()]
    if len(parts) == 1:
        missing = {"lq": "gt", "gt": "lq"}[parts[0]]
        raise DataError(
            f"{folder}: {parts[0]}/ without {missing}/; clean pictures lie directly in the folder"
        )
    gt, alone = _views(folder, "gt" if parts else "")
    lq = dict[str, tuple[Path, ...]]()
    if parts:
        lq, lonely = _views(folder, "lq")
        alone += lonely + [f"{'lq' if stem in lq else 'gt'}/{stem}" for stem in sorted(lq.keys() ^ gt.keys())]
        gt = {stem: files for stem, files in gt.items() if stem in lq}
    conditions = dict[str, tuple[float, ...]]()
    if (folder / METADATA).exists():
        conditions.update(read_metadata(folder / METADATA))
        alone += [f"{stem} is not in {METADATA}" for stem in gt if stem not in conditions]
        alone += [f"{stem} of {METADATA}" for stem in conditions if stem not in gt]
        gt = {stem: files for stem, files in gt.items() if stem in conditions}
    pairs = [
        Pair(lq.get(stem, ()), files, conditions.get(stem, ()), degradation, factor, number)
        for number, (stem, files) in enumerate(gt.items())
    ]
    return pairs, alone


def find_pairs(folder: Path, degradation: Degradation | None = None, factor: int = 1) -> list[Pair]:
    """Every pair of `folder`/lq and `folder`/gt, in order of stem.

    Without the two, clean pictures lie in the folder itself, and the degraded ones are made of them. Each
    may hold left/ and right/ instead of pictures. meta.txt tells the lenses of bokeh pictures, see
    `refusion.lens`.

    Args:
        degradation: what makes them.
        factor: the sides of gt are so many times those of lq.

    Raises:
        DataError: a stem is on one side only (all of them are named), there are no pictures, one of the two
            folders is missing, or what makes the degraded ones.
    """
    pairs, alone = _matched(folder, degradation, factor)
    if alone:
        raise DataError(f"{folder}: {len(alone)} pictures without a partner: {', '.join(alone)}")
    if not pairs:
        raise DataError(f"{folder}: no pictures in lq/ and gt/; they may end in {', '.join(SUFFIXES)}")
    if degradation is None and not pairs[0].lq:
        raise DataError(f"{folder}: no lq/ with degraded pictures, and no data.degradation that makes them")
    return pairs


@dataclass(frozen=True)
class Finding:
    """What `inspect_pairs` says of a folder; `problems` is empty when it can be trained on."""

    pairs: list[Pair]
    sizes: dict[tuple[int, int], int]
    problems: list[str]


def inspect_pairs(folder: Path, degradation: Degradation | None = None, factor: int = 1) -> Finding:
    """Open every picture of a folder of pairs and report all that is wrong with it at once."""
    matched, alone = _matched(folder, degradation, factor)
    problems = [f"{name}: no partner" for name in alone]
    pairs, sizes = [], dict[tuple[int, int], int]()
    for pair in matched:
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
    if not matched and not alone:
        problems.append(f"{folder}: no pictures")
    return Finding(pairs, sizes, problems)


def contact_sheet(pairs: Sequence[Pair], columns: int = 8, side: int = 160) -> Image:
    """The first pairs in one picture, each degraded one above its clean one."""
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
