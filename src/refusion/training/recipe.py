"""Recipes: the settings of a model and of its training, typed and frozen, read from and written to YAML.

A task is defined by its recipe alone, without code.
"""

import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import yaml
from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from refusion.data.bokeh import Bokeh
from refusion.data.camera import GaussianNoise, MotionBlur, SensorNoise
from refusion.data.dataset import Augment
from refusion.data.degradation import Degradation, Downscale, Haze, Holes, Rain
from refusion.data.pairs import Pair, find_pairs
from refusion.diffusion.objective import Compare, Loss
from refusion.errors import RecipeError, hint
from refusion.models.checkpoint import Header
from refusion.models.settings import Settings, component, validated
from refusion.models.spec import Card, ModelSpec
from refusion.nn.precision import Precision, training_precision

RECIPES = Path(__file__).parents[1] / "recipes"
"""Folder of the recipes of the bundled models."""
DEGRADATIONS: dict[str, type[Degradation]] = {
    kind.__name__: kind
    for kind in (Bokeh, Downscale, GaussianNoise, Haze, Holes, MotionBlur, Rain, SensorNoise)
}
"""Degradations by name. One of your own: `DEGRADATIONS["Mine"] = Mine`, a frozen dataclass with a `name`."""
Fractional = Annotated[float, Field(ge=0, lt=1)]


def _text_of_32(value: object) -> object:
    """Return 32, which YAML reads as a number, as the text that it stands for."""
    return "32" if value == 32 else value


class Data(Settings):
    """The pairs, and how samples are drawn from them.

    Args:
        folder: with train/ and val/, see `refusion.data.pairs.find_pairs`.
        scenes: folders of clean pictures for borrowed and synthetic degradations, see `Augment`.
        degradation: makes degraded pictures of clean ones, see `refusion.data.degradation`: all of them if
            there is no lq/, else with the probability `augment.synthetic`.
        patch: height and width of a training sample, in pixels of the picture.
        augment: see `refusion.data.dataset.Augment`.
    """

    folder: str = ""
    scenes: tuple[str, ...] = ()
    degradation: component(DEGRADATIONS) | None = None  # type: ignore[valid-type]
    patch: tuple[PositiveInt, PositiveInt] = (256, 256)
    augment: Augment = Augment()


