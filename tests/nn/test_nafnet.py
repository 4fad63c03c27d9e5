"""The network of Refusion: what it must leave unchanged, then the published network's numbers."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from refusion.nn.nafnet import ConditionalNAFNet, NAFBlock
from refusion.nn.pooling import local_mean, whole_mean

SMALL: dict[str, Any] = {"width": 8, "encoder": [1, 1], "middle": 1, "decoder": [1, 1]}


@pytest.fixture(scope="module")
def published(golden_folder: Path) -> dict[str, Any]:
    saved: dict[str, Any] = torch.load(golden_folder / "naf_small.pt", weights_only=True)
    return saved


@pytest.fixture(scope="module")
def make_network(published: dict[str, Any]) -> Callable[..., ConditionalNAFNet]:
    """The small network with the published random weights, in which every part is alive."""

    def make(long_skip: bool = False) -> ConditionalNAFNet:
        network = ConditionalNAFNet(**SMALL, long_skip=long_skip)
        network.load_state_dict(published["state_dict"], strict=True)
        return network.requires_grad_(False)

    return make


@pytest.fixture(scope="module")
def network(make_network: Callable[..., ConditionalNAFNet]) -> ConditionalNAFNet:
    return make_network()


def inputs(batch: int = 2, height: int = 8, width: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    x_t, mu = torch.rand(2, batch, 3, height, width)
    return x_t, mu, torch.randint(1, 101, (batch,)).float()


# Laws


def test_a_fresh_block_is_the_identity() -> None:
    block = NAFBlock(6, 16)
    x, modulation = torch.randn(2, 6, 5, 7), torch.randn(2, 24, 1, 1)
    assert torch.equal(block(x, modulation), x)
    torch.nn.init.ones_(block.beta)
    assert not torch.equal(block(x, modulation), x)


def test_a_fresh_network_does_not_know_the_time_yet() -> None:
    fresh, (x_t, mu, t) = ConditionalNAFNet(**SMALL), inputs()
    assert torch.equal(fresh(x_t, mu, t), fresh(x_t, mu, t + 50))
    for name, value in fresh.state_dict().items():
        if name.endswith(("beta", "gamma")):
            assert value.count_nonzero() == 0, name


def test_the_time_and_both_pictures_matter(network: ConditionalNAFNet) -> None:
    x_t, mu, t = inputs()
    output = network(x_t, mu, t)
    for other in (network(x_t, mu, t + 1), network(x_t + 0.1, mu, t), network(mu, x_t, t)):
        assert (other - output).abs().max() > 1e-5


def test_the_first_convolution_sees_the_residual_then_the_degraded_picture(
    network: ConditionalNAFNet,
) -> None:
    x_t, mu, t = inputs()
    seen: list[Tensor] = []
    hook = network.intro.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    network(x_t, mu, t)
    hook.remove()
    assert torch.equal(seen[0], torch.cat([x_t - mu, mu], dim=1))


def test_an_embedding_given_is_the_time_given(network: ConditionalNAFNet) -> None:
    x_t, mu, t = inputs()
    output = network(x_t, mu, t)
    assert torch.equal(network(x_t, mu, t, network.embed(t)), output)
    assert torch.equal(network(x_t, mu, t + 30, network.embed(t)), output)


def test_a_batch_of_several_times_equals_each_alone(network: ConditionalNAFNet) -> None:
    x_t, mu, _ = inputs(batch=4)
    t = torch.tensor([1.0, 100.0, 37.0, 2.0])
    together = network(x_t, mu, t)
    for i in range(4):
        one = slice(i, i + 1)
        alone = network(x_t[one], mu[one], t[one])
        torch.testing.assert_close(together[one], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (1, 9), (7, 8), (13, 10)])
def test_any_size_is_padded_with_zeros_and_cropped(network: ConditionalNAFNet, size: tuple[int, int]) -> None:
    height, width = size
    x_t, mu, t = inputs(1, height, width)
    output = network(x_t, mu, t)
    assert output.shape == x_t.shape
    assert output.isfinite().all()
    padding = (0, -width % 4, 0, -height % 4)
    padded = network(F.pad(x_t, padding), F.pad(mu, padding), t)
    torch.testing.assert_close(output, padded[..., :height, :width], rtol=0, atol=1e-5)


def test_memory_format_changes_speed_only(network: ConditionalNAFNet) -> None:
    x_t, mu, t = inputs()
    output = network(x_t, mu, t)
    last = network(x_t.to(memory_format=torch.channels_last), mu.to(memory_format=torch.channels_last), t)
    torch.testing.assert_close(last, output, rtol=0, atol=1e-5)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert network.intro.weight.is_contiguous(memory_format=torch.channels_last)


def test_the_long_skip_adds_the_first_features_to_the_last_without_a_parameter(
    network: ConditionalNAFNet, make_network: Callable[..., ConditionalNAFNet]
) -> None:
    latent = make_network(long_skip=True)
    assert latent.state_dict().keys() == network.state_dict().keys()
    x_t, mu, t = inputs()
    features = network.intro(torch.cat([x_t - mu, mu], dim=1))
    added = F.conv2d(features, network.ending.weight, padding=1)
    difference = latent(x_t, mu, t) - network(x_t, mu, t)
    assert difference.abs().max() > 1e-2
    torch.testing.assert_close(difference, added, rtol=0, atol=1e-5)


def test_under_autocast_to_bfloat16_the_output_is_in_float32_and_close(network: ConditionalNAFNet) -> None:
    x_t, mu, t = inputs(2, 16, 16)
    exact = network(x_t, mu, t)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = network(x_t, mu, t)
    assert half.dtype == torch.float32
    assert half.isfinite().all()
    assert (half - exact).abs().max() < 0.03 * exact.abs().max()
    assert (half - exact).abs().max() > 0


def test_under_autocast_an_embedding_in_float32_does_not_slow_the_convolutions(
    network: ConditionalNAFNet,
) -> None:
    """Everything between the convolutions is as narrow as they are."""
    x_t, mu, t = inputs()
    embedding, seen = network.embed(t), set()
    blocks = [module for module in network.modules() if isinstance(module, NAFBlock)]
    inner = [
        module for block in blocks for module in (block, block.norm1, block.conv2, block.sg, block.norm2)
    ]
    hooks = [module.register_forward_pre_hook(lambda _, args: seen.add(args[0].dtype)) for module in inner]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        network(x_t, mu, t, embedding)
    for hook in hooks:
        hook.remove()
    assert seen == {torch.bfloat16}


@pytest.mark.parametrize("channels", [1, 4])
def test_other_numbers_of_channels(channels: int) -> None:
    network = ConditionalNAFNet(channels, **SMALL)
    x_t, mu = torch.rand(2, 1, channels, 8, 8)
    assert network(x_t, mu, torch.ones(1)).shape == x_t.shape


def test_a_level_may_have_no_block() -> None:
    network = ConditionalNAFNet(width=4, encoder=[0, 2, 0], middle=0, decoder=[0, 0, 1])
    x_t, mu, t = inputs()
    assert network(x_t, mu, t).shape == x_t.shape


def test_unequal_numbers_of_levels_are_an_error_that_names_both() -> None:
    with pytest.raises(ValueError, match="encoder has 2 levels and decoder 3"):
        ConditionalNAFNet(width=8, encoder=[1, 1], decoder=[1, 1, 1])


@pytest.mark.parametrize("local", [(8,), (8, 8, 8), (0, 8)])
def test_a_local_size_that_is_none_is_an_error_that_names_it(local: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"local is \({local[0]}, ?.*give height and width"):
        ConditionalNAFNet(**SMALL, local=local)


def test_a_local_network_has_its_own_means() -> None:
    torch.manual_seed(1)
    local = ConditionalNAFNet(**SMALL, local=(8, 12)).requires_grad_(False)
    for parameter in local.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    whole = ConditionalNAFNet(**SMALL).requires_grad_(False)
    whole.load_state_dict(local.state_dict())
    x_t, mu = torch.randn(2, 1, 3, 24, 36)
    t = torch.tensor([5.0])
    assert torch.equal(local(x_t, mu, t), whole(x_t, mu, t, pool=local_mean((8, 12), 8, 4)))
    assert (local(x_t, mu, t) - whole(x_t, mu, t)).abs().max() > 1e-3
    small = (..., slice(12), slice(16))  # 1.5 times as large as in training: everything is in the window
    torch.testing.assert_close(local(x_t[small], mu[small], t), whole(x_t[small], mu[small], t))


@pytest.mark.parametrize("width", [2, 7])
def test_a_width_that_cannot_be_halved_is_an_error_that_names_it(width: int) -> None:
    with pytest.raises(ValueError, match=f"width is {width}"):
        ConditionalNAFNet(width=width, encoder=[1], decoder=[1])


# Conditions of a picture

CAMERA = torch.tensor([[-14.0, 160.0, 3.0], [160.0, -14.0, 40.0]])
"""Source lens, target lens and disparity of two pictures."""


@pytest.fixture(scope="module")
def bokeh() -> ConditionalNAFNet:
    """The small network with three conditions, in which every part is alive."""
    network = ConditionalNAFNet(**SMALL, conditions=3).requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return network


def test_every_condition_matters(bokeh: ConditionalNAFNet) -> None:
    x_t, mu, t = inputs()
    output = bokeh(x_t, mu, t, bokeh.embed(t, CAMERA))
    for change in torch.eye(3):
        other = bokeh(x_t, mu, t, bokeh.embed(t, CAMERA + change))
        assert (other - output).abs().amax((1, 2, 3)).min() > 1e-5


def test_conditions_matter_before_anything_is_learnt() -> None:
    """A network that hardly notices which lens is asked for learns to leave every picture as it is."""
    network = ConditionalNAFNet(width=40, encoder=[2, 4], middle=4, decoder=[2, 2], conditions=3)
    lenses = [-160.0, -28.0, -14.0, 14.0, 18.0, 160.0]
    camera = torch.cartesian_prod(torch.tensor(lenses), torch.tensor(lenses), torch.tensor([20.0, 80.0]))
    with torch.no_grad():
        modulations = network.embed(torch.full((len(camera),), 50.0), camera)
    for block in modulations.split(network.modulations, dim=1):
        scale_and_shift = block[:, block.shape[1] * 2 // 3 :]
        assert 0.1 < scale_and_shift.std(0).mean() < 0.5


def test_a_batch_of_several_conditions_equals_each_alone(bokeh: ConditionalNAFNet) -> None:
    x_t, mu, t = inputs()
    together = bokeh(x_t, mu, t, bokeh.embed(t, CAMERA))
    for i in range(2):
        one = slice(i, i + 1)
        alone = bokeh(x_t[one], mu[one], t[one], bokeh.embed(t[one], CAMERA[one]))
        torch.testing.assert_close(together[one], alone, rtol=0, atol=1e-5)


def test_the_embedding_is_what_the_words_say(bokeh: ConditionalNAFNet) -> None:
    """Sinusoids of the three conditions side by side; every block takes the time, then the camera."""
    t = torch.tensor([7.0, 90.0])
    weights = bokeh.state_dict()

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def gate(x: Tensor) -> Tensor:
        return x[:, : x.shape[1] // 2] * x[:, x.shape[1] // 2 :]

    def sinusoid(x: Tensor) -> Tensor:
        angles = [x * math.exp(-i * math.log(10000) / 3) for i in range(4)]
        return torch.stack([*map(torch.sin, angles), *map(torch.cos, angles)], dim=1)

    time = linear(gate(linear(sinusoid(t), "time_mlp.1")), "time_mlp.3")
    sinusoids = torch.cat([sinusoid(column) for column in CAMERA.T], dim=1)
    camera = linear(gate(linear(sinusoids, "cam_mlp.0")), "cam_mlp.2")
    blocks = ("encoders.0.0", "encoders.1.0", "middle_blks.0", "decoders.0.0", "decoders.1.0")
    parts = [
        linear(gate(x), f"{block}.{name}.1")
        for block in blocks
        for name, x in (("mlp", time), ("cam_mlp", camera))
    ]
    torch.testing.assert_close(bokeh.embed(t, CAMERA), torch.cat(parts, dim=1), rtol=0, atol=1e-4)


def test_the_camera_scales_and_shifts_what_the_last_gate_lets_through() -> None:
    block = NAFBlock(6, 16, camera=True).requires_grad_(False)
    torch.nn.init.ones_(block.beta)
    torch.nn.init.ones_(block.gamma)
    x, time, scale, shift = torch.randn(2, 6, 5, 7), torch.randn(2, 24, 1, 1), *torch.randn(2, 2, 6, 1, 1)
    seen: list[Tensor] = []
    hooks = [block.sg.register_forward_hook(lambda _, args, out: seen.append(out))]
    hooks += [block.norm2.register_forward_pre_hook(lambda _, args: seen.append(args[0]))]
    restored = block(x, torch.cat([time, scale, shift], dim=1))
    for hook in hooks:
        hook.remove()
    _, y, let_through = seen
    torch.testing.assert_close(restored, y + block.conv5(let_through * (1 + scale) + shift))


@pytest.mark.parametrize("size", [(1, 5, 7), (3, 5, 7), (3, 2, 3)])
@pytest.mark.parametrize("spatial", [False, True])
def test_a_block_is_its_formula_in_value_and_gradient(size: tuple[int, int, int], spatial: bool) -> None:
    """For one picture and several, many pixels and few, means of the picture and of windows."""
    batch, height, width = size
    block = NAFBlock(6, 16).double()
    torch.nn.init.normal_(block.beta)
    torch.nn.init.normal_(block.gamma)
    x = torch.randn(batch, 6, height, width, dtype=torch.float64).to(memory_format=torch.channels_last)
    modulation = torch.randn(batch, 24, 1, 1, dtype=torch.float64)

    def pool(z: Tensor) -> Tensor:
        return F.avg_pool2d(z, 3, 1, 1) if spatial else whole_mean(z)

    def gate(z: Tensor) -> Tensor:
        return z[:, :6] * z[:, 6:]

    def formula(x: Tensor, modulation: Tensor) -> Tensor:
        shift_att, scale_att, shift_ffn, scale_ffn = modulation.split(6, 1)
        a = gate(block.conv2(block.conv1(block.norm1(x) * (scale_att + 1) + shift_att)))
        y = x + block.beta * block.conv3(a * block.sca(pool(a)))
        f = gate(block.conv4(block.norm2(y) * (scale_ffn + 1) + shift_ffn))
        return y + block.gamma * block.conv5(f)

    results = []
    for function in (formula, lambda x, modulation: block(x, modulation, pool)):
        given = [x.clone().requires_grad_(), modulation.clone().requires_grad_()]
        y = function(*given)
        wanted = [*given, *(p for name, p in block.named_parameters() if not name.startswith("mlp"))]
        results.append([y, *torch.autograd.grad((y**2).sum(), wanted)])
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


def test_another_number_of_conditions_is_an_error_that_names_both(
    bokeh: ConditionalNAFNet, network: ConditionalNAFNet
) -> None:
    x_t, mu, t = inputs()
    for condition, given in ((None, 0), (CAMERA[:, :0], 0), (CAMERA[:, :2], 2)):
        with pytest.raises(ValueError, match=f"condition has {given} numbers for each picture: give 3"):
            bokeh.embed(t, condition)
    with pytest.raises(ValueError, match="condition has 0 numbers for each picture: give 3"):
        bokeh(x_t, mu, t)
    with pytest.raises(ValueError, match="condition has 3 numbers for each picture: give 0"):
        network.embed(t, CAMERA)
    with pytest.raises(ValueError, match="conditions is -1"):
        ConditionalNAFNet(**SMALL, conditions=-1)


def test_a_network_without_conditions_takes_none_of_them(network: ConditionalNAFNet) -> None:
    t = torch.ones(2)
    assert torch.equal(network.embed(t, torch.empty(2, 0)), network.embed(t))


# Without a mean


def test_without_a_mean_the_network_sees_the_state_alone() -> None:
    network = ConditionalNAFNet(**SMALL, conditional=False).requires_grad_(False)
    x_t, mu, t = inputs()
    seen: list[Tensor] = []
    hook = network.intro.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    output = network(x_t, mu, t)
    hook.remove()
    assert torch.equal(seen[0], x_t)
    assert torch.equal(network(x_t, mu.fill_(torch.nan), t), output)


# Published sizes


def test_the_published_size() -> None:
    with torch.device("meta"):
        network = ConditionalNAFNet()
    count = sum(p.numel() for p in network.parameters())
    assert count / 1e6 == pytest.approx(76.6, abs=0.05)


VARIANTS: dict[str, dict[str, Any]] = {
    "deraining": {},
    "latent-dehazing": {"long_skip": True},
    "denoising-sde": {"conditional": False},
    "stereo-sr": {"stereo": True},
    "latent-bokeh": {"conditions": 3},
}
NAMED_OTHERWISE = {"time_mlp.0": "time_mlp.1", "time_mlp.2": "time_mlp.3"}
"""In the published bokeh network, which takes a sinusoid instead of a time; and a block's mlp is time_mlp."""


