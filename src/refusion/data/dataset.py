"""What training makes of pairs.

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

from refusion.data import Pair
from refusion.degradation import Degradation
from refusion.errors import DataError
from refusion.image import Image, read
from refusion.rendering import parallax
from refusion.resize import Enlarge, antialiased


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


class Drawn(NamedTuple):
    """A window of a degraded and a clean picture, each (views, 3, h, w)."""

    lq: Tensor
    gt: Tensor
    condition: tuple[float, ...]


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
        rng, how = np.random.default_rng((self.seed, epoch, position)), self.augment
        lq, gt, condition = self._drawn(pair, rng)
        gain = (1 + how.exposure * rng.uniform(-1, 1)) * (1 + how.tint * rng.uniform(-1, 1, (3, 1, 1)))
        exponent = 1 + how.gamma * rng.uniform(-1, 1)
        scale = torch.from_numpy(gain).float()
        lq, gt = ((z.clamp(0, 1) ** exponent * scale).clamp(0, 1) for z in (lq, gt))
        return lq, gt, torch.tensor(condition, dtype=torch.float32), i

    def _drawn(self, pair: Pair, rng: np.random.Generator) -> Drawn:
        """A pair's pictures, or what `augment` makes of them."""
        how, chance, scene = self.augment, rng.random(), rng.random()
        kind, elsewhere = _chosen(chance, how), bool(self.scenes) and scene < how.scene
        if kind == "clean":
            gt = self._read(pair, rng).gt if pair.lq else self._clean(pair, rng)
            return Drawn(gt, gt, pair.condition)
        if kind == "synthetic" or not pair.lq:
            return self._made(self._scene(len(pair.gt), rng) if elsewhere else self._clean(pair, rng), rng)
        if kind == "borrow" and elsewhere:
            gt = self._scene(len(pair.gt), rng)
            drawn = Drawn(gt, gt, pair.condition)
        else:
            drawn = self._read(pair, rng)
        if kind == "borrow":
            like = self._read(self.pairs[int(rng.integers(len(self.pairs)))], rng)
            return drawn._replace(lq=_degrade(drawn.gt, like, rng.uniform(0.6, 1.2), how.veil))
        if kind == "strength":
            return drawn._replace(lq=_degrade(drawn.gt, drawn, rng.uniform(0.5, 1.3), how.veil))
        return drawn

    def _made(self, clean: Tensor, rng: np.random.Generator) -> Drawn:
        """What the degradation makes of the views of a scene, with the same randomness for each."""
        assert self.degradation is not None
        seed = int(rng.integers(2**63))
        made = [self.degradation(view, np.random.default_rng(seed)) for view in clean]
        lq, gt = (torch.stack(pictures) for pictures in zip(*(one[:2] for one in made), strict=True))
        return Drawn(self.enlarge(lq), gt, made[0].condition)

    def _read(self, pair: Pair, rng: np.random.Generator) -> Drawn:
        """A random window of a pair's pictures."""
        views = pair.read()
        lq, gt = self._view([self.enlarge(_stacked(views.lq)), _stacked(views.gt)], rng)
        return Drawn(lq, gt, views.condition)

    def _clean(self, pair: Pair, rng: np.random.Generator) -> Tensor:
        """A random window of the clean pictures of a pair."""
        return self._view([_stacked(pair.clean())], rng)[0]

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


def _degrade(gt: Tensor, like: Drawn, strength: float, veil: bool) -> Tensor:
    """Put the degradation of one sample on another clean picture, as a power of its ratio of brightness
    lq / gt, or under a veil of darkness."""
    if veil:
        return 1 - _degrade(1 - gt, like._replace(lq=1 - like.lq, gt=1 - like.gt), strength, veil=False)
    dark = 0.02  # keeps the ratio of black to black at one
    ratio = ((like.lq + dark) / (like.gt + dark)).clamp(0.05, 1.3)
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
