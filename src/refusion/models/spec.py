"""The specification of a model: network, codec, process, prediction, enlargement, default sampling.

The tables here map the names in specifications to classes.
"""

import functools
from typing import Annotated

import torch
from pydantic import Field, model_validator

from refusion.diffusion.prediction import PREDICTIONS
from refusion.diffusion.schedule import SCHEDULES, make_alphas
from refusion.diffusion.sde import SDE, DenoisingSDE, MeanRevertingSDE
from refusion.errors import first_line
from refusion.imaging.fill import FILLS
from refusion.imaging.level import Level
from refusion.imaging.resize import Enlarge
from refusion.models.settings import MAX_SIZE, Settings, build, component, named
from refusion.nn.nafnet import ConditionalNAFNet
from refusion.nn.network import Network
from refusion.nn.unet import ConditionalUNet
from refusion.restoring.codec import Codec, Pixels, Pyramid
from refusion.restoring.latent_unet import LatentUNet
from refusion.restoring.request import Sampling
from refusion.restoring.restorer import Restorer

NETWORKS: dict[str, type[Network]] = {
    "ConditionalNAFNet": ConditionalNAFNet,
    "ConditionalUNet": ConditionalUNet,
}
CODECS: dict[str, type[Codec]] = {"Pixels": Pixels, "Pyramid": Pyramid, "LatentUNet": LatentUNet}
PROCESSES: dict[str, type[SDE]] = {"mean-reverting": MeanRevertingSDE, "denoising": DenoisingSDE}


class Process(Settings):
    """Settings of the SDE. `noise_level` is lambda; the kind "denoising" is for white noise only."""

    kind: named(PROCESSES) = "mean-reverting"  # type: ignore[valid-type]
    schedule: named(SCHEDULES) = "cosine"  # type: ignore[valid-type]
    steps: Annotated[int, Field(ge=1, le=MAX_SIZE)] = 100
    delta: float = 0.005
    noise_level: Level

    def build(self) -> SDE:
        """Return the process; raise ValueError for a value out of range."""
        with torch.device("cpu"):  # tables need their values also where networks are built on "meta"
            rates = SCHEDULES[self.schedule](torch.arange(self.steps + 1, dtype=torch.float64))
            return PROCESSES[self.kind](make_alphas(rates, self.delta), self.noise_level)


class Card(Settings):
    """The description of a model for users, stored in its file.

    Args:
        task: name of the task.
        summary: the purpose of the model, in a sentence.
        data: the training data.
        terms: licence or terms of the data, and so of the weights.
        training: method, duration and hardware of the training.
        metrics: scores by name; training adds those of its validation.
        limits: known weaknesses.
        std_scale: factor of the standard deviation of samples, see `evaluation.uncertainty.calibrate`.
    """

    task: str = ""
    summary: str = ""
    data: str = ""
    terms: str = ""
    training: str = ""
    metrics: dict[str, float] = Field(default_factory=dict)
    limits: str = ""
    std_scale: Annotated[float, Field(gt=0)] = 1.0


