"""A spec that validates can be built, and what a user adds to a table is as good as what is there."""

import copy
import resource
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from refusion.data.degradation import Example
from refusion.diffusion.objective import diffusion_loss
from refusion.diffusion.prediction import PREDICTIONS, Clean
from refusion.diffusion.sampling import SAMPLERS, Solver, StepContext
from refusion.diffusion.schedule import SCHEDULES
from refusion.errors import RecipeError
from refusion.imaging.image import Image
from refusion.models.settings import MAX_BLOCKS, MAX_SIZE, validated
from refusion.models.spec import CODECS, NETWORKS, ModelSpec
from refusion.nn.network import Network
from refusion.nn.pooling import Pool, whole_mean
from refusion.restoring.codec import Codec, Encoded
from refusion.restoring.restorer import Restorer
from refusion.training.recipe import DEGRADATIONS, Recipe, parse
from tiny import SMALLEST

T = TypeVar("T")
MODEL: dict[str, Any] = SMALLEST["model"]
LATENT = {"name": "LatentUNet", "latent_channels": 4, "width": 4, "multipliers": [1, 1], "unshuffle": 2}
PICTURE = np.random.default_rng(0).uniform(0.2, 0.8, (12, 16, 3)).astype(np.float32)


def changed(**changes: object) -> dict[str, Any]:
    """The smallest model with other values by dotted name, as network__width."""
    values = copy.deepcopy(MODEL)
    for name, value in changes.items():
        *parents, last = name.split("__")
        level = values
        for parent in parents:
            level = level.setdefault(parent, {})
        level[last] = value
    return values


def spec(**changes: object) -> ModelSpec:
    return validated(ModelSpec, changed(**changes), "my.yaml")


def said(**changes: object) -> str:
    """The one line with which a spec is refused."""
    with pytest.raises(RecipeError) as caught:
        spec(**changes)
    message = str(caught.value)
    assert message.startswith("my.yaml: ")
    assert "\n" not in message
    assert len(message) < 500
    return message


# ---- laws

DENOISING = {"process": {"kind": "denoising", "noise_level": 0.2}, "network__conditional": False}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"network": {"name": "ConditionalUNet", "width": 8, "multipliers": [1, 2]}},
        {"network__stereo": True, "network__conditions": 3},
        {"network__local": [8, 8]},
        {"codec": {"name": "Pyramid", "longest_side": 8, "factor": 2}},
        {"codec": LATENT, "prediction": "noise"},
        {"process__schedule": "linear", "process__steps": 7, "sampling": {"steps": 7, "sampler": "sde-2"}},
        {"enlarge": {"factor": 2, "mode": "nearest"}},
        DENOISING,
    ],
)
def test_what_validates_builds_and_is_json(changes: dict[str, Any]) -> None:
    described = spec(**changes)
    made = described.build("mine")
    assert isinstance(made, Restorer)
    assert (made.name, made.sampling, made.enlarge) == ("mine", described.sampling, described.enlarge)
    assert made.sde.steps == described.process.steps
    again = validated(ModelSpec, described.model_dump(mode="json"), "again")
    assert (again, hash(again)) == (described, hash(described))
    assert again.build().network.state_dict().keys() == made.network.state_dict().keys()


def test_a_spec_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        spec().prediction = "noise"  # type: ignore[misc]


def test_two_builds_share_nothing() -> None:
    described = spec()
    one, two = described.build(), described.build()
    for a, b in zip(one.network.parameters(), two.network.parameters(), strict=True):
        assert a is not b
        assert a.data_ptr() != b.data_ptr()


# ---- the outline


@pytest.mark.parametrize("changes", [{}, {"codec": LATENT}, DENOISING])
def test_the_outline_has_no_memory_and_is_made_once(changes: dict[str, Any]) -> None:
    described = spec(**changes)
    outline = described.outline
    assert described.outline is outline
    tensors = [*outline.network.state_dict().values(), *outline.codec.state_dict().values()]
    assert tensors
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert outline.sde.alphas.device.type == "cpu"
    assert outline.sde.alphas[0] == 1
    assert described == spec(**changes)  # whether or not it was asked


def test_a_huge_model_is_outlined_in_no_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    described = spec(network__width=1024, network__encoder=[1, 1], network__decoder=[1, 1])
    weights = sum(p.numel() for p in described.outline.network.parameters())
    assert weights > 3e8  # more than a gigabyte
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300e3  # KiB


