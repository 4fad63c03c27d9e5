"""A recipe describes a model and how it is made: typed, frozen, YAML in and YAML out.

The tables here are the only place where a name stands for code. A task is a recipe, never code.
"""

import inspect
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args

import torch
import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    create_model,
    model_validator,
)
from torch import nn

from refusion import codec
from refusion import degradation as made
from refusion import nn as networks
from refusion.data import METADATA, Pair, find_pairs
from refusion.degradation import Level
from refusion.errors import DataError, RecipeError, first_line, hint
from refusion.objective import Compare, Loss
from refusion.prediction import PREDICTIONS
from refusion.rendering import Bokeh
from refusion.resize import Enlarge
from refusion.restorer import Restorer, Sampling
from refusion.samples import Augment
from refusion.schedule import RATES, make_alphas
from refusion.sde import SDE, DenoisingSDE, MeanRevertingSDE

NETWORKS = {
    "ConditionalNAFNet": networks.ConditionalNAFNet,
    "ConditionalUNet": networks.ConditionalUNet,
}
CODECS = {"Pixels": codec.Pixels, "Pyramid": codec.Pyramid, "LatentUNet": networks.LatentUNet}
PROCESSES: Mapping[str, type[SDE]] = {"mean-reverting": MeanRevertingSDE, "denoising": DenoisingSDE}
Degradation = (
    made.Haze | made.Rain | made.MotionBlur | made.GaussianNoise | made.Holes | made.Downscale | Bokeh
)
TAGS = {*NETWORKS, *CODECS, *(kind.__name__ for kind in get_args(Degradation))}
MOST_BLOCKS = 1024
LARGEST = 65536
"""No size in a network, codec or process is larger; it keeps a forged file from building one without end."""


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


S = TypeVar("S", bound=_Settings)
Fractional = Annotated[float, Field(ge=0, lt=1)]


def _settings_of(cls: type[nn.Module]) -> type[_Settings]:
    """The arguments of a class as settings; `channels` follows from the codec and is not among them."""
    fields: dict[str, Any] = {"name": (Literal[cls.__name__], ...)}
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        if name not in ("self", "channels"):
            kind = tuple[int, ...] if parameter.annotation == Sequence[int] else parameter.annotation
            fields[name] = (kind, parameter.default)
    return create_model(cls.__name__, __base__=_Settings, **fields)


def _one_of(table: Mapping[str, type[nn.Module]]) -> Any:
    """Settings of one class of a table, chosen by `name`."""
    return Annotated[
        Union[tuple(_settings_of(cls) for cls in table.values())],  # noqa: UP007  # made from a table
        Field(discriminator="name"),
    ]


class Process(_Settings):
    """The SDE. Its noise level is lambda; the kind "denoising" takes white noise off and nothing else."""

    kind: Literal[tuple(PROCESSES)] = "mean-reverting"  # type: ignore[valid-type]
    schedule: Literal[tuple(RATES)] = "cosine"  # type: ignore[valid-type]
    steps: Annotated[int, Field(ge=1, le=LARGEST)] = 100
    delta: float = 0.005
    noise_level: Level

    def build(self) -> SDE:
        with torch.device("cpu"):  # tables are numbers also where networks are built without memory
            rates = RATES[self.schedule](torch.arange(self.steps + 1, dtype=torch.float64))
            return PROCESSES[self.kind](make_alphas(rates, self.delta), self.noise_level)


class Data(_Settings):
    """Where pairs are and how samples are drawn from them.

    Args:
        folder: holds train/ and val/, see `refusion.data.find_pairs`.
        scenes: folders of clean pictures on which degradations are borrowed or made, see `Augment`.
        degradation: what is made of clean pictures, see `refusion.degradation`; without lq/ always,
            else as often as `augment.synthetic` says.
        patch: height and width of a training sample, in pixels of the picture.
        augment: see `refusion.samples.Augment`.
    """

    folder: str = ""
    scenes: tuple[str, ...] = ()
    degradation: Annotated[Degradation, Field(discriminator="name")] | None = None
    patch: tuple[PositiveInt, PositiveInt] = (256, 256)
    augment: Augment = Augment()


