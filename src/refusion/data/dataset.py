"""Training samples, drawn from pairs with augmentation.

Sample i of a run is a function of (seed, i) alone, for any number of workers, processes and restarts.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from refusion.data.cache import PictureCache
from refusion.data.degradation import Degradation
from refusion.data.pairs import Pair
from refusion.data.stereo import parallax
from refusion.errors import DataError
from refusion.imaging.fill import fill_each
from refusion.imaging.image import Image
from refusion.imaging.resize import Enlarge, antialiased


@dataclass(frozen=True)
class Augment:
    """The augmentation of training samples. Each probability or range is independent.

    Args:
        flip: probability of a left-right flip.
        turn: rotate by one of the four multiples of 90 degrees.
        zoom: smallest part of the largest window that a sample covers. Below 1 the window is resized to
            the patch; at 1 the patch is cropped without a change of scale.
        exposure: largest relative change of brightness, the same for both pictures.
        tint: largest relative change of one colour channel, the same for both pictures.
        gamma: largest relative change of the exponent, the same for both pictures.
        strength: probability that the degradation is weakened or strengthened, by an exponent of
            0.5 ... 1.3 of lq / gt.
        borrow: probability that lq / gt comes from another pair, so that its shadow or veil falls on
            this scene.
        scene: probability that a borrowed or synthetic degradation falls on a picture of `scenes`.
        clean: probability that there is no degradation: both pictures are the clean one.
        synthetic: probability that a clean picture, of the pairs or of `scenes`, is degraded by the
            recipe's `degradation`.
        drop_guide: probability that the guides are 0, so that the model works without them, too.
        veil: borrow and strength use the ratio of darkness, (1 - lq) / (1 - gt), as of haze, instead of
            the ratio of brightness.

    Raises:
        ValueError: a probability or range is outside [0, 1], or the sum of borrow, strength, clean and
            synthetic is above 1.
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
    drop_guide: float = 0.0
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
    """A window of a degraded and a clean picture, each (views, 3, h, w), and of guides."""

    lq: Tensor
    gt: Tensor
    condition: tuple[float, ...]
    guides: Tensor
    """(views, guides, h, w); of lq."""


class Sample(NamedTuple):
    """A training sample, or a batch of them."""

    lq: Float[Tensor, "*batch views 3 h w"]
    """After the enlargement."""
    gt: Float[Tensor, "*batch views 3 h w"]
    condition: Float[Tensor, "*batch conditions"]
    number: int | Int[Tensor, " batch"]
    guides: Float[Tensor, "*batch views guides h w"]