@pytest.mark.parametrize(("stereo", "conditions"), [(False, 0), (True, 0), (False, 3), (True, 2)])
def test_a_spec_tells_views_and_conditions(stereo: bool, conditions: int) -> None:
    described = spec(network__stereo=stereo, network__conditions=conditions)
    network = described.build().network
    assert described.views == network.num_views == 1 + stereo
    assert described.conditions == network.num_conditions == conditions
    described.check(1 + stereo, conditions)
    described.check(1 + stereo, None)
    with pytest.raises(ValueError, match=f"{2 - stereo} pictures"):
        described.check(2 - stereo, conditions)
    with pytest.raises(ValueError, match=f"{conditions + 1} numbers: this model takes {conditions}"):
        described.check(1 + stereo, conditions + 1)


# ---- errors


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"network__widht": 4}, ["unknown key network.widht", "did you mean ", "width?"]),
        ({"network__width": "wide"}, ["network.width is 'wide'", "integer"]),
        ({"network__width": 5}, ["width is 5", "give an even number"]),
        ({"network__encoder": [1, 1]}, ["encoder has 2 levels and decoder 1", "give both the same"]),
        ({"network__name": "UNet"}, ["network.name is 'UNet'", "'ConditionalNAFNet' or 'ConditionalUNet'"]),
        ({"network": {}}, ["network.name is missing"]),
        ({"network": 5}, ["network is 5", "dictionary"]),
        ({"codec__factor": 0}, ["factor is 0", "give at least 1"]),
        ({"process__noise_level": 50}, ["noise_level is 50", "50/255"]),
        ({"process__delta": 2}, ["delta 2", "0 < delta < 1"]),
        ({"process__kind": "diffusing"}, ["process.kind is 'diffusing'", "'mean-reverting' or 'denoising'"]),
        ({"process__steps": 10**6}, ["process.steps is 1000000", str(MAX_SIZE)]),
        ({"prediction": "x0"}, ["prediction is 'x0'", "'noise', 'clean', 'velocity' or 'reverse-step'"]),
        ({"sampling": {"steps": 0}}, ["sampling", "steps is 0", "give at least 1"]),
        ({"sampling": {"sampler": "ode2"}}, ["sampling", "unknown sampler 'ode2'", "did you mean ode-2?"]),
        ({"sampling": {"steps": 101}}, ["sampling.steps is 101", "process.steps 100"]),
        ({"sampling": {"tile": 256}}, ["unknown key sampling.tile"]),  # of a request, not of a model
        ({"enlarge": {"factor": 0}}, ["enlarge", "factor is 0", "give 1 to 16"]),
        ({"process": DENOISING["process"]}, ["process.kind is denoising", "give network.conditional false"]),
        (
            {"network__conditional": False},
            ["process.kind is mean-reverting", "give network.conditional true"],
        ),
        ({**DENOISING, "codec": LATENT}, ["give codec.name Pixels"]),
        ({**DENOISING, "mean": {"name": "ConditionalNAFNet", "width": 4}}, ["leave out mean"]),
        ({**DENOISING, "enlarge": {"factor": 2}}, ["enlarge.factor 1"]),
        ({"network__width": 10**9}, ["1000000000 is above", str(MAX_SIZE)]),
        ({"network__middle": MAX_SIZE + 1}, [f"{MAX_SIZE + 1} is above"]),
        (
            {"network__encoder": [MAX_BLOCKS + 1], "network__decoder": [1]},
            [f"encoder sums to more than {MAX_BLOCKS}"],
        ),
    ],
)
def test_an_error_names_key_value_and_remedy(changes: dict[str, Any], parts: list[str]) -> None:
    message = said(**changes)
    for part in parts:
        assert part in message


def test_every_error_is_named_at_once() -> None:
    message = said(network__widht=4, prediction="x0", process__steps=0, nonsense=1)
    for part in ("network.widht", "prediction is 'x0'", "process.steps is 0", "nonsense"):
        assert part in message


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("network", "model.network"),
        ("codec", "model.codec"),
        ("process", "model.process"),
        ("prediction", "model.prediction"),
        ("enlarge", "model.enlarge"),
        ("sampling", "model.sampling"),
        ("schedule", "model.process.schedule"),
    ],
)
def test_a_key_at_the_wrong_level_is_told_its_path(wrong: str, right: str) -> None:
    """As in the recipes before there was `model`."""
    given = {"task": "test", "model": MODEL, wrong: MODEL.get(wrong, {})}
    with pytest.raises(RecipeError) as caught:
        parse(given, "my.yaml")
    assert f"unknown key {wrong}, did you mean {right}?" in str(caught.value)


# ---- what a user adds


@contextmanager
def added(table: MutableMapping[str, T], name: str, entry: T) -> Iterator[None]:
    """An entry of a table, by the one line that makes it known."""
    table[name] = entry
    try:
        yield
    finally:
        del table[name]


