"""Pairs of pictures by file stem, and what training makes of them.

Sample i of a run is a function of (seed, i) alone, whatever the workers, processes or restarts.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from refusion.degradation import Degradation
from refusion.errors import DataError, ImageError
from refusion.image import SUFFIXES, Image, from_array, read, sized
from refusion.lens import read_metadata
from refusion.rendering import parallax, vertical_offset
from refusion.resize import Enlarge, antialiased

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
class Augment:
    """How a training sample is drawn from a pair. Each probability or range is independent.

    Args:
        flip: probability of a left-right flip.
        turn: draw one of four quarter turns.
        zoom: smallest part of the picture's side that a sample covers; 1 covers all that fits.
            Below 1 the drawn window is resized to the patch, else it is cropped at its scale.
        exposure: largest relative change of brightness, the same for both pictures.
        tint: largest relative change of one colour channel, the same for both pictures.
        gamma: largest relative change of the exponent, the same for both pictures.
        strength: probability that the degradation is made weaker or stronger, by 0.5 ... 1.3 in
            the exponent of lq / gt.
        borrow: probability that lq / gt comes from another pair, so that a shadow or veil falls on a
            scene that it was never seen on.
        scene: probability that what is borrowed or synthetic falls on a picture of `scenes`.
        clean: probability that there is nothing to restore: both pictures are the clean one.
        synthetic: probability that a clean picture, of the pairs or of `scenes`, is degraded by the
            recipe's `degradation`.
        veil: what borrow and strength move is the ratio of darkness, (1 - lq) / (1 - gt), as of haze,
            instead of brightness.

    Raises:
        ValueError: a probability or range outside [0, 1], or borrow, strength, clean and synthetic
            above 1 together.
    """

    flip: float = 0.5
    turn: bool = False
    zoom: float = 1.0
    exposure: float = 0.0
    tint: float = 0.0
    gamma: float = 0.0
    strength: float = 0.0
    borrow: float = 0.0
    scene: float = 0.5
    clean: float = 0.0
    synthetic: float = 0.0
    veil: bool = False

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}: give 0 to 1")
        if self.borrow + self.strength + self.clean + self.synthetic > 1:
            raise ValueError(
                "borrow, strength, clean and synthetic exclude each other: give 1 or less in all"
            )


class TrainingSamples(Dataset[tuple[Tensor, Tensor, Tensor, int]]):
    """Sample i: a pair of the shuffled epoch i // n, augmented; (lq, gt, condition, i).

    lq and gt are (views, 3, *patch), after the enlargement; condition is (conditions,).

    Args:
        patch: height and width of a sample; smaller pictures are enlarged to hold it.
        scenes: clean pictures without a degraded partner, on which degradations are borrowed or made.
            Of two views both are made of one such picture, see `refusion.rendering.parallax`.
        degradation: what `augment.synthetic` makes; of pairs without a degraded picture, always.
        enlarge: what lq goes through before everything else.

    Raises:
        DataError: samples to be made without a degradation, or a patch that cannot be reduced.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        patch: tuple[int, int],
        augment: Augment = Augment(),
        seed: int = 0,
        scenes: Sequence[Path] = (),
        degradation: Degradation | None = None,
        enlarge: Enlarge = Enlarge(),
    ) -> None:
        if augment.synthetic and degradation is None:
            raise DataError(f"augment.synthetic is {augment.synthetic}: name a data.degradation")
        if degradation is None and not all(pair.lq for pair in pairs):
            raise DataError("there are pairs without a degraded picture: name a data.degradation")
        if any(side % enlarge.factor for side in patch):
            raise DataError(f"patch is {patch}: give multiples of enlarge.factor, {enlarge.factor}")
        self.pairs, self.patch, self.augment, self.seed, self.scenes = pairs, patch, augment, seed, scenes
        self.degradation, self.enlarge = degradation, enlarge

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, Tensor, int]:
        epoch, position = divmod(i, len(self.pairs))
        pair = self.pairs[_order(self.seed, epoch, len(self.pairs))[position]]
        rng = np.random.default_rng((self.seed, epoch, position))
        how, chance, scene = self.augment, rng.random(), rng.random()
        kind = _chosen(chance, how)
        kind = "synthetic" if not pair.lq and kind != "clean" else kind
        condition = pair.condition
        if self.scenes and kind in ("borrow", "synthetic") and scene < how.scene:
            lq = gt = self._scene(len(pair.gt), rng)
        elif kind == "synthetic" or not pair.lq:
            lq, gt = self._view([_stacked(pair.clean())] * 2, rng)
        else:
            lq, gt, condition = self._read(pair, rng)
        if kind == "borrow":
            like_lq, like_gt, _ = self._read(self.pairs[int(rng.integers(len(self.pairs)))], rng)
            lq = _degrade(gt, like_lq, like_gt, rng.uniform(0.6, 1.2), how.veil)
        elif kind == "strength":
            lq = _degrade(gt, lq, gt, rng.uniform(0.5, 1.3), how.veil)
        elif kind == "synthetic" and self.degradation:
            seed = int(rng.integers(2**63))  # of both views
            made = [self.degradation(z, np.random.default_rng(seed)) for z in gt]
            lq, gt = self.enlarge(torch.stack([one.lq for one in made])), torch.stack([z.gt for z in made])
            condition = made[0].condition
        elif kind == "clean":
            lq = gt
        gain = (1 + how.exposure * rng.uniform(-1, 1)) * (1 + how.tint * rng.uniform(-1, 1, (3, 1, 1)))
        exponent = 1 + how.gamma * rng.uniform(-1, 1)
        scale = torch.from_numpy(gain).float()
        lq, gt = ((z.clamp(0, 1) ** exponent * scale).clamp(0, 1) for z in (lq, gt))
        return lq, gt, torch.tensor(condition, dtype=torch.float32), i

    def _read(self, pair: Pair, rng: np.random.Generator) -> tuple[Tensor, Tensor, tuple[float, ...]]:
        """A random window of a pair's pictures."""
        views = pair.read()
        lq, gt = self._view([self.enlarge(_stacked(views.lq)), _stacked(views.gt)], rng)
        return lq, gt, views.condition

    def _scene(self, views: int, rng: np.random.Generator) -> Tensor:
        """A random window of one of the clean pictures."""
        clean = read(self.scenes[int(rng.integers(len(self.scenes)))]).tensor()
        seen = torch.stack(parallax(clean, rng)) if views > 1 else clean[None]
        return self._view([seen], rng)[0]

    def _view(self, pictures: Sequence[Tensor], rng: np.random.Generator) -> tuple[Tensor, ...]:
        """One random window of (views, 3, h, w) each, flipped and turned alike.

        A flip exchanges left and right view, whose rows must stay rows: instead of turns they have
        a vertical flip.
        """
        how, both = self.augment, torch.stack(list(pictures))
        turns, flip, zoom = how.turn * int(rng.integers(4)), rng.random(), rng.uniform(how.zoom, 1)
        rows = both.shape[1] > 1
        patch = self.patch[:: -1 if turns % 2 and not rows else 1]
        sides = (both.shape[-2], both.shape[-1])
        fit = min(side / part for side, part in zip(sides, patch, strict=True))
        scale = fit * zoom if how.zoom < 1 else min(1.0, fit)
        window = [max(1, round(part * scale)) for part in patch]
        top, left = (int(rng.integers(side - part + 1)) for side, part in zip(sides, window, strict=True))
        both = both[..., top : top + window[0], left : left + window[1]]
        both = both.flip([-2] * (turns % 2)) if rows else both.rot90(turns, (-2, -1))
        both = both.flip(1, -1) if flip < how.flip else both
        if both.shape[-2:] != self.patch:
            flat = antialiased(both.flatten(0, 1), self.patch)
            both = flat.reshape(*both.shape[:2], *flat.shape[1:])
        return tuple(both)