class Loop(_Settings):
    """The loop that both stages of training share.

    Args:
        steps: optimizer steps.
        batch: samples per process and step.
        accumulate: batches per optimizer step.
        optimizer: with `learning_rate`, `betas` and `weight_decay`.
        decay: of the learning rate, after `warmup` steps of linear rise: "cosine" down to
            `final_learning_rate`; "multistep" times `factor` at each of `milestones` (fractions of
            the run); "constant".
        clip: largest norm of the gradient.
        ema: decay of the averaged weights, which are validated and released.
        precision: "32", or "bf16" for mixed precision.
        validate_every: optimizer steps between validations, at least 2; `steps` is a multiple of it.
        save_every: optimizer steps between checkpoints to resume from.
        keep: how many of the best checkpoints are kept.
        collapse: fall of the validation PSNR in dB below its best that rolls the run back to it.
        workers: processes that read pictures.
        seed: of the order of the data, the augmentation, the times and the noise.
    """

    steps: PositiveInt = 100_000
    batch: PositiveInt = 8
    accumulate: PositiveInt = 1
    optimizer: Literal["adam", "adamw", "lion"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    betas: tuple[Fractional, Fractional] = (0.9, 0.99)
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    decay: Literal["cosine", "multistep", "constant"] = "cosine"
    warmup: Annotated[int, Field(ge=0)] = 0
    final_learning_rate: Annotated[float, Field(ge=0)] = 1e-7
    milestones: tuple[Fractional, ...] = (0.3, 0.6, 0.85)
    factor: Annotated[float, Field(gt=0, le=1)] = 0.5
    clip: Annotated[float, Field(gt=0)] = 1.0
    ema: Fractional = 0.995
    precision: Literal["32", "bf16"] = "32"
    validate_every: Annotated[int, Field(ge=2)] = 1000
    save_every: PositiveInt = 500
    keep: PositiveInt = 2
    collapse: Annotated[float, Field(gt=0)] = 3.0
    workers: Annotated[int, Field(ge=0)] = 1
    seed: int = 0

    @property
    def validated_every(self) -> int:
        """Optimizer steps between validations; a shorter run is validated at its end."""
        return min(self.validate_every, self.steps)


class CodecTraining(Loop):
    """The first stage: training of a codec that has weights (see `refusion.objective.replacing_loss`).

    Args:
        patch: height and width of a sample in pixels, cropped without a change of scale.
        swap: probability that the degraded and the clean pictures of a batch change places.
        replacing: weight of the latent replacing.
        regular: weight of what keeps the latents tame.
        skip_dropout: probability that a sample's clean picture must be decoded without the skips.
        gate: gain in dB by a clean picture's latent, measured on the validation pairs, below which the
            second stage does not start.
    """

    patch: tuple[PositiveInt, PositiveInt] = (192, 192)
    swap: Annotated[float, Field(ge=0, le=1)] = 0.5
    replacing: Annotated[float, Field(ge=0)] = 1.0
    regular: Annotated[float, Field(ge=0)] = 0.001
    skip_dropout: Annotated[float, Field(ge=0, le=1)] = 0.0
    gate: float = 1.0


class Training(Loop):
    """The second, or only, stage: training of the network.

    Args:
        compare: what the loss compares, see `refusion.objective`.
        loss: "l1", the papers' absolute error, or "l2", squared.
        terminal: probability that a sample is trained at t = T instead of a uniform t; the first
            step of sampling is always taken there.
        tune: what is trained: "network", or "decoder", the weights with which the codec decodes what
            the network estimates, which needs `compare` to be "picture".
        release: how the released weights are stored; "float16" halves the file.
    """

    compare: Compare = "output"
    loss: Loss = "l1"
    terminal: Annotated[float, Field(ge=0, le=1)] = 0.0
    tune: Literal["network", "decoder"] = "network"
    release: Literal["float32", "float16"] = "float32"

    @model_validator(mode="after")
    def _decoded(self) -> "Training":
        if self.tune == "decoder" and self.compare != "picture":
            raise ValueError(
                f'tune is "decoder" and compare "{self.compare}": only "picture" sees what it decodes'
            )
        return self


class Card(_Settings):
    """What a user should know of a model; it travels in the checkpoint.

    Args:
        summary: what it does, in a sentence.
        data: what it was trained on.
        terms: licence or terms of the data and so of the weights.
        training: how, how long and on what.
        metrics: measured numbers by name; training fills in its validation.
        limits: what it does badly.
    """

    summary: str = ""
    data: str = ""
    terms: str = ""
    training: str = ""
    metrics: dict[str, float] = {}
    limits: str = ""


class Recipe(_Settings):
    """Everything about a model. `task` is a word for people."""

    task: str
    card: Card = Card()
    network: _one_of(NETWORKS)  # type: ignore[valid-type]
    codec: _one_of(CODECS)  # type: ignore[valid-type]
    process: Process
    prediction: Literal[tuple(PREDICTIONS)]  # type: ignore[valid-type]
    enlarge: Enlarge = Enlarge()
    sampling: Sampling = Sampling()
    data: Data = Data()
    codec_training: CodecTraining = CodecTraining()
    training: Training = Training()

    @model_validator(mode="after")
    def _as_large(self) -> "Recipe":
        factor = getattr(self.data.degradation, "factor", 1)
        if self.data.degradation and factor != self.enlarge.factor:
            raise ValueError(
                f"data.degradation reduces {factor} times, and enlarge.factor is {self.enlarge.factor}"
            )
        return self

    @model_validator(mode="after")
    def _as_processed(self) -> "Recipe":
        """The denoising process has no mean to see, and its noise must stay white and as strong as it is."""
        denoises = self.process.kind == "denoising"
        if denoises == getattr(self.network, "conditional", True):
            raise ValueError(
                f"process.kind is {self.process.kind}: give network.conditional {str(not denoises).lower()}"
            )
        if denoises and (self.codec.name != "Pixels" or self.enlarge.factor > 1):
            raise ValueError("process.kind is denoising: give codec.name Pixels and enlarge.factor 1")
        return self

    @model_validator(mode="after")
    def _as_told(self) -> "Recipe":
        """What a sample's condition says is done must be done to it."""
        augment = self.data.augment
        moved = augment.clean or augment.borrow or augment.strength
        if moved and self.conditions:
            raise ValueError("data.augment clean, borrow and strength do not go with network.conditions")
        return self

    def build(self) -> Restorer:
        """A restorer with fresh weights.

        Raises:
            RecipeError: a value is refused by what it is for.
        """
        try:
            made_codec = _build(CODECS, self.codec)
            network = _build(NETWORKS, self.network, channels=made_codec.channels)
            sde = self.process.build()
            if self.sampling.steps > sde.steps:
                raise ValueError(f"sampling.steps is {self.sampling.steps} and process.steps {sde.steps}")
        except (ValueError, RuntimeError) as error:  # the latter of sizes that torch cannot hold
            raise RecipeError(f"{self.task}: {first_line(error)}") from error
        prediction = PREDICTIONS[self.prediction]
        return Restorer(network, made_codec, sde, prediction, self.sampling, self.enlarge)

    @property
    def views(self) -> int:
        """Pictures of one scene that the network sees together."""
        return 2 if getattr(self.network, "stereo", False) else 1

    @property
    def conditions(self) -> int:
        """Numbers that the network is told of each picture, besides the time."""
        count: int = getattr(self.network, "conditions", 0)
        return count

    def pairs(self, folder: str | Path) -> list[Pair]:
        """The pairs of a folder, as this task takes them; see `refusion.data.find_pairs`.

        Raises:
            DataError: see there; or they have other views or conditions than the network.
        """
        pairs = find_pairs(Path(folder), self.data.degradation, self.enlarge.factor)
        for pair in pairs:
            if len(pair.gt) != self.views:
                found = f"{len(pair.gt)} views, and the network takes {self.views}"
                raise DataError(f"{folder}: {pair.name} has {found}; two lie in left/ and right/")
            if pair.lq and len(pair.condition) != self.conditions:
                found = f"{len(pair.condition)} conditions, and the network takes {self.conditions}"
                raise DataError(f"{folder}: {pair.name} has {found}; {METADATA} tells them")
        return pairs

    def to_yaml(self) -> str:
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        return text


def _build(table: Mapping[str, Any], settings: BaseModel, **derived: Any) -> Any:
    values = settings.model_dump(exclude={"name"})
    flat = [n for v in values.values() for n in (v if isinstance(v, tuple) else (v,))]
    if too_large := [n for n in flat if n is not None and n > LARGEST]:
        raise ValueError(f"a size of {max(too_large)} is above {LARGEST}")
    if long := [key for key, v in values.items() if isinstance(v, tuple) and sum(v) > MOST_BLOCKS]:
        raise ValueError(f"{long[0]} sums to more than {MOST_BLOCKS}")
    return table[settings.model_dump()["name"]](**values, **derived)


def parse(values: Mapping[str, Any], source: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe from nested values, some of them overridden by dotted name as "training.steps".

    Raises:
        RecipeError: naming `source`, the key or value, and what was expected.
    """
    merged: dict[str, Any] = {k: dict(v) if isinstance(v, Mapping) else v for k, v in values.items()}
    for name, value in (overrides or {}).items():
        *parents, last = name.split(".")
        level = merged
        for parent in parents:
            level[parent] = dict(level[parent]) if isinstance(level.get(parent), Mapping) else {}
            level = level[parent]
        level[last] = value
    return validated(Recipe, merged, source)


def validated(kind: type[S], values: Mapping[str, Any], source: str) -> S:
    """Settings of a kind from nested values.

    Raises:
        RecipeError: naming `source`, the key or value, and what was expected.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"{source}: " + "; ".join(map(_explain, error.errors()))) from None


def _explain(error: Any) -> str:
    """One clause for one error of pydantic: the key, what was given and what was expected."""
    path = [str(part) for part in error["loc"] if part not in TAGS]
    key = ".".join(path)
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown key {key}{hint(path[-1], _all_keys())}"
    if error["type"] == "missing":
        return f"{key} is missing"
    if error["type"] == "union_tag_invalid":
        tag, expected = error["ctx"]["tag"], error["ctx"]["expected_tags"]
        return f"{key}.name is {reprlib.repr(tag)}: it should be {expected}"
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "it should be")
    return f"{key} is {reprlib.repr(error['input'])}: {message}" if key else message


def _all_keys() -> set[str]:
    """Every key at any level, for suggestions."""
    kinds = [*_Settings.__subclasses__(), *Loop.__subclasses__()]
    keys = {key for settings in kinds for key in settings.model_fields}
    plain = (Augment, Enlarge, Sampling, *get_args(Degradation))
    return keys.union(*(values.__dataclass_fields__ for values in plain))


def load_yaml(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file; overrides are "training.steps=100", with values in YAML.

    Raises:
        RecipeError: the file is missing or no YAML mapping, or see `parse`.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror or error}; give a recipe file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: no recipe, which is a mapping with task, network, codec, process ...")
    changes = {}
    for item in overrides:
        key, _, value = item.partition("=")
        try:
            changes[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise RecipeError(f"{key} is {value!r}: not YAML: {' '.join(str(error).split())}") from error
    return parse(values, str(path), changes)