class Mine(Network):
    """One convolution whose bias depends on the time."""

    def __init__(
        self,
        channels: int = 3,
        kernel: int = 3,
        gain: float = 0.5,
        biased: bool = True,
        sizes: tuple[int, ...] = (1,),
    ) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel is {kernel}: give an odd number")
        self.conv = nn.Conv2d(2 * channels, channels, kernel, padding=kernel // 2, bias=biased)
        self.time = nn.Linear(1, channels)
        self.gain, self.sizes = gain, sizes

    def embed(self, t: Tensor, condition: Tensor | None = None) -> Tensor:
        shift: Tensor = self.time(t[:, None] / 100)
        return shift

    def forward(
        self, x_t: Tensor, mu: Tensor, t: Tensor, embedding: Tensor | None = None, pool: Pool = whole_mean
    ) -> Tensor:
        shift = self.embed(t) if embedding is None else embedding
        output: Tensor = self.gain * self.conv(torch.cat([x_t, mu], dim=1)) + shift[..., None, None]
        return output


class Halved(Codec):
    """The picture at half its brightness."""

    channels, bounds = 3, (0.0, 0.5)

    def __init__(self, by: float = 2.0) -> None:
        super().__init__()
        self.by = by

    def encode(self, image: Tensor) -> Encoded:
        return Encoded(image / self.by, (), (image.shape[-2], image.shape[-1]))

    def decode(self, state: Tensor, features: tuple[Tensor, ...], size: tuple[int, int]) -> Tensor:
        return state * self.by


@dataclass(frozen=True, kw_only=True)
class Darker:
    """Less light."""

    name: Literal["Darker"] = "Darker"
    by: float = 0.5

    def __call__(self, clean: Tensor, rng: np.random.Generator) -> Example:
        return Example(self.by * clean, clean)


class Minus(Clean):
    """An estimate that is the output's negative."""

    def clean(self, output: Tensor, *rest: Any) -> Tensor:
        return -super().clean(output, *rest)


def step_once(restorer: Restorer) -> float:
    """Change of the loss of a batch by one step of gradient descent."""
    generator = torch.Generator().manual_seed(0)
    gt = torch.rand(2, 3, 8, 8, generator=generator)
    x0, mu = (restorer.codec.encode(z).mu for z in (gt, gt / 2))
    noise = torch.randn(mu.shape, generator=generator)
    network = restorer.network
    optimizer = torch.optim.SGD(network.parameters(), 1e-2)
    losses = []
    for _ in range(2):
        t = torch.tensor([20, 90])
        loss = diffusion_loss(
            lambda x_t, mu, t: network(x_t, mu, t, network.embed(t)),
            restorer.sde,
            restorer.prediction,
            x0,
            mu,
            t,
            noise,
            loss="l2",
        )
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses[1] - losses[0]


def restored(restorer: Restorer) -> Image:
    return restorer.run(restorer.request(PICTURE)).image


def refused(name: str, **changes: object) -> None:
    assert repr(name) in said(**changes)


def test_a_network_of_ones_own() -> None:
    values = {"name": "Mine", "kernel": 1, "gain": 2, "biased": "false", "sizes": [1, 2]}
    refused("Mine", network=values)
    with added(NETWORKS, "Mine", Mine):
        described = spec(network=values)
        made = described.build()
        network = made.network
        assert isinstance(network, Mine)
        assert (network.gain, network.sizes, network.conv.bias) == (2.0, (1, 2), None)
        assert network.conv.weight.shape == (12, 24, 1, 1)  # on the states of the codec
        assert step_once(made) < 0
        assert restored(made).size == (16, 12)
        assert validated(ModelSpec, described.model_dump(mode="json"), "again") == described
        for key, value, part in (
            ("kernal", 3, "unknown key network.kernal, did you mean "),
            ("kernel", "x", "network.kernel is 'x'"),
            ("kernel", 2, "kernel is 2: give an odd number"),
            ("kernel", MAX_SIZE + 1, "above"),
            ("channels", 3, "unknown key network.channels"),
        ):
            assert part in said(network={"name": "Mine", key: value})
        assert "'ConditionalUNet' or 'Mine'" in said(network__name="Yours")
    refused("Mine", network=values)


def test_a_codec_of_ones_own() -> None:
    refused("Halved", codec={"name": "Halved"})
    with added(CODECS, "Halved", Halved):
        described = spec(codec={"name": "Halved", "by": 4})
        made = described.build()
        assert isinstance(made.codec, Halved)
        assert made.network.intro.weight.shape[1] == 2 * 3
        assert step_once(made) < 0
        assert restored(made).size == (16, 12)
        assert "codec.by is 'x'" in said(codec={"name": "Halved", "by": "x"})
        assert "give codec.name Pixels" in said(**DENOISING, codec={"name": "Halved"})
    refused("Halved", codec={"name": "Halved"})


def test_a_schedule_of_ones_own() -> None:
    refused("quadratic", process__schedule="quadratic")
    with added(SCHEDULES, "quadratic", lambda t: (1 + t) ** 2):
        made = spec(process__schedule="quadratic").build()
        integral = ((1 + torch.arange(101, dtype=torch.float64)) ** 2).cumsum(0) - 1
        torch.testing.assert_close(made.sde.alphas, 0.005 ** (integral / integral[-1]))
        assert step_once(made) < 0
        assert "'cosine' or 'quadratic'" in said(process__schedule="qadratic")
    refused("quadratic", process__schedule="quadratic")


def test_a_sampler_of_ones_own() -> None:
    walked = []

    def mine(eta: float) -> Solver:
        def rule(step: StepContext) -> Tensor:
            walked.append((step.t, step.r))
            return step.x0

        return rule

    refused("mine", sampling={"sampler": "mine"})
    with added(SAMPLERS, "mine", mine):
        made = spec(sampling={"sampler": "mine", "steps": 2}).build()
        restored(made)
        assert walked == [(100, 50), (50, 0)]
    refused("mine", sampling={"sampler": "mine"})


def test_a_meaning_of_the_output_of_ones_own() -> None:
    refused("minus", prediction="minus")
    with added(PREDICTIONS, "minus", Minus()):
        assert isinstance(spec(prediction="minus").build().prediction, Minus)
    refused("minus", prediction="minus")


def test_a_degradation_of_ones_own() -> None:
    def described(**values: object) -> Recipe:
        return parse(SMALLEST, "my.yaml", {"data.degradation": {"name": "Darker", **values}})

    with pytest.raises(RecipeError, match="'Darker'"):
        described()
    with added(DEGRADATIONS, "Darker", Darker):
        recipe = described(by=0.25)
        assert recipe.data.degradation == Darker(by=0.25)
        assert recipe.model_dump(mode="json")["data"]["degradation"] == {"name": "Darker", "by": 0.25}
        assert parse(recipe.model_dump(mode="json"), "again") == recipe
        with pytest.raises(RecipeError, match=r"unknown key data\.degradation\.bye, did you mean "):
            described(bye=1)
        with pytest.raises(RecipeError, match=r"data\.degradation\.by is 'x'"):
            described(by="x")
    with pytest.raises(RecipeError, match="'Darker'"):
        described()


def test_an_argument_without_default_is_asked_for() -> None:
    class Needs(Halved):
        def __init__(self, by: float) -> None:
            super().__init__(by)

    with added(CODECS, "Needs", Needs):
        assert "codec.by is missing" in said(codec={"name": "Needs"})
        assert spec(codec={"name": "Needs", "by": 2}).build().codec.by == 2


def test_a_class_without_arguments_needs_none() -> None:
    class Plain(Codec):
        channels, bounds = 3, (0.0, 1.0)

        def encode(self, image: Tensor) -> Encoded:
            return Encoded(image, (), (image.shape[-2], image.shape[-1]))

        def decode(self, state: Tensor, features: tuple[Tensor, ...], size: tuple[int, int]) -> Tensor:
            return state

    with added(CODECS, "Plain", Plain):
        assert isinstance(spec(codec={"name": "Plain"}).build().codec, Plain)
        assert "unknown key codec.args" in said(codec={"name": "Plain", "args": 1})


def test_guides_and_fill_are_declared_and_checked_together() -> None:
    guided = {"model.network.guides": 1}
    spec = parse(SMALLEST, "test", {**guided, "model.fill": "harmonic"}).model
    assert (spec.guides, spec.fill, spec.build().fill) == (1, "harmonic", "harmonic")
    assert spec.build().network.intro.in_channels == 2 * 12 + 4  # type: ignore[union-attr]
    plain = parse(SMALLEST, "test").model
    assert (plain.guides, plain.fill) == (0, None)
    spec.check(1, 0, 1)
    spec.check(1, 0)
    with pytest.raises(ValueError, match="1 guides"):
        plain.check(1, 0, 1)
    with pytest.raises(RecipeError, match=r"fill is harmonic: give network\.guides 1"):
        parse(SMALLEST, "test", {"model.fill": "harmonic"})
    with pytest.raises(RecipeError, match=r"model\.fill is 'grey'"):
        parse(SMALLEST, "test", {**guided, "model.fill": "grey"})
    with pytest.raises(RecipeError, match="drop_guide"):
        parse(SMALLEST, "test", {**guided, "model.fill": "white", "data.augment": {"drop_guide": 0.5}})
