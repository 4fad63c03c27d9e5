"""Pairs of degraded and clean pictures, or of views of a scene, matched by file stem."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from refusion.data.degradation import Degradation
from refusion.errors import DataError
from refusion.files import comparable
from refusion.imaging.arrays import from_array
from refusion.imaging.formats import MAX_PIXELS, READABLE, Admit, read
from refusion.imaging.image import Image, format_sizes
from refusion.imaging.lens import read_metadata

SIDES = ("left", "right")
"""Names of the folders of two views."""
GUIDE = "guide"
"""Name of the folder of guides."""
METADATA = "meta.txt"
Reader = Callable[[Path, int, Admit | None], Image]
"""Reads a file of at most so many pixels."""
from_file: Reader = read
Check = Callable[[int, int | None, int], None]
"""Checks a number of views, of conditions, None if conditions come from a degradation, and of guides."""


class Scene(NamedTuple):
    """The pictures of a pair, one for each view of the scene."""

    lq: tuple[Image, ...]
    gt: tuple[Image, ...]
    condition: tuple[float, ...]
    """Numbers for the network, such as those of lenses."""
    guides: Float[Tensor, "views guides h w"] | None = None
    """Maps in [0, 1] beside each degraded picture, as large; None if there are none."""


@dataclass(frozen=True)
class Pair:
    """A degraded and a clean picture, or two views of each.

    Args:
        lq: files of the degraded picture; empty if `degradation` makes it.
        gt: files of the clean picture.
        condition: see `Scene`.
        degradation: makes the degraded picture of the clean one, if there are no files of it.
        factor: ratio of the sides of gt to those of lq.
        number: seed of the degradation.
        guide: files of a map beside the degraded picture, as a mask; empty if there is none.
    """

    lq: tuple[Path, ...]
    gt: tuple[Path, ...]
    condition: tuple[float, ...] = ()
    degradation: Degradation | None = None
    factor: int = 1
    number: int = 0
    guide: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        return self.gt[0].stem

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each view."""
        sides = ("-left", "-right") if len(self.gt) > 1 else ("",)
        return tuple(self.name + side for side in sides)

    def read(
        self, max_pixels: int = MAX_PIXELS, admit: Admit | None = None, reader: Reader = from_file
    ) -> Scene:
        """Read all pictures; those that a degradation makes are rounded to 8 bit, as in a file.

        Args:
            max_pixels: larger pictures are refused before they are decoded.
            admit: called before the first clean picture is decoded, to refuse what does not fit into memory.
            reader: reads a file.

        Raises:
            DataError: the sizes or numbers of pictures do not match, or a degradation is missing or fails.
            ImageError: a picture cannot be read.
        """
        gt, condition = self.clean(max_pixels, admit, reader), self.condition
        if self.lq:
            lq = tuple(reader(path, max_pixels, None) for path in self.lq)
            guides = self._guides(lq, max_pixels, reader)
        else:
            lq, gt, condition, guides = self._made(gt)
        if len(lq) != len(gt):
            raise DataError(f"{self.name}: {len(lq)} views in lq/ and {len(gt)} in gt/; give as many")
        for degraded, clean in zip(lq, gt, strict=True):
            if clean.size != tuple(side * self.factor for side in degraded.size):
                times = f"; gt should be {self.factor} times as large" if self.factor > 1 else ""
                sizes = f"lq and gt have sizes {format_sizes(degraded, clean)}{times}"
                raise DataError(f"{self.name}: {sizes}; crop one of them")
        return Scene(lq, gt, condition, guides)

    def _guides(self, lq: tuple[Image, ...], max_pixels: int, reader: Reader) -> Tensor | None:
        """Read the guide of every view, as grey."""
        if not self.guide:
            return None
        maps = [reader(path, max_pixels, None) for path in self.guide]
        for path, guide, degraded in zip(self.guide, maps, lq, strict=True):
            if guide.size != degraded.size:
                sizes = f"it and lq have sizes {format_sizes(guide, degraded)}"
                raise DataError(f"{path}: {sizes}; crop one of them")
        return torch.stack([guide.tensor().mean(0, keepdim=True) for guide in maps])

    def clean(
        self, max_pixels: int = MAX_PIXELS, admit: Admit | None = None, reader: Reader = from_file
    ) -> tuple[Image, ...]:
        """Read the clean pictures.

        Args:
            max_pixels: larger pictures are refused before they are decoded.
            admit: see `read`.
            reader: reads a file.

        Raises:
            DataError: the views have different sizes.
            ImageError: a picture cannot be read.
        """
        gt = tuple(reader(path, max_pixels, None if i else admit) for i, path in enumerate(self.gt))
        if len({picture.size for picture in gt}) > 1:
            sizes = f"left and right have sizes {format_sizes(*gt)}"
            raise DataError(f"{self.name}: {sizes}; crop one of them to the other")
        return gt

    def _made(self, clean: tuple[Image, ...]) -> Scene:
        if self.degradation is None:
            raise DataError(f"{self.gt[0]}: no degraded picture, and no data.degradation that makes one")
        try:
            examples = [self.degradation(z.tensor(), np.random.default_rng(self.number)) for z in clean]
        except ValueError as error:
            raise DataError(f"{self.gt[0]}: {error}") from error
        lq = tuple(from_array((255 * example.lq.clamp(0, 1)).round() / 255) for example in examples)
        gt = tuple(from_array(example.gt.clamp(0, 1)) for example in examples)
        maps = [example.guides for example in examples if example.guides is not None]
        return Scene(lq, gt, examples[0].condition, torch.stack(maps) if maps else None)


