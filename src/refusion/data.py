"""Pairs of pictures by file stem, and what training makes of them.

Sample i of a run is a function of (seed, i) alone, whatever the workers, processes or restarts.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset, Sampler

from refusion.degradation import Degradation, Picture
from refusion.errors import DataError, ImageError
from refusion.image import SUFFIXES, Image, from_array, read


@dataclass(frozen=True)
class Pair:
    """Two files of one stem: the degraded picture and the clean one."""

    lq: Path
    gt: Path

    @property
    def name(self) -> str:
        return self.lq.stem

    def read(self) -> tuple[Image, Image]:
        """Both pictures.

        Raises:
            DataError: their sizes differ.
            ImageError: one cannot be read.
        """
        lq, gt = read(self.lq), read(self.gt)
        if lq.size != gt.size:
            sizes = " and ".join("{}x{}".format(*picture.size) for picture in (lq, gt))
            raise DataError(f"{self.name}: lq and gt have sizes {sizes}; crop one of them to the other")
        return lq, gt


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


def _matched(folder: Path) -> tuple[list[Pair], list[str]]:
    """The pairs of `folder`/lq and `folder`/gt in order of stem, and the pictures without a partner."""
    lq, gt = stems(folder / "lq"), stems(folder / "gt")
    alone = [f"{'lq' if stem in lq else 'gt'}/{stem}" for stem in sorted(lq.keys() ^ gt.keys())]
    return [Pair(lq[stem], gt[stem]) for stem in sorted(lq.keys() & gt.keys())], alone


def find_pairs(folder: Path) -> list[Pair]:
    """Every pair of `folder`/lq and `folder`/gt, in order of stem.

    Raises:
        DataError: a stem is on one side only (all of them are named), or there are no pictures.
    """
    pairs, alone = _matched(folder)
    if alone:
        raise DataError(f"{folder}: {len(alone)} pictures without a partner: {', '.join(alone)}")
    if not pairs:
        raise DataError(f"{folder}: no pictures in lq/ and gt/; they may end in {', '.join(SUFFIXES)}")
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


class TrainingSamples(Dataset[tuple[Picture, Picture, int]]):
    """Sample i: a pair of the shuffled epoch i // n, augmented; (lq, gt, i) of size `patch`.

    Args:
        patch: height and width of a sample; smaller pictures are enlarged to hold it.
        scenes: clean pictures without a degraded partner, on which degradations are borrowed or made.
        degradation: what `augment.synthetic` makes.

    Raises:
        DataError: synthetic samples without a degradation.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        patch: tuple[int, int],
        augment: Augment = Augment(),
        seed: int = 0,
        scenes: Sequence[Path] = (),
        degradation: Degradation | None = None,
    ) -> None:
        if augment.synthetic and degradation is None:
            raise DataError(f"augment.synthetic is {augment.synthetic}: name a data.degradation")
        self.pairs, self.patch, self.augment, self.seed, self.scenes = pairs, patch, augment, seed, scenes
        self.degradation = degradation

    def __getitem__(self, i: int) -> tuple[Picture, Picture, int]:
        epoch, position = divmod(i, len(self.pairs))
        order = _order(self.seed, epoch, len(self.pairs))
        rng = np.random.default_rng((self.seed, epoch, position))
        how, chance, scene = self.augment, rng.random(), rng.random()
        kind = _chosen(chance, how)
        if self.scenes and kind in ("borrow", "synthetic") and scene < how.scene:
            clean = read(self.scenes[int(rng.integers(len(self.scenes)))])
            lq, gt = self._view((clean, clean), rng)
        else:
            lq, gt = self._view(self.pairs[order[position]].read(), rng)
        if kind == "borrow":
            like_lq, like_gt = self._view(self.pairs[int(rng.integers(len(self.pairs)))].read(), rng)
            lq = _degrade(gt, like_lq, like_gt, rng.uniform(0.6, 1.2), how.veil)
        elif kind == "strength":
            lq = _degrade(gt, lq, gt, rng.uniform(0.5, 1.3), how.veil)
        elif kind == "synthetic" and self.degradation:
            lq = self.degradation(gt, rng)
        elif kind == "clean":
            lq = gt
        gain = (1 + how.exposure * rng.uniform(-1, 1)) * (1 + how.tint * rng.uniform(-1, 1, (3, 1, 1)))
        exponent = 1 + how.gamma * rng.uniform(-1, 1)
        scale = torch.from_numpy(gain).float()
        lq, gt = ((z.clamp(0, 1) ** exponent * scale).clamp(0, 1) for z in (lq, gt))
        return lq, gt, i

    def _view(self, pair: tuple[Image, Image], rng: np.random.Generator) -> tuple[Picture, Picture]:
        """A random window of both pictures, flipped and turned alike."""
        how = self.augment
        both = torch.stack([z.tensor() for z in pair])
        turns, flip, zoom = int(rng.integers(4)), rng.random(), rng.uniform(how.zoom, 1)
        both = both.rot90(turns, (-2, -1)) if how.turn else both
        both = both.flip(-1) if flip < how.flip else both
        height, width = both.shape[-2:]
        fit = min(height / self.patch[0], width / self.patch[1])
        scale = fit * zoom if how.zoom < 1 else min(1.0, fit)
        window = [max(1, round(side * scale)) for side in self.patch]
        top, left = (
            int(rng.integers(whole - part + 1)) for whole, part in zip((height, width), window, strict=True)
        )
        both = both[..., top : top + window[0], left : left + window[1]]
        if tuple(window) != self.patch:
            both = F.interpolate(both, self.patch, mode="bilinear", antialias=True)
        return both[0], both[1]


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