class TrainingSamples(Dataset[Sample]):
    """Training samples; sample i is an augmented pair of the shuffled epoch i // n.

    Args:
        pairs: the n pairs.
        patch: height and width of a sample; smaller pictures are enlarged to this size.
        augment: the augmentation.
        seed: seed of the order and of the augmentation.
        scenes: clean pictures without a degraded one, for borrowed and synthetic degradations. Two views
            are both rendered from one such picture, see `refusion.data.stereo.parallax`.
        degradation: makes the synthetic samples of `augment`, and all samples of pairs without lq.
        enlarge: the enlargement of lq.
        cache_bytes: of decoded pictures that may be kept, see `PictureCache`.
        guides: maps that the network takes; 0 where a pair has none.
        fill: of the holes that the guide tells, a name in `FILLS`; None if it is no mask.

    Raises:
        DataError: a degradation is needed and missing, or the patch is no multiple of the enlargement.
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
        cache_bytes: int = 0,
        guides: int = 0,
        fill: str | None = None,
    ) -> None:
        if augment.synthetic and degradation is None:
            raise DataError(f"augment.synthetic is {augment.synthetic}: name a data.degradation")
        if degradation is None and not all(pair.lq for pair in pairs):
            raise DataError("there are pairs without a degraded picture: name a data.degradation")
        if any(side % enlarge.factor for side in patch):
            raise DataError(f"patch is {patch}: give multiples of enlarge.factor, {enlarge.factor}")
        self.pairs, self.patch, self.augment, self.seed, self.scenes = pairs, patch, augment, seed, scenes
        self.degradation, self.enlarge = degradation, enlarge
        self.cache = PictureCache(cache_bytes)
        self.guides, self.fill = guides, fill

    def __getitem__(self, i: int) -> Sample:
        epoch, position = divmod(i, len(self.pairs))
        pair = self.pairs[_order(self.seed, epoch, len(self.pairs))[position]]
        rng = np.random.default_rng((self.seed, epoch, position))
        lq, gt, condition, guides = self._drawn(pair, rng)
        exposure = 1 + self.augment.exposure * rng.uniform(-1, 1)
        tint = 1 + self.augment.tint * rng.uniform(-1, 1, (3, 1, 1))
        exponent = 1 + self.augment.gamma * rng.uniform(-1, 1)
        gain = torch.from_numpy(exposure * tint).float()
        lq = (lq.clamp(0, 1) ** exponent * gain).clamp(0, 1)
        gt = (gt.clamp(0, 1) ** exponent * gain).clamp(0, 1)
        if self.fill:
            guides = (guides > 0).float()
            lq = fill_each(self.fill, lq, guides)
        if rng.random() < self.augment.drop_guide:
            guides = torch.zeros_like(guides)
        return Sample(lq, gt, torch.tensor(condition, dtype=torch.float32), i, guides)

    def _drawn(self, pair: Pair, rng: np.random.Generator) -> Drawn:
        """Draw a window of a pair's pictures, with the degradation that `augment` chooses."""
        augment = self.augment
        kind = _chosen(rng.random(), augment)
        elsewhere = rng.random() < augment.scene and bool(self.scenes)
        if kind == "clean":
            gt = self._read(pair, rng).gt if pair.lq else self._clean(pair, rng)
            return self._undegraded(gt, pair)
        if kind == "synthetic" or not pair.lq:
            clean = self._scene(len(pair.gt), rng) if elsewhere else self._clean(pair, rng)
            return self._made(clean, rng)
        if kind == "borrow" and elsewhere:
            gt = self._scene(len(pair.gt), rng)
            drawn = self._undegraded(gt, pair)
        else:
            drawn = self._read(pair, rng)
        if kind == "borrow":
            donor = self._read(self.pairs[int(rng.integers(len(self.pairs)))], rng)
            lq = _degrade(drawn.gt, donor, rng.uniform(0.6, 1.2), augment.veil)
            return drawn._replace(lq=lq, guides=donor.guides)
        if kind == "strength":
            return drawn._replace(lq=_degrade(drawn.gt, drawn, rng.uniform(0.5, 1.3), augment.veil))
        return drawn

    def _undegraded(self, gt: Tensor, pair: Pair) -> Drawn:
        return Drawn(gt, gt, pair.condition, self._maps(gt, None))

    def _maps(self, ref: Tensor, guides: Tensor | None) -> Tensor:
        """Return guides as the network takes them, 0 if there are none."""
        if guides is None or not self.guides:
            return ref.new_zeros(len(ref), self.guides, *ref.shape[-2:])
        return self.enlarge(guides)

    def _made(self, clean: Tensor, rng: np.random.Generator) -> Drawn:
        """Degrade the views of a clean scene, with the same randomness for each."""
        assert self.degradation is not None
        seed = int(rng.integers(2**63))
        examples = [self.degradation(view, np.random.default_rng(seed)) for view in clean]
        lq = torch.stack([example.lq for example in examples])
        gt = torch.stack([example.gt for example in examples])
        maps = [example.guides for example in examples if example.guides is not None]
        guides = self._maps(gt, torch.stack(maps) if maps else None)
        return Drawn(self.enlarge(lq), gt, examples[0].condition, guides)

    def _read(self, pair: Pair, rng: np.random.Generator) -> Drawn:
        """Read a random window of a pair's pictures."""
        views = pair.read(reader=self.cache.read)
        gt = _stacked(views.gt)
        planes = [self.enlarge(_stacked(views.lq)), gt, self._maps(gt, views.guides)]
        lq, gt, guides = self._random_crop(planes, rng)
        return Drawn(lq, gt, views.condition, guides)

    def _clean(self, pair: Pair, rng: np.random.Generator) -> Tensor:
        """Read a random window of the clean pictures of a pair."""
        return self._random_crop([_stacked(pair.clean(reader=self.cache.read))], rng)[0]

    def _scene(self, views: int, rng: np.random.Generator) -> Tensor:
        """Read a random window of one of `scenes`, or of two views rendered from it."""
        clean = self.cache.read(self.scenes[int(rng.integers(len(self.scenes)))]).tensor()
        scene = torch.stack(parallax(clean, rng)) if views > 1 else clean[None]
        return self._random_crop([scene], rng)[0]

    def _random_crop(self, pictures: Sequence[Tensor], rng: np.random.Generator) -> tuple[Tensor, ...]:
        """Cut the same random window out of pictures (views, c, h, w), flipped and turned alike.

        A horizontal flip exchanges the left and the right view. Rows of two views must stay rows: they are
        flipped vertically instead of turned.
        """
        augment = self.augment
        quarters = int(rng.integers(4))
        turns = quarters if augment.turn else 0
        flip = rng.random()
        zoom = rng.uniform(augment.zoom, 1)
        stereo = len(pictures[0]) > 1
        patch = self.patch[::-1] if turns % 2 and not stereo else self.patch
        height, width = pictures[0].shape[-2:]
        fit = min(height / patch[0], width / patch[1])
        scale = fit * zoom if augment.zoom < 1 else min(1.0, fit)
        window = [max(1, round(side * scale)) for side in patch]
        top = int(rng.integers(height - window[0] + 1))
        left = int(rng.integers(width - window[1] + 1))
        both = torch.cat([z[..., top : top + window[0], left : left + window[1]] for z in pictures], dim=1)
        if not stereo:
            both = both.rot90(turns, (-2, -1))
        elif turns % 2:
            both = both.flip(-2)
        if flip < augment.flip:
            both = both.flip(0, -1)
        if both.shape[-2:] != self.patch:
            both = antialiased(both, self.patch)
        return torch.split(both, [picture.shape[1] for picture in pictures], dim=1)


