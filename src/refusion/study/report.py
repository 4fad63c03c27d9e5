"""The report of studies: for each the papers' claims with verdicts, tables, a plot and the numbers."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refusion.files import atomic
from refusion.study.measure import write_table
from refusion.study.page import Block, Heading, Paragraph, Picture, Table, fill, html_page, markdown
from refusion.study.plan import Study
from refusion.study.plots import plot
from refusion.study.results import Effect, Result, collect, effects, findings, level_mean
from refusion.study.runs import Run
from refusion.study.statistics import Interval
from refusion.study.work import tally

TITLE = "The choices of Refusion, tested"
PAGE = "study"
MANY = 12
"""Arms beyond which two factors make a matrix instead of a list."""


def write_report(studies: Sequence[tuple[Study, Sequence[Run]]], out: Path) -> Path:
    """Write study.md, study.html, and for each study its plot and its numbers as CSV, to a folder.

    Returns:
        The page in Markdown.
    """
    out.mkdir(parents=True, exist_ok=True)
    blocks = [block for study, runs in studies for block in section(study, runs, out)]
    page = out / f"{PAGE}.md"
    _write(page, f"# {TITLE}\n\n{markdown(blocks)}")
    _write(page.with_suffix(".html"), html_page(TITLE, blocks))
    return page


def fill_page(studies: Sequence[tuple[Study, Sequence[Run]]], page: Path) -> None:
    """Replace the sections of a page of Markdown that are marked for studies, see `refusion.study.page.fill`.

    Plots and numbers go to a folder beside the page that has its name.
    """
    text, beside = page.read_text(encoding="utf-8"), page.with_suffix("")
    for study, runs in studies:

        def content(study: Study = study, runs: Sequence[Run] = runs) -> str:
            beside.mkdir(exist_ok=True)
            return markdown(
                section(study, runs, beside, f"{beside.name}/")[1:]
            )  # the page has its own heading

        text = fill(text, study.name, content)
    _write(page, text)


def section(study: Study, runs: Sequence[Run], folder: Path, prefix: str = "") -> list[Block]:
    """Return the section of a study, and write its plot and its numbers.

    Args:
        study: the study.
        runs: its runs.
        folder: for the plot and the numbers.
        prefix: path to the folder from the page.
    """
    results = collect(runs)
    blocks: list[Block] = [Heading(study.name), Paragraph(study.question)]
    if not results:
        return [*blocks, Paragraph("Not measured yet.")]
    pictures = len(results[0].scores)
    blocks.append(Paragraph(f"{tally(runs)}; {pictures} pictures. {_reading(study)}"))
    if study.claims:
        blocks.append(_claims(study, results))
    blocks += [_levels(study, results), _effects(study, results)]
    name = f"{study.name}.png"
    plot(study, results, folder / name)
    blocks.append(Picture(_caption(study, results), f"{prefix}{name}"))
    write_table(_numbers(results, study), folder / f"{study.name}.csv")
    blocks.append(
        Picture("The scores of every run and picture, as CSV", f"{prefix}{study.name}.csv", link=True)
    )
    return blocks


def _reading(study: Study) -> str:
    what = "PSNR" if study.measure == "psnr" else study.measure
    unit = f" in {study.unit}" if study.unit else ""
    return (
        f"Differences of {what}{unit}, in pairs of equal seeds; in brackets 95 % intervals: by Student's t "
        "over seeds, and by a bootstrap over pictures."
    )


def _claims(study: Study, results: Sequence[Result]) -> Table:
    rows = []
    for finding in findings(study, results):
        claim, effect = finding.claim, finding.effect
        others = _others(study, effect) if effect else ""
        compared = f"{claim.better} less {claim.than}{others}"
        rows.append([claim.says, compared, *_intervals(effect), finding.verdict])
    return Table(["claim", "compared", "over seeds", "over pictures", "verdict"], rows)


def _levels(study: Study, results: Sequence[Result]) -> Table:
    """Return the mean over seeds of each arm, and its deviation."""
    if len(study.factors) == 2 and len(study.arms) > MANY:
        (rows, row_levels), (columns, column_levels) = study.factors.items()
        lines = [
            [row, *(_score(results, (row, column), study.measure) for column in column_levels)]
            for row in row_levels
        ]
        return Table([f"{rows} \\ {columns}", *column_levels], lines)
    names = dict.fromkeys([study.measure, "psnr", "ssim"])
    extra = [name for name in results[0].metrics if name not in names and not name.endswith("_y")]
    measures = [*names, *extra]
    lines = [
        [
            *arm,
            *(_score(results, arm, measure) for measure in measures),
            str(level_mean(results, arm, study.measure)[2]),
        ]
        for arm in study.arms
    ]
    return Table([*study.factors, *measures, "seeds"], lines)


def _score(results: Sequence[Result], arm: tuple[str, ...], measure: str) -> str:
    mean, spread, count = level_mean(results, arm, measure)
    digits = 2 if measure.startswith(("psnr", "codec")) else 3
    return (
        "" if not count else f"{mean:.{digits}f}" + ("" if math.isnan(spread) else f" ± {spread:.{digits}f}")
    )


def _effects(study: Study, results: Sequence[Result]) -> Table:
    """Return the effects of the first factor's levels, for all levels of the others."""
    factor, *others = study.factors
    rows = [
        [f"{effect.level} less {effect.reference}", *effect.arm[1:], *_intervals(effect), str(effect.count)]
        for effect in effects(study, results)
    ]
    return Table([factor, *others, "over seeds", "over pictures", "seeds"], rows)


def _intervals(effect: Effect | None) -> tuple[str, str]:
    if effect is None:
        return "", ""
    return _interval_text(effect.seeds, effect.mean), _interval_text(effect.pictures, effect.mean)


def _interval_text(interval: Interval | None, mean: float) -> str:
    return str(interval) if interval is not None else f"{mean:+.2f}"


def _others(study: Study, effect: Effect) -> str:
    """Return ", at X Y" for the levels of the factors that are equal."""
    pairs = zip(study.factors, effect.arm, strict=True)
    equal = [f"{factor} {level}" for factor, level in pairs if factor != effect.factor]
    return f", at {', '.join(equal)}" if equal else ""


def _caption(study: Study, results: Sequence[Result]) -> str:
    if any(result.curve for result in results):
        return f"{study.name}: PSNR over training; lines are means over seeds, bands their range"
    return f"{study.name}: {study.measure} by {next(iter(study.factors))}"


def _numbers(results: Sequence[Result], study: Study) -> list[dict[str, Any]]:
    """Return a row for every run and picture; scores of whole runs are in each of them."""
    rows = []
    for result in results:
        whole = {key: value for key, value in result.metrics.items() if key.startswith("codec_")}
        levels = dict(zip(study.factors, result.arm, strict=True))
        for name, scores in result.scores.items():
            rows.append({**levels, "seed": result.seed, "picture": name, **scores, **whole})
    return rows


def _write(path: Path, text: str) -> None:
    with atomic(path) as part:
        part.write_text(text, encoding="utf-8")