class ModelSpec(Settings):
    """The specification of a model: all that is needed to run it but the weights.

    Values that validate can be built.

    Args:
        network: a class of `NETWORKS` by `name`, and its arguments but `channels`.
        codec: a class of `CODECS` by `name`, and its arguments.
        process: see `Process`.
        prediction: how the network's output is read, a name in `PREDICTIONS`.
        enlarge: the enlargement of input pictures.
        fill: for inpainting, the fill of holes that the restoration starts from, a name in `FILLS`; the first
            guide is then the mask. None for models without this guide: their holes are white.
        sampling: the default sampling of requests.
        mean: a class of `NETWORKS` and its arguments, the regression whose estimate takes the place of mu; it
            takes the same views, conditions and guides as the network. None for mu itself.
    """

    network: component(NETWORKS)  # type: ignore[valid-type]
    codec: component(CODECS)  # type: ignore[valid-type]
    process: Process
    prediction: named(PREDICTIONS)  # type: ignore[valid-type]
    enlarge: Enlarge = Enlarge()
    fill: named(FILLS) | None = None  # type: ignore[valid-type]
    sampling: Sampling = Sampling()
    mean: component(NETWORKS) | None = None  # type: ignore[valid-type]

    @model_validator(mode="after")
    def _check(self) -> "ModelSpec":
        """Check that the parts fit: the denoising process has no mean, and needs white noise of known std."""
        denoises = self.process.kind == "denoising"
        if denoises == self.outline.network.conditional:
            raise ValueError(
                f"process.kind is {self.process.kind}: give network.conditional {str(not denoises).lower()}"
            )
        if denoises and self.mean is not None:
            raise ValueError("process.kind is denoising, which starts from the noise in mu: leave out mean")
        if denoises and (self.codec.name != "Pixels" or self.enlarge.factor > 1):
            raise ValueError("process.kind is denoising: give codec.name Pixels and enlarge.factor 1")
        if self.fill and (self.guides != 1 or self.enlarge.factor > 1):
            raise ValueError(f"fill is {self.fill}: give network.guides 1, the mask, and enlarge.factor 1")
        mean, network = self.outline.mean, self.outline.network
        if mean is not None and _taken(mean) != (True, *_taken(network)[1:]):
            raise ValueError(
                "mean: give a network with conditional true and views, conditions, guides as network"
            )
        if network.sees_lq if mean is None else mean.sees_lq:
            raise ValueError(
                "sees_lq: only a network beside a mean sees the degraded picture in addition to mu"
            )
        if self.mean is None and self.sampling.texture != 1:
            raise ValueError(f"sampling.texture is {self.sampling.texture}: only models with a mean take it")
        if self.sampling.steps > self.process.steps:
            raise ValueError(
                f"sampling.steps is {self.sampling.steps} and process.steps {self.process.steps}"
            )
        return self

    @functools.cached_property
    def outline(self) -> Restorer:
        """The model on the device "meta", without memory for its weights, for its attributes."""
        with torch.device("meta"):
            return self.build()

    @property
    def views(self) -> int:
        """Number of pictures of one scene that the model sees together."""
        return self.outline.network.num_views

    @property
    def conditions(self) -> int:
        """Number of values in the condition of each picture."""
        return self.outline.network.num_conditions

    @property
    def guides(self) -> int:
        """Number of maps that the model sees beside each picture."""
        return self.outline.network.num_guides

    def check(self, views: int, conditions: int | None, guides: int = 0) -> None:
        """Check that the model takes a scene of so many views, conditions and guides, see `Network.check`."""
        self.outline.network.check(views, conditions, guides)

    def build(self, name: str = "a model") -> Restorer:
        """Return a restorer with fresh weights.

        Args:
            name: of the model, for messages.

        Raises:
            ValueError: the network, the codec or the process refuses a value.
        """
        try:
            codec: Codec = build(CODECS, self.codec)
            network = _built(self.network, codec)
            mean = None if self.mean is None else _built(self.mean, codec)
        except RuntimeError as error:  # of sizes that torch cannot hold
            raise ValueError(first_line(error)) from error
        prediction = PREDICTIONS[self.prediction]
        sde = self.process.build()
        return Restorer(
            network, codec, sde, prediction, self.sampling, self.enlarge, self.fill, name, mean=mean
        )


def _built(settings: Settings, codec: Codec) -> Network:
    """Return a network for the states of a codec."""
    derived = {"channels": codec.channels}
    if "guides" in type(settings).model_fields:
        derived["map_channels"] = codec.map_channels
    network: Network = build(NETWORKS, settings, **derived)
    return network


def _taken(network: Network) -> tuple[object, ...]:
    """Return what a network takes: whether it sees mu, and its views, conditions and guides."""
    return network.conditional, network.num_views, network.num_conditions, network.num_guides