class Loop(Settings):
    """Settings of the training loop that all stages share.

    Args:
        steps: optimizer steps.
        batch: samples per process and batch.
        accumulate: batches per optimizer step.
        optimizer: with `learning_rate`, `betas` and `weight_decay`.
        lr_schedule: learning-rate schedule after `warmup` steps of linear rise: "cosine" down to
            `final_learning_rate`; "multistep", multiplied by `lr_gamma` at each of `milestones` (fractions
            of the run); "constant".
        clip: largest norm of the gradient.
        ema: decay of the averaged weights, which are validated and released.
        precision: in which the network multiplies: "32", "bf16" for mixed precision, or "auto", which is
            "bf16" where the device has instructions for it.
        validate_every: optimizer steps between validations, at least 2; `steps` is a multiple of it.
        perceptual: whether validation measures the perceptual metrics without weights, too. They take several
            times as long as PSNR and SSIM.
        save_every: optimizer steps between checkpoints to resume from.
        keep: how many of the best checkpoints are kept.
        rollback_drop_db: fall of the validation PSNR in dB below its best at which the run is rolled back to
            the best checkpoint.
        workers: processes that read pictures.
        seed: of the order of the data, the augmentation, the times t and the noise.
    """

    steps: PositiveInt = 100_000
    batch: PositiveInt = 8
    accumulate: PositiveInt = 1
    optimizer: Literal["adam", "adamw", "lion"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    betas: tuple[Fractional, Fractional] = (0.9, 0.99)
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    lr_schedule: Literal["cosine", "multistep", "constant"] = "cosine"
    warmup: Annotated[int, Field(ge=0)] = 0
    final_learning_rate: Annotated[float, Field(ge=0)] = 1e-7
    milestones: tuple[Fractional, ...] = (0.3, 0.6, 0.85)
    lr_gamma: Annotated[float, Field(gt=0, le=1)] = 0.5
    clip: Annotated[float, Field(gt=0)] = 1.0
    ema: Fractional = 0.995
    precision: Annotated[Literal["auto", "32", "bf16"], BeforeValidator(_text_of_32)] = "auto"
    validate_every: Annotated[int, Field(ge=2)] = 1000
    perceptual: bool = True
    save_every: PositiveInt = 500
    keep: PositiveInt = 2
    rollback_drop_db: Annotated[float, Field(gt=0)] = 3.0
    workers: Annotated[int, Field(ge=0)] = 1
    seed: int = 0

    @property
    def validated_every(self) -> int:
        """Optimizer steps between validations; a shorter run is validated at its end."""
        return min(self.validate_every, self.steps)

    def precision_on(self, device: torch.device) -> Precision:
        """Return the precision that training takes on a device, "32" or "bf16"."""
        return training_precision(self.precision, device)


class CodecTraining(Loop):
    """Settings of the first stage, the training of a codec with weights by `replacing_loss`.

    Args:
        patch: height and width of a sample in pixels, cropped without a change of scale.
        swap: probability that the degraded and the clean pictures of a batch are exchanged.
        replacing: weight of the latent replacing.
        regular: weight of the regularisation of the latents.
        skip_dropout: probability that the clean picture of a sample is decoded without features.
        gate: smallest gain in dB by the clean picture's latent, measured on the validation pairs, with
            which the second stage starts.
    """

    patch: tuple[PositiveInt, PositiveInt] = (192, 192)
    swap: Annotated[float, Field(ge=0, le=1)] = 0.5
    replacing: Annotated[float, Field(ge=0)] = 1.0
    regular: Annotated[float, Field(ge=0)] = 0.001
    skip_dropout: Annotated[float, Field(ge=0, le=1)] = 0.0
    gate: float = 1.0


class MeanTraining(Loop):
    """Settings of the stage that trains the mean, a regression, of a model that has one.

    Args:
        loss: see `Training`.
    """

    loss: Loss = "l1"


class Training(Loop):
    """Settings of the last, or only, stage: the training of the network.

    Args:
        compare: what the loss compares, see `refusion.diffusion.objective`.
        loss: "l1", the papers' absolute error; "l2", squared; or "psnr", the logarithm of each sample's
            squared error.
        p_terminal: probability that a sample is trained at t = T instead of a uniform t; the first
            step of sampling is always at t = T.
        trainable: the trained weights: "network", or "decoder", those of the codec's decoder; for the latter
            `compare` must be "picture".
        weights_dtype: type of the released weights; "float16" halves the file.
    """

    compare: Compare = "output"
    loss: Loss = "l1"
    p_terminal: Annotated[float, Field(ge=0, le=1)] = 0.0
    trainable: Literal["network", "decoder"] = "network"
    weights_dtype: Literal["float32", "float16"] = "float32"

    @model_validator(mode="after")
    def _decoded(self) -> "Training":
        if self.trainable == "decoder" and self.compare != "picture":
            raise ValueError(
                f'trainable is "decoder" and compare "{self.compare}": only "picture" sees what it decodes'
            )
        return self


class Recipe(Settings):
    """All settings of a model and its training.

    Args:
        task: name of the task.
        card: the description of the model for users.
        model: the specification of the model.
        data: the training data.
        codec_training: settings of the first stage, for a codec with weights.
        mean_training: settings of the stage after it, for a model with a mean.
        training: settings of the last, or only, stage.
    """

    task: str
    card: Card = Card()
    model: ModelSpec
    data: Data = Data()
    codec_training: CodecTraining = CodecTraining()
    mean_training: MeanTraining = MeanTraining()
    training: Training = Training()

    @model_validator(mode="after")
    def _check_factor(self) -> "Recipe":
        factor = getattr(self.data.degradation, "factor", 1)
        enlarge = self.model.enlarge.factor
        if self.data.degradation and factor != enlarge:
            raise ValueError(
                f"data.degradation reduces {factor} times, and model.enlarge.factor is {enlarge}"
            )
        return self

    @model_validator(mode="after")
    def _check_augment(self) -> "Recipe":
        """Check that `augment` never changes a degradation that a condition describes."""
        augment = self.data.augment
        moved = augment.clean or augment.borrow or augment.strength
        if moved and self.model.conditions:
            raise ValueError("data.augment clean, borrow and strength do not go with network.conditions")
        return self

    @model_validator(mode="after")
    def _check_mask(self) -> "Recipe":
        """Check that a mask, without which a hole cannot be filled, is never dropped."""
        if self.model.fill and self.data.augment.drop_guide:
            raise ValueError("data.augment.drop_guide does not go with model.fill, which needs the mask")
        return self

    def pairs(self, folder: str | Path) -> list[Pair]:
        """Return the pairs of a folder for this task, see `refusion.data.pairs.find_pairs`."""
        return find_pairs(Path(folder), self.data.degradation, self.model.enlarge.factor, self.model.check)

    def provenance(self) -> dict[str, Any]:
        """Return the recipe for the file of a model, without the card and the folders of the data."""
        data = self.data.model_copy(update={"folder": "", "scenes": ()})
        return self.model_copy(update={"data": data}).model_dump(mode="json", exclude={"card"})

    def to_yaml(self) -> str:
        """Return the recipe as YAML that `load_yaml` reads."""
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        return text


def parse(values: Mapping[str, Any], source: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Return a recipe from nested values.

    Args:
        values: as in YAML.
        source: of the values, for messages.
        overrides: values by dotted key, as "training.steps".

    Raises:
        RecipeError: a key or value is wrong; see `refusion.models.settings.validated`.
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


_RENAMED = {
    "decay": "lr_schedule",
    "factor": "lr_gamma",
    "collapse": "rollback_drop_db",
    "tune": "trainable",
    "release": "weights_dtype",
    "terminal": "p_terminal",
}
"""Keys of the loop that had other names when the first models were made."""


def from_provenance(header: Header) -> Recipe:
    """Return the recipe by which a model was trained.

    Raises:
        RecipeError: the recipe is of another version, and does not fit this version's settings.
    """
    recipe = {**header.recipe, "card": header.card.model_dump()}
    for part in ("codec_training", "training"):
        if isinstance(values := recipe.get(part), Mapping):
            recipe[part] = {_RENAMED.get(key, key): value for key, value in values.items()}
    return validated(Recipe, recipe, str(header.path))


class _Made(Settings):
    degradation: component(DEGRADATIONS) | None = None  # type: ignore[valid-type]


def degradation_of(header: Header) -> Degradation | None:
    """Return the degradation of a model's training data; None if the pairs were files.

    Raises:
        RecipeError: the degradation is unknown to this version.
    """
    data = header.recipe.get("data") or {}
    values = {"degradation": data.get("degradation") if isinstance(data, Mapping) else data}
    degradation: Degradation | None = validated(_Made, values, str(header.path)).degradation
    return degradation


def pairs_of(header: Header, folder: Path) -> list[Pair]:
    """Return the pairs of a folder for a model, see `refusion.data.pairs.find_pairs`.

    Where it has no lq/, the degradation of the model's training data makes the degraded pictures.

    Raises:
        RecipeError: see `degradation_of`.
        DataError: see `find_pairs`.
    """
    degradation = None if (folder / "lq").is_dir() else degradation_of(header)
    return find_pairs(folder, degradation, header.spec.enlarge.factor, header.spec.check)


def resolve(recipe: str | Path) -> Path:
    """Return the file of a recipe: the path itself, or that of a bundled recipe by name.

    Raises:
        RecipeError: there is neither a file nor a bundled recipe of that name.
    """
    bundled = {path.stem: path for path in sorted(RECIPES.glob("*.yaml"))}
    if Path(recipe).is_file() or Path(recipe).suffix:
        return Path(recipe)
    if str(recipe) not in bundled:
        names = f"bundled are {', '.join(bundled)}"
        raise RecipeError(f"{recipe}: no file or bundled recipe{hint(str(recipe), bundled)}; {names}")
    return bundled[str(recipe)]


def load_yaml(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file; an override is "training.steps=100", with the value in YAML.

    Raises:
        RecipeError: the file is missing or not a YAML mapping; or see `parse`.
    """
    try:
        values = _from_yaml(Path(path).read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror or error}; give a recipe file") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not YAML: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: no recipe, which is a mapping with task, model, data, training ...")
    changes = {}
    for item in overrides:
        key, _, value = item.partition("=")
        changes[key] = _from_yaml(value, f"{key} is {reprlib.repr(value)}")
    return parse(values, str(path), changes)


def _from_yaml(text: str, source: str) -> Any:
    """Return the values of a YAML text.

    Raises:
        RecipeError: it is no YAML, or nested so deeply that reading it would not end well.
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{source}: not YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise RecipeError(f"{source}: nested too deeply; a recipe has five levels or so") from error