@pytest.mark.parametrize("task", VARIANTS)
def test_names_and_shapes_are_the_published_ones(task: str, golden_folder: Path) -> None:
    known = json.loads((golden_folder / "manifests.json").read_text())
    found = (one for one in known["networks"] if (one["task"], one["cls"]) == (task, "ConditionalNAFNet"))
    published = next(found)
    setting, shapes = published["setting"], known["shapes"][published["sha"]]
    with torch.device("meta"):
        network = ConditionalNAFNet(
            setting.get("img_channel", 3),
            setting["width"],
            setting["enc_blk_nums"],
            setting["middle_blk_num"],
            setting["dec_blk_nums"],
            **VARIANTS[task],
        )
    if task == "latent-bokeh":
        shapes = {renamed(name): shape for name, shape in shapes.items()}
    assert {name: list(value.shape) for name, value in network.state_dict().items()} == shapes


def renamed(name: str) -> str:
    """Our name for one of the published bokeh network."""
    module, kind = name.rsplit(".", 1)
    return f"{NAMED_OTHERWISE.get(module, module.replace('.time_mlp.', '.mlp.'))}.{kind}"


# Published numbers


def as_batch(time: "int | float | Tensor", x: Tensor) -> Tensor:
    return torch.as_tensor(time, dtype=torch.float32).reshape(-1).expand(len(x))


def test_published_outputs(network: ConditionalNAFNet, published: dict[str, Any]) -> None:
    assert len(published["cases"]) == 3
    for case in published["cases"]:
        x_t, mu, t = case["args"]
        output = network(x_t, mu, as_batch(t, x_t))
        assert case["output"].abs().max() > 0.1
        torch.testing.assert_close(output, case["output"], rtol=0, atol=1e-5, msg=case["note"])


def test_published_gradients(
    make_network: Callable[..., ConditionalNAFNet], published: dict[str, Any]
) -> None:
    case, network = published["train_case"], make_network().requires_grad_(True)
    x_t, mu, t = case["args"]
    loss = (network(x_t, mu, as_batch(t, x_t)) * case["out_weight"]).mean()
    loss.backward()
    assert loss.item() == pytest.approx(float(case["loss"]), rel=1e-5)
    gradients = {name: p.grad for name, p in network.named_parameters()}
    assert gradients.keys() == case["grad_norm"].keys()
    for name, norm in case["grad_norm"].items():
        gradient = gradients[name]
        assert gradient is not None, name
        assert float(gradient.norm()) == pytest.approx(norm, rel=1e-4), name
