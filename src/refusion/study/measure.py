"""The scores of every picture, written after each, so that a measurement goes on where it was stopped."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from refusion.data.pairs import Pair
from refusion.evaluation.evaluate import scene_options, score
from refusion.evaluation.uncertainty import error_map, spread
from refusion.files import atomic
from refusion.restoring.request import Options
from refusion.restoring.restorer import Restorer

SCORES = "scores.csv"
EQUAL = 100.0
"""PSNR in dB that equal pictures count as."""
PictureScores = dict[str, dict[str, float]]
"""Scores by measure, of each picture by name."""


def measure(restore: Restorer, pairs: Sequence[Pair], options: Options, folder: Path) -> PictureScores:
    """Restore and score the pictures that are not yet in the folder's `SCORES`; return the scores of all.

    They are PSNR and SSIM as of `refusion evaluate`, and with several samples those of `Spread`.
    """
    scores = read_scores(folder)
    for pair in pairs:
        if not scores.keys() >= set(pair.names):
            scores.update(_measured(restore, pair, options))
            _write(scores, folder / SCORES)
    return {name: scores[name] for pair in pairs for name in pair.names}


def _measured(restore: Restorer, pair: Pair, options: Options) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield name and scores of each view."""
    views = pair.read()
    result = restore.run(restore.request(*views.lq, **scene_options(restore, views, options)))
    stds = result.stds or (None,) * len(result.images)
    for name, image, std, gt in zip(pair.names, result.images, stds, views.gt, strict=True):
        values = asdict(score(image, gt))
        values |= {} if std is None else asdict(spread(std, error_map(image, gt)))
        yield name, {key: min(value, EQUAL) for key, value in values.items()}


def read_scores(folder: Path) -> PictureScores:
    """Return the scores in a folder; none if it has none."""
    path = folder / SCORES
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {row.pop("name"): {key: float(value) for key, value in row.items()} for row in rows}


def _write(scores: PictureScores, path: Path) -> None:
    with atomic(path) as part:
        write_table([{"name": name, **values} for name, values in scores.items()], part)


def write_table(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows as CSV, with the columns of all of them in the order in which they come."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
