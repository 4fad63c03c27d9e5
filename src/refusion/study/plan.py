"""The file of a study, and its arms: all combinations of the levels of its factors."""

import itertools
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, PositiveInt, model_validator

from refusion.errors import RecipeError
from refusion.models.settings import Settings, validated

Name = Annotated[str, Field(coerce_numbers_to_str=True, min_length=1)]
Arm = tuple[str, ...]
"""A level of every factor, in the order of the factors."""


class Claim(Settings):
    """A claim of a paper about two levels of a factor.

    Args:
        says: the claim, in a sentence.
        factor: of the levels.
        better: the level that scores better.
        than: the level that scores worse.
    """

    says: str
    factor: Name
    better: Name
    than: Name


class Study(Settings):
    """Runs of all levels of all factors, each with several seeds.

    Either trains models by a recipe, whose overrides the levels hold; or restores with one model, and levels
    hold options of `Restorer.request`, as steps and sampler.

    Args:
        name: of the study and its report.
        question: of the study, and limits of the data.
        recipe: a file beside the study's, or the name of a bundled recipe.
        model: a bundled name or a file.
        common: values of every run, by dotted key.
        factors: levels by factor; a level is the values that make it, by dotted key.
        seeds: number of runs of each arm, with the seeds 0, 1, ...; equal seeds draw equal samples and noise.
        measure: the score that is compared: a column of the pictures' scores, or a metric of the run.
        unit: of the measure.
        stride: every so many pictures of val/ are measured.
        claims: of the papers.
    """

    name: Annotated[str, Field(pattern="^[a-z0-9-]+$")]
    question: str = ""
    recipe: str = ""
    model: str = ""
    common: dict[str, Any] = Field(default_factory=dict)
    factors: dict[Name, dict[Name, dict[str, Any]]]
    seeds: PositiveInt = 5
    measure: str = "psnr"
    unit: str = "dB"
    stride: PositiveInt = 1
    claims: tuple[Claim, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> "Study":
        if bool(self.recipe) == bool(self.model):
            raise ValueError("give either recipe, to train, or model, to restore with")
        if not self.factors or not all(self.factors.values()):
            raise ValueError("factors: give at least one, each with levels")
        for claim in self.claims:
            levels = self.factors.get(claim.factor, {})
            for level in (claim.better, claim.than):
                if level not in levels:
                    raise ValueError(f"a claim is of {claim.factor} {level}, which is no level of a factor")
        return self

    @property
    def arms(self) -> list[Arm]:
        return list(itertools.product(*self.factors.values()))

    def values(self, arm: Arm) -> dict[str, Any]:
        """Return the values of an arm by dotted key.

        Raises:
            RecipeError: two levels set the same key.
        """
        values: dict[str, Any] = {}
        for (factor, levels), level in zip(self.factors.items(), arm, strict=True):
            if twice := values.keys() & levels[level].keys():
                raise RecipeError(f"{self.name}: {factor} sets {twice.pop()}, as another factor does")
            values |= levels[level]
        return {**self.common, **values}

    def label(self, arm: Arm) -> str:
        return ", ".join(f"{factor} {level}" for factor, level in zip(self.factors, arm, strict=True))


def read_study(path: Path) -> Study:
    """Read the file of a study.

    Raises:
        RecipeError: it is missing, no YAML mapping, or a key or value is wrong.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror or error}; give the file of a study") from error
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise RecipeError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: no study, which is a mapping with name, recipe or model, factors ...")
    return validated(Study, values, str(path))
