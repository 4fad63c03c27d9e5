"""Measure a model on pairs: what `refusion evaluate` prints and what validation selects by."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from refusion.codec import Codec
from refusion.data import Pair
from refusion.image import Image
from refusion.metrics import luma, psnr, ssim
from refusion.restorer import Restorer, suited_codec


@dataclass(frozen=True)
class Scores:
    """PSNR in dB and SSIM of one picture against its ground truth, in RGB and in Y of BT.601."""

    psnr: float
    ssim: float
    psnr_y: float
    ssim_y: float


@dataclass(frozen=True)
class Gate:
    """PSNR in dB of what a codec with weights decodes; L is the state, H the features.

    Only where `replaced` is well above `kept` can a diffusion of the state restore anything.
    """

    reconstruction: float
    """D(L_lq, H_lq) of the degraded picture."""
    replaced: float
    """D(L_gt, H_lq) of the clean picture."""
    kept: float
    """D(L_lq, H_lq) of the clean picture."""

    @property
    def gain(self) -> float:
        """By replacing, in dB."""
        return self.replaced - self.kept

    def __str__(self) -> str:
        return (
            f"the degraded picture decodes to {self.reconstruction:.2f} dB of itself; the clean one is met "
            f"at {self.kept:.2f} dB with the degraded one's latent, at {self.replaced:.2f} dB with its own"
        )


S = TypeVar("S", Scores, Gate)


@dataclass(frozen=True)
class Row:
    """One picture: how good it came in and went out."""

    name: str
    input: Scores
    output: Scores


def score(image: Image, truth: Image, border: int = 0) -> Scores:
    """Compare as files are compared: rounded to 8 bit, `border` pixels cropped on each side.

    Raises:
        ValueError: the sizes differ, or the border leaves nothing.
    """
    if border < 0:
        raise ValueError(f"border is {border}: give 0 or more")
    if min(truth.size) <= 2 * border:
        raise ValueError(f"border is {border}: it leaves nothing of {truth.size[0]}x{truth.size[1]}")
    inner = slice(border, -border or None)
    a, b = (np.round(x.pixels[inner, inner] * 255) / 255 for x in (image, truth))
    return Scores(psnr(a, b), ssim(a, b), psnr(luma(a), luma(b)), ssim(luma(a), luma(b)))


def evaluate(
    restore: Restorer, pairs: Iterable[Pair], border: int = 0, **options: Any
) -> Iterator[tuple[Row, Image]]:
    """Restore every pair's degraded picture and score it; `options` are fields of `Sampling`. Of two
    views each is scored."""
    for pair in pairs:
        views = pair.read()
        restored = restore.views(views.lq, **{"condition": views.condition, **options})
        for name, lq, gt, made in zip(pair.names, views.lq, views.gt, restored, strict=True):
            yield Row(name, score(restore.prepared(lq), gt, border), score(made, gt, border)), made


def mean_scores(scores: Sequence[S]) -> S:
    """The mean over pictures of each score; equal pictures count as 100 dB."""
    kind = type(scores[0])
    columns = [[min(getattr(s, f.name), 100.0) for s in scores] for f in fields(kind)]
    return kind(*(float(np.mean(column)) for column in columns))


@torch.inference_mode()
def replace_latent(codec: Codec, lq: Image, gt: Image) -> tuple[Gate, Image]:
    """Decode both states of a pair with the degraded picture's features: how good, and the replaced one."""
    device = next(codec.parameters()).device
    pictures = [z.tensor()[None].to(device) for z in (lq, gt)]
    fitted = suited_codec(codec, pictures[0])
    degraded, clean = (fitted.encode(z) for z in pictures)
    kept, replaced = (
        lq.with_pixels(fitted.decode(mu, degraded.features, degraded.size)[0].clamp(0, 1))
        for mu in (degraded.mu, clean.mu)
    )
    return Gate(score(kept, lq).psnr, score(replaced, gt).psnr, score(kept, gt).psnr), replaced


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """One line for each picture: its name, the input's scores and the output's."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        names = [f.name for f in fields(Scores)]
        writer.writerow(["name", *(f"input_{n}" for n in names), *names])
        for row in rows:
            writer.writerow([row.name, *asdict(row.input).values(), *asdict(row.output).values()])
