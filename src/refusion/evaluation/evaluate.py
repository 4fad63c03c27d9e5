"""Evaluation of a model on pairs, for `refusion evaluate` and for validation in training."""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TypeVar, Unpack

import numpy as np
import torch
from torch import Tensor

from refusion.data.pairs import Pair, Scene
from refusion.errors import DataError, ImageError, Notice, RefusionError, hint
from refusion.evaluation.metrics import luma, psnr, ssim
from refusion.evaluation.perceptual import Perceptual, frechet
from refusion.imaging.formats import MAX_PIXELS, Header
from refusion.imaging.image import Image
from refusion.restoring.admission import SLACK, Demand
from refusion.restoring.codec import Codec, codec_with_tiling
from refusion.restoring.memory import COPY, free_memory
from refusion.restoring.request import Options
from refusion.restoring.restorer import Restorer

SCORING_COPIES = 7
"""Copies of a picture in float32 that scoring takes at its peak, as measured."""
MAKING_COPIES = 14
"""Copies that a degradation takes at its peak, as measured: `Bokeh` the most."""


@dataclass(frozen=True)
class Protocol:
    """The settings of a published measurement: in 8 bit, with a step at every training time, in float32.

    Args:
        border: pixels that are cropped on each side.
        sampler: a name in `refusion.diffusion.sampling.SAMPLERS`.
        headline: colour space of the published scores.
    """

    border: int
    sampler: str
    headline: str

    def options(self, steps: int) -> Options:
        """Return the options of a restoration by a process of so many training times."""
        return {"steps": steps, "sampler": self.sampler, "eta": 1.0, "precision": "32"}

    def __str__(self) -> str:
        return f"border {self.border}, {self.sampler} in all steps, float32, published in {self.headline}"


PROTOCOLS: Mapping[str, Protocol] = {
    "paper": Protocol(4, "euler-maruyama", "RGB, deraining in Y"),
    "posterior": Protocol(4, "posterior", "RGB, deraining in Y"),
    "whole": Protocol(0, "euler-maruyama", "RGB"),
    "denoising": Protocol(0, "euler-ode", "RGB"),
}
"""Protocols of the test scripts of IR-SDE and Refusion (Luo et al. 2023, arXiv 2301.11699, 2304.08291).

"paper" is for deblurring, deraining, inpainting, shadow removal and super-resolution; "posterior" is the same
with posterior sampling (arXiv 2404.09732); "whole" is for two views and for validation in training;
"denoising" is for Gaussian noise. Without a protocol the border is 0 and the sampling the model's own.
"""