def _stacked(pictures: Iterable[Image]) -> Float[Tensor, "views 3 h w"]:
    return torch.stack([picture.tensor() for picture in pictures])


@functools.lru_cache(maxsize=2)  # neighbouring samples ask for the same epoch, or the next
def _order(seed: int, epoch: int, count: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng((seed, epoch)).permutation(count).tolist())


def _chosen(chance: float, how: Augment) -> str:
    """The one way of drawing a sample that `chance` in [0, 1) falls on; "" for the pair as it is."""
    for kind in ("borrow", "strength", "clean", "synthetic"):
        chance -= getattr(how, kind)
        if chance < 0:
            return kind
    return ""


def _degrade(gt: Tensor, like_lq: Tensor, like_gt: Tensor, strength: float, veil: bool) -> Tensor:
    """Put the degradation of one pair on another clean picture, as a power of its ratio of brightness
    lq / gt, or under a veil of darkness."""
    if veil:
        return 1 - _degrade(1 - gt, 1 - like_lq, 1 - like_gt, strength, veil=False)
    dark = 0.02  # keeps the ratio of black to black at one
    ratio = ((like_lq + dark) / (like_gt + dark)).clamp(0.05, 1.3)
    smooth = F.avg_pool2d(ratio, 3, 1, 1, count_include_pad=False)
    return (gt + dark) * smooth**strength - dark


class StepBatches(Sampler[list[int]]):
    """The sample numbers of each step of one process, from step `start` on.

    Step k of `processes` processes takes the samples k * batch * processes and on, each process its
    own run of `batch` of them.
    """

    def __init__(self, start: int, steps: int, batch: int, process: int = 0, processes: int = 1) -> None:
        self.start, self.steps, self.batch = start, steps, batch
        self.process, self.processes = process, processes

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.steps):
            first = (step * self.processes + self.process) * self.batch
            yield list(range(first, first + self.batch))


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
