"""Agreement of the deviation of samples with the error of their mean, and the scale of a true deviation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Unpack

import numpy as np
from jaxtyping import Float

from refusion.data.pairs import Pair
from refusion.errors import DataError
from refusion.evaluation.evaluate import scene_options
from refusion.imaging.image import Image
from refusion.restoring.request import Options
from refusion.restoring.restorer import Restorer

Map = Float[np.ndarray, "h w"]

NORMAL = 0.6827
"""Part of the errors that lie within one standard deviation, if they are normal."""
BLOCK = 8
"""Side in pixels of the blocks over which ranks are compared."""
TINY = 1e-6
"""Least deviation, in the range [0, 1]."""


@dataclass(frozen=True)
class Spread:
    """Agreement of the deviation of samples with the error of their mean, in one picture.

    Args:
        rank_correlation: Spearman's, over blocks of 8 x 8 pixels.
        coverage: part of the pixels whose error is within one deviation; 0.683 for a true scale.
        deviation_to_error: ratio of the root mean squares.
    """

    rank_correlation: float
    coverage: float
    deviation_to_error: float


def error_map(image: Image, truth: Image) -> Map:
    """Return the error of a picture at each pixel, as the root mean square over the colours."""
    error: Map = np.sqrt(((image.pixels - truth.pixels) ** 2).mean(-1))
    return error


def spread(std: Map, error: Map) -> Spread:
    """Compare the deviation of samples with the error of their mean; see `error_map`."""
    return Spread(
        rank_correlation(_blocks(std), _blocks(error)),
        float((error <= std).mean()),
        float(np.sqrt((std**2).mean() / max((error**2).mean(), TINY**2))),
    )


def rank_correlation(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    """Return Spearman's rank correlation; equal values share their mean rank. 0 if either is constant."""
    ranks = np.stack([_ranks(a), _ranks(b)])
    if (np.ptp(ranks, axis=1) == 0).any():
        return 0.0
    return float(np.corrcoef(ranks)[0, 1])


def _ranks(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Float[np.ndarray, " n"] = (last - (counts - 1) / 2)[inverse]
    return ranks


def _blocks(values: Map) -> Float[np.ndarray, " blocks"]:
    """Return the means of blocks; a rest at the right and lower border is left out, unless it is all."""
    side = min(BLOCK, *values.shape)
    height, width = (n // side * side for n in values.shape)
    means: Float[np.ndarray, " blocks"] = (
        values[:height, :width].reshape(height // side, side, width // side, side).mean((1, 3)).ravel()
    )
    return means


@dataclass(frozen=True)
class Calibration:
    """A scale for the deviation of a model's samples, and its effect on other pictures.

    Args:
        scale: factor after which 68.3 % of the errors are within one deviation, on the pictures of the fit.
        before: part of the errors within one deviation on the other pictures, without the scale.
        after: the same part, with the scale.
    """

    scale: float
    before: float
    after: float


def calibrate(restore: Restorer, pairs: Sequence[Pair], **options: Unpack[Options]) -> Calibration:
    """Fit a scale on every second pair, and test it on the others.

    Args:
        restore: the model.
        pairs: at least two; each picture has the same weight.
        options: of every restoration; `samples` of 2 or more.

    Raises:
        DataError: fewer than two pairs.
        ValueError: fewer than two samples.
    """
    if len(pairs) < 2:
        raise DataError(f"{len(pairs)} pairs: give some to fit the scale, and others to test it")
    if options.get("samples", 1) < 2:
        raise ValueError(f"samples is {options.get('samples', 1)}: a deviation needs at least 2")
    restore = replace(restore, std_scale=1.0)
    fitted = [_ratio_quantile(ratio) for pair in pairs[::2] for ratio in _ratios(restore, pair, options)]
    scale = float(np.median(fitted))
    tested = [
        [float((ratio <= s).mean()) for s in (1.0, scale)]
        for pair in pairs[1::2]
        for ratio in _ratios(restore, pair, options)
    ]
    before, after = np.mean(tested, axis=0).tolist()
    return Calibration(scale, before, after)


def _ratios(restore: Restorer, pair: Pair, options: Options) -> Iterator[Map]:
    """Yield the ratio of error to deviation of each view."""
    views = pair.read()
    result = restore.run(restore.request(*views.lq, **scene_options(restore, views, options)))
    for image, std, gt in zip(result.images, result.stds, views.gt, strict=True):
        yield error_map(image, gt) / np.maximum(std, TINY)


def _ratio_quantile(ratio: Map) -> float:
    return float(np.quantile(ratio, NORMAL))