def protocol(name: str) -> Protocol:
    """Return a protocol by name.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in PROTOCOLS:
        choices = f"there are {', '.join(PROTOCOLS)}"
        raise ValueError(f"unknown protocol {name!r}{hint(name, PROTOCOLS)}: {choices}")
    return PROTOCOLS[name]


@dataclass(frozen=True)
class Scores:
    """PSNR in dB and SSIM of one picture against its ground truth, in RGB and in Y of BT.601."""

    psnr: float
    ssim: float
    psnr_y: float
    ssim_y: float


@dataclass(frozen=True)
class LatentSwapScores:
    """PSNR in dB of pictures decoded by a codec with weights; L is the latent, H are the features.

    A diffusion of the latent can restore something only if `gt_latent` is well above `lq_latent`.
    """

    reconstruction: float
    """D(L_lq, H_lq) against the degraded picture."""
    gt_latent: float
    """D(L_gt, H_lq) against the clean picture."""
    lq_latent: float
    """D(L_lq, H_lq) against the clean picture."""

    @property
    def gain(self) -> float:
        """Gain of PSNR in dB by replacing the latent."""
        return self.gt_latent - self.lq_latent

    def __str__(self) -> str:
        return (
            f"the degraded picture decodes to {self.reconstruction:.2f} dB of itself; the clean one is met "
            f"at {self.lq_latent:.2f} dB with the degraded one's latent, {self.gt_latent:.2f} with its own"
        )


S = TypeVar("S", Scores, LatentSwapScores)


@dataclass(frozen=True)
class Row:
    """The evaluation of one picture.

    Args:
        name: of the picture.
        input: scores of the input picture.
        output: scores of the restored picture.
        distances: perceptual distances of the input and the output, by metric.
        features: features of the input, the output and the ground truth, for FID.
        notices: notices of the restoration.
    """

    name: str
    input: Scores
    output: Scores
    distances: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    features: tuple[Tensor, ...] = ()
    notices: tuple[Notice, ...] = ()


def score(image: Image, truth: Image, border: int = 0) -> Scores:
    """Score a picture after rounding to 8 bit and cropping `border` pixels on each side.

    Raises:
        ValueError: the sizes differ, or the border is negative or leaves no pixels.
    """
    if border < 0:
        raise ValueError(f"border is {border}: give 0 or more")
    if min(truth.size) <= 2 * border:
        raise ValueError(f"border is {border}: it leaves nothing of {truth.size[0]}x{truth.size[1]}")
    inner = slice(border, -border or None)
    a = np.round(image.pixels[inner, inner] * 255) / 255
    b = np.round(truth.pixels[inner, inner] * 255) / 255
    return Scores(psnr(a, b), ssim(a, b), psnr(luma(a), luma(b)), ssim(luma(a), luma(b)))


def evaluate(
    restore: Restorer,
    pairs: Iterable[Pair],
    border: int = 0,
    perceptual: Perceptual = Perceptual(),
    failed: Callable[[RefusionError], object] | None = None,
    **options: Unpack[Options],
) -> Iterator[tuple[Row, Image]]:
    """Restore and score the degraded picture of every pair, or each of its two views.

    A pair is read only if it and its restoration fit into memory; perceptual metrics are not counted.

    Args:
        restore: the model.
        pairs: to evaluate.
        border: see `score`.
        perceptual: metrics on the restorer's device; they see whole pictures, without cropping a border.
        failed: called with the reason why a pair cannot be read or restored; the others are evaluated.
        options: of every restoration.

    Raises:
        RefusionError: a pair cannot be read or restored, and there is no `failed`.
    """
    for pair in pairs:
        try:
            views = _read(pair, restore, options)
            result = restore.run(restore.request(*views.lq, **scene_options(restore, views, options)))
        except (ImageError, DataError) as error:
            if failed is None:
                raise
            failed(error)
            continue
        for name, lq, gt, restored in zip(pair.names, views.lq, views.gt, result.images, strict=True):
            entered = restore.upscale_input(lq)
            scores = score(entered, gt, border), score(restored, gt, border)
            perceived = _perceived(perceptual, restore.device, entered, restored, gt)
            yield Row(name, *scores, *perceived, result.notices), restored


def scene_options(restore: Restorer, views: Scene, options: Options) -> Options:
    """Return options with what a pair tells: its condition, its guides, or the mask of its holes."""
    told: Options = {}
    if views.condition:
        told["condition"] = views.condition
    if views.guides is not None and restore.network.num_guides:
        guides = views.guides.numpy()
        told |= {"mask": guides[0, 0]} if restore.fill else {"guides": guides}
    return {**told, **options}


def _read(pair: Pair, restore: Restorer, options: Options) -> Scene:
    """Read the pictures of a pair if they, their restoration and their scoring fit into memory."""

    def admit(header: Header) -> None:
        factor, views = restore.enlarge.factor, len(pair.gt)
        copy = COPY * header.width * header.height
        held = views * (copy + copy // factor**2)
        subject = f"{pair.gt[0]} of {header.width} x {header.height} pixels"
        needed = restore.demand(
            (header.width // factor, header.height // factor), bool(restore.fill), **options
        )
        restoring = replace(needed, host=held + needed.host)
        making = 0 if pair.lq else MAKING_COPIES * copy
        scoring = (views + SCORING_COPIES) * copy
        besides = Demand(held + max(header.decoding_bytes, making, scoring) + SLACK, 0)
        for part in (restoring, besides):
            part.admit(subject, restore.device)

    return pair.read(options.get("max_pixels", MAX_PIXELS), admit)


@torch.inference_mode()
def _perceived(
    perceptual: Perceptual, device: torch.device, *images: Image
) -> tuple[dict[str, tuple[float, float]], tuple[Tensor, ...]]:
    """Return the distances of the input and the output to the ground truth, and the features of all three.

    As published, distances are of unrounded pictures, and features of pictures rounded to 8 bit.
    """
    if not perceptual.distances and perceptual.features is None:
        return {}, ()
    lq, restored, gt = [image.tensor()[None].to(device) for image in images]
    distances = {
        name: (float(distance(lq, gt)), float(distance(restored, gt)))
        for name, distance in perceptual.distances.items()
    }
    if perceptual.features is None:
        return distances, ()
    features = perceptual.features
    return distances, tuple(features((z * 255).round() / 255)[0].cpu() for z in (lq, restored, gt))


def perceived(rows: Sequence[Row]) -> dict[str, tuple[list[float], list[float]]]:
    """Return the perceptual scores of all inputs and of all outputs, by metric.

    FID, which is of all rows together, is repeated for each.

    Raises:
        ValueError: see `frechet`.
    """
    scores = {}
    for name in rows[0].distances:
        inputs = [row.distances[name][0] for row in rows]
        outputs = [row.distances[name][1] for row in rows]
        scores[name] = (inputs, outputs)
    if rows[0].features:
        lq, restored, gt = [torch.stack([row.features[i] for row in rows]) for i in range(3)]
        scores["fid"] = ([frechet(lq, gt)] * len(rows), [frechet(restored, gt)] * len(rows))
    return scores


def mean_scores(scores: Sequence[S]) -> S:
    """Return the mean of each score over pictures; equal pictures count as 100 dB."""
    kind = type(scores[0])
    columns = [[min(getattr(s, f.name), 100.0) for s in scores] for f in fields(kind)]
    return kind(*(float(np.mean(column)) for column in columns))


@torch.inference_mode()
def replace_latent(codec: Codec, lq: Image, gt: Image) -> tuple[LatentSwapScores, Image]:
    """Return the gate of a pair, and D(L_gt, H_lq), its picture with the latent replaced."""
    device = next(codec.parameters()).device
    picture = lq.tensor()[None].to(device)
    fitted = codec_with_tiling(codec, picture, free_memory(device))
    degraded = fitted.encode(picture)
    clean = fitted.encode(gt.tensor()[None].to(device))

    def decode(mu: Tensor) -> Image:
        return lq.with_pixels(fitted.decode(mu, degraded.features, degraded.size)[0].clamp(0, 1))

    kept, replaced = decode(degraded.mu), decode(clean.mu)
    return LatentSwapScores(score(kept, lq).psnr, score(replaced, gt).psnr, score(kept, gt).psnr), replaced


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write a line for each picture: name, scores of input and output, then perceptual scores of both."""
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