def stems(folder: Path) -> dict[str, Path]:
    """Return the picture files directly in a folder, by stem, which is `comparable`.

    Raises:
        DataError: the folder is missing, or two pictures share a stem.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; pairs live in lq/ and gt/ with equal file stems")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in READABLE and not path.name.startswith("."):
            stem = comparable(path.stem)
            if stem in found:
                raise DataError(f"{path}: same stem as {found[stem].name}; rename one of them")
            found[stem] = path
    return found


def _views(root: Path, part: str) -> tuple[dict[str, tuple[Path, ...]], list[str]]:
    """Return the files of a folder by stem, or those of its left/ and right/, and names without a partner."""
    folder = root / part
    if not any((folder / side).is_dir() for side in SIDES):
        return {stem: (path,) for stem, path in stems(folder).items()}, []
    left, right = stems(folder / SIDES[0]), stems(folder / SIDES[1])
    both: dict[str, tuple[Path, ...]] = {
        stem: (left[stem], right[stem]) for stem in sorted(left.keys() & right.keys())
    }
    lonely = []
    for stem in sorted(left.keys() ^ right.keys()):
        side = SIDES[0] if stem in left else SIDES[1]
        lonely.append((Path(part) / side / stem).as_posix())
    return both, lonely


def matched_pairs(folder: Path, degradation: Degradation | None, factor: int) -> tuple[list[Pair], list[str]]:
    """Return the pairs of a folder in order of stem, and the names of pictures without a partner."""
    parts = [part for part in ("lq", "gt") if (folder / part).is_dir()]
    if len(parts) == 1:
        missing = "gt" if parts[0] == "lq" else "lq"
        raise DataError(
            f"{folder}: {parts[0]}/ without {missing}/; clean pictures lie directly in the folder"
        )
    gt, alone = _views(folder, "gt" if parts else "")
    lq: dict[str, tuple[Path, ...]] = {}
    if parts:
        lq, lonely = _views(folder, "lq")
        alone += lonely + [f"{'lq' if stem in lq else 'gt'}/{stem}" for stem in sorted(lq.keys() ^ gt.keys())]
        gt = {stem: files for stem, files in gt.items() if stem in lq}
    conditions: dict[str, tuple[float, ...]] = {}
    if (folder / METADATA).exists():
        told = read_metadata(folder / METADATA)
        conditions.update({comparable(name): numbers for name, numbers in told.items()})
        alone += [f"{stem} is not in {METADATA}" for stem in gt if stem not in conditions]
        alone += [f"{stem} of {METADATA}" for stem in conditions if stem not in gt]
        gt = {stem: files for stem, files in gt.items() if stem in conditions}
    guide: dict[str, tuple[Path, ...]] = {}
    if parts and (folder / GUIDE).is_dir():
        guide, lonely = _views(folder, GUIDE)
        alone += lonely + [f"{GUIDE}/{stem}" for stem in sorted(guide.keys() - gt.keys())]
    pairs = [
        Pair(
            lq.get(stem, ()),
            files,
            conditions.get(stem, ()),
            degradation,
            factor,
            number,
            guide.get(stem, ()),
        )
        for number, (stem, files) in enumerate(gt.items())
    ]
    return pairs, alone


def find_pairs(
    folder: Path,
    degradation: Degradation | None = None,
    factor: int = 1,
    check: Check = lambda views, conditions, guides: None,
) -> list[Pair]:
    """Return every pair of `folder`/lq and `folder`/gt, in order of stem.

    Without lq/ and gt/, clean pictures lie in the folder itself, and a degradation makes the degraded ones.
    Each folder may hold left/ and right/ instead of pictures. meta.txt holds the lenses of bokeh pictures,
    see `refusion.imaging.lens`. guide/ may hold a map beside some of the degraded pictures, as a mask.

    Args:
        folder: of the pairs.
        degradation: makes the degraded pictures if there is no lq/.
        factor: ratio of the sides of gt to those of lq.
        check: raises ValueError for views, conditions and guides that a model does not take, see
            `ModelSpec.check`.

    Raises:
        DataError: a picture has no partner (all are named), there are no pictures, one of the two folders is
            missing, the degradation is missing, or `check` raised.
    """
    pairs, alone = matched_pairs(folder, degradation, factor)
    if alone:
        raise DataError(f"{folder}: {len(alone)} pictures without a partner: {', '.join(alone)}")
    if not pairs:
        raise DataError(f"{folder}: no pictures in lq/ and gt/; they may end in {', '.join(READABLE)}")
    if degradation is None and not pairs[0].lq:
        raise DataError(f"{folder}: no lq/ with degraded pictures, and no data.degradation that makes them")
    for pair in pairs:
        try:
            check(len(pair.gt), len(pair.condition) if pair.lq else None, 1 if pair.guide else 0)
        except ValueError as error:
            remedy = f"two views lie in left/ and right/, and {METADATA} tells conditions"
            raise DataError(f"{folder}: {pair.name}: {error}; {remedy}") from error
    return pairs
