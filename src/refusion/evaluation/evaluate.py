"""Measure a model on pairs: what `refusion evaluate` prints and what validation selects by."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from refusion.codec import Codec
from refusion.data import Pair
from refusion.errors import hint
from refusion.image import Image
from refusion.metrics import luma, psnr, ssim
from refusion.perceptual import Perceptual, frechet
from refusion.restorer import Restorer, suited_codec


@dataclass(frozen=True)
class Protocol:
    """How published numbers were measured; in 8 bit, and with a step at every training time.

    Args:
        border: pixels left out on each side.
        sampler: a name in `refusion.restorer.SAMPLERS`.
        headline: the colours of the published scores.
    """

    border: int
    sampler: str
    headline: str

    def options(self, steps: int) -> dict[str, Any]:
        """Of sampling, for a process of so many steps."""
        return {"steps": steps, "sampler": self.sampler, "eta": 1.0}

    def __str__(self) -> str:
        return f"border {self.border}, {self.sampler} in all steps, published in {self.headline}"


PROTOCOLS: Mapping[str, Protocol] = {
    "paper": Protocol(4, "euler-maruyama", "RGB, deraining in Y"),
    "posterior": Protocol(4, "posterior", "RGB, deraining in Y"),
    "whole": Protocol(0, "euler-maruyama", "RGB"),
    "denoising": Protocol(0, "euler-ode", "RGB"),
}
"""As in the test scripts that came with IR-SDE and Refusion (Luo et al. 2023, arXiv 2301.11699, 2304.08291).

"paper" is that of deblurring, deraining, inpainting, shadow removal and super-resolution, and "posterior" the
same since posterior sampling (arXiv 2404.09732); "whole" that of two views and of validation while training;
"denoising" that of Gaussian noise. Without any, the whole picture counts, and the model's own sampling.
"""


def protocol(name: str) -> Protocol:
    """A protocol by name.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in PROTOCOLS:
        known = f"there are {', '.join(PROTOCOLS)}"
        raise ValueError(f"unknown protocol {name!r}{hint(name, PROTOCOLS)}: {known}")
    return PROTOCOLS[name]


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
    """One picture: how good it came in and went out.

    Args:
        distances: of perceptual metrics, by name; the input's and the output's.
        features: of the input, the output and the truth, for FID.
    """

    name: str
    input: Scores
    output: Scores
    distances: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    features: tuple[Tensor, ...] = ()


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
    restore: Restorer,
    pairs: Iterable[Pair],
    border: int = 0,
    perceptual: Perceptual = Perceptual(),
    **options: Any,
) -> Iterator[tuple[Row, Image]]:
    """Restore every pair's degraded picture and score it; `options` are fields of `Sampling`. Of two
    views each is scored.

    Args:
        perceptual: metrics on the restorer's device, which see whole pictures, without a border.
    """
    for pair in pairs:
        views = pair.read()
        restored = restore.views(
            views.lq, **({"condition": views.condition} if views.condition else {}) | options
        )
        for name, lq, gt, made in zip(pair.names, views.lq, views.gt, restored, strict=True):
            given = restore.prepared(lq)
            scores = score(given, gt, border), score(made, gt, border)
            yield Row(name, *scores, *_perceived(perceptual, restore.device, given, made, gt)), made


@torch.inference_mode()
def _perceived(
    perceptual: Perceptual, device: torch.device, *images: Image
) -> tuple[dict[str, tuple[float, float]], tuple[Tensor, ...]]:
    """Distances of the input and the output to the truth, and the features of all three.

    As published, distances see pictures before they are rounded, and features those of files, in 8 bit.
    """
    if not perceptual.distances and perceptual.features is None:
        return {}, ()
    lq, made, gt = (image.tensor()[None].to(device) for image in images)
    distances = {
        name: (float(distance(lq, gt)), float(distance(made, gt)))
        for name, distance in perceptual.distances.items()
    }
    if perceptual.features is None:
        return distances, ()
    features = perceptual.features
    return distances, tuple(features((z * 255).round() / 255)[0].cpu() for z in (lq, made, gt))


def perceived(rows: Sequence[Row]) -> dict[str, tuple[list[float], list[float]]]:
    """By perceptual metric, every row's input and output; FID, which is of all rows together, is the same
    for each.

    Raises:
        ValueError: see `frechet`.
    """
    found = {}
    for name in rows[0].distances:
        inputs, outputs = zip(*(row.distances[name] for row in rows), strict=True)
        found[name] = (list(inputs), list(outputs))
    if rows[0].features:
        lq, made, gt = (torch.stack(z) for z in zip(*(row.features for row in rows), strict=True))
        found["fid"] = ([frechet(lq, gt)] * len(rows), [frechet(made, gt)] * len(rows))
    return found


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
    """One line for each picture: its name, the input's scores and the output's, then those of perceptual
    metrics."""
    more = perceived(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        names = [f.name for f in fields(Scores)]
        further = [name.replace("-", "_") for name in more]
        pairs = [column for name in further for column in (f"input_{name}", name)]
        writer.writerow(["name", *(f"input_{n}" for n in names), *names, *pairs])
        for i, row in enumerate(rows):
            values = [both[i] for columns in more.values() for both in columns]
            writer.writerow([row.name, *asdict(row.input).values(), *asdict(row.output).values(), *values])