def _stacked(pictures: Iterable[Image]) -> Float[Tensor, "views 3 h w"]:
    return torch.stack([picture.tensor() for picture in pictures])


@functools.lru_cache(maxsize=2)  # consecutive samples are of one epoch or two
def _order(seed: int, epoch: int, count: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng((seed, epoch)).permutation(count).tolist())


def _chosen(chance: float, augment: Augment) -> str:
    """Return the kind of sample that `chance` in [0, 1) chooses; "" for the pair as it is."""
    for kind in ("borrow", "strength", "clean", "synthetic"):
        chance -= getattr(augment, kind)
        if chance < 0:
            return kind
    return ""


def _degrade(gt: Tensor, ref: Drawn, strength: float, veil: bool) -> Tensor:
    """Apply the degradation of one sample to another clean picture: a power of its ratio lq / gt, or with
    `veil` of its ratio of darkness (1 - lq) / (1 - gt)."""
    if veil:
        return 1 - _degrade(1 - gt, ref._replace(lq=1 - ref.lq, gt=1 - ref.gt), strength, veil=False)
    dark = 0.02  # the ratio of black to black is 1
    ratio = ((ref.lq + dark) / (ref.gt + dark)).clamp(0.05, 1.3)
    smooth = F.avg_pool2d(ratio, 3, 1, 1, count_include_pad=False)
    return (gt + dark) * smooth**strength - dark


class StepBatches(Sampler[list[int]]):
    """The sample numbers of the batches of one process, from step `start` to `steps`.

    Step k of all processes takes the samples from k * batch * processes on, each process `batch` consecutive
    ones of them.
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