def _degrade(gt: Picture, like_lq: Picture, like_gt: Picture, strength: float, veil: bool) -> Picture:
    """Put the degradation of one pair on another clean picture, as a power of its ratio of brightness
    lq / gt, or under a veil of darkness."""
    if veil:
        return 1 - _degrade(1 - gt, 1 - like_lq, 1 - like_gt, strength, veil=False)
    dark = 0.02  # keeps the ratio of black to black at one
    ratio = ((like_lq + dark) / (like_gt + dark)).clamp(0.05, 1.3)[None]
    smooth = F.avg_pool2d(ratio, 3, 1, 1, count_include_pad=False)[0]
    degraded: Picture = (gt + dark) * smooth**strength - dark
    return degraded


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


def inspect_pairs(folder: Path) -> Finding:
    """Open every picture of a folder of pairs and report all that is wrong with it at once."""
    matched, alone = _matched(folder)
    problems = [f"{name}: no partner" for name in alone]
    pairs, sizes = [], dict[tuple[int, int], int]()
    for pair in matched:
        try:
            size = pair.read()[0].size
        except (DataError, ImageError) as error:
            problems.append(str(error))
            continue
        pairs.append(pair)
        sizes[size] = sizes.get(size, 0) + 1
    if not matched and not alone:
        problems.append(f"{folder}: no pictures")
    return Finding(pairs, sizes, problems)


def contact_sheet(pairs: Sequence[Pair], columns: int = 8, side: int = 160) -> Image:
    """The first pairs in one picture, each degraded one above its clean one."""
    cells = []
    for pair in pairs[:columns]:
        both = torch.stack([z.tensor() for z in pair.read()])
        scale = side / max(both.shape[-2:])
        small = [max(1, round(n * scale)) for n in both.shape[-2:]]
        fitted = F.interpolate(both, small, mode="bilinear", antialias=True)
        cells.append(F.pad(fitted, (0, side - small[1], 0, side - small[0]), value=1.0))
    rows = torch.cat(cells, dim=-1)
    return from_array(torch.cat(list(rows), dim=-2).clamp(0, 1))
