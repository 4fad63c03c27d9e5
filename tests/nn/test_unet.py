"""The network of IR-SDE: what it must leave unchanged, then the published network's numbers."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refusion.nn.layers import LayerNorm, ResBlock
from refusion.nn.network import Network
from refusion.nn.unet import Attention, ConditionalUNet

SHAPES: dict[str, dict[str, Any]] = {
    "published": {"width": 8, "multipliers": (2, 4)},
    "other multipliers": {"channels": 4, "width": 4, "multipliers": (3, 1, 2)},
    "one level": {"width": 4, "multipliers": (1,)},
    "denoiser": {"width": 4, "multipliers": (2, 4), "conditional": False, "softmax": True},
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


def alive(**shape: Any) -> ConditionalUNet:
    torch.manual_seed(4)
    return ConditionalUNet(**shape).requires_grad_(False).eval()


def inputs(shape: dict[str, Any], size: tuple[int, int] = (12, 20), batch: int = 2) -> tuple[Tensor, ...]:
    x_t, mu = torch.rand(2, batch, shape.get("channels", 3), *size)
    return x_t, mu, torch.randint(1, 101, (batch,)).float()


# ---- laws


@shapes
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (7, 8), (13, 10)])
def test_any_size_is_reflected_on_the_right_and_at_the_bottom_and_cropped(
    shape: dict[str, Any], size: tuple[int, int]
) -> None:
    network, (x_t, mu, t) = alive(**shape), inputs(shape, size)
    output = network(x_t, mu, t)
    assert output.shape == x_t.shape
    assert output.isfinite().all()
    missing = [-side % 2 ** len(shape["multipliers"]) for side in size]
    if all(more < side for more, side in zip(missing, size, strict=True)):  # else torch reflects no more
        padded = [F.pad(x, (0, missing[1], 0, missing[0]), mode="reflect") for x in (x_t, mu)]
        expected = network(*padded, t)[..., : size[0], : size[1]]
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)


@shapes
def test_the_time_and_the_pictures_matter(shape: dict[str, Any]) -> None:
    network, (x_t, mu, t) = alive(**shape), inputs(shape)
    output = network(x_t, mu, t)
    for other in (network(x_t, mu, t + 1), network(x_t + 0.1, mu, t)):
        assert (other - output).abs().max() > 1e-5
    moved = (network(x_t, mu + 0.1, t) - output).abs().max()
    assert moved > 1e-5 if shape.get("conditional", True) else moved == 0


def test_the_first_convolution_sees_the_residual_then_the_degraded_picture() -> None:
    shape = SHAPES["published"]
    network, (x_t, mu, t), seen = alive(**shape), inputs(shape), list[Tensor]()
    network.init_conv.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    network(x_t, mu, t)
    assert torch.equal(seen[0], torch.cat([x_t - mu, mu], dim=1))


@shapes
def test_an_embedding_given_is_the_time_given(shape: dict[str, Any]) -> None:
    network, (x_t, mu, t) = alive(**shape), inputs(shape)
    output = network(x_t, mu, t)
    assert torch.equal(network(x_t, mu, t, network.embed(t)), output)
    assert torch.equal(network(x_t, mu, t + 30, network.embed(t)), output)


@shapes
def test_a_batch_of_several_times_equals_each_alone(shape: dict[str, Any]) -> None:
    network, (x_t, mu, _) = alive(**shape), inputs(shape, batch=3)
    t = torch.tensor([1.0, 100.0, 37.0])
    together = network(x_t, mu, t)
    for i in range(3):
        one = slice(i, i + 1)
        torch.testing.assert_close(together[one], network(x_t[one], mu[one], t[one]), rtol=0, atol=1e-5)


def test_every_parameter_learns() -> None:
    for shape in SHAPES.values():
        network, (x_t, mu, t) = alive(**shape).requires_grad_(True), inputs(shape)
        network(x_t, mu, t).square().mean().backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.count_nonzero() > 0, name


def test_memory_format_changes_speed_only() -> None:
    shape = SHAPES["published"]
    network, (x_t, mu, t) = alive(**shape), inputs(shape)
    last = [x.to(memory_format=torch.channels_last) for x in (x_t, mu)]
    torch.testing.assert_close(network(*last, t), network(x_t, mu, t), rtol=0, atol=1e-5)


def test_autocast_to_bfloat16_stays_in_it_and_close() -> None:
    for shape in SHAPES.values():
        network, (x_t, mu, t) = alive(**shape), inputs(shape, (16, 16))
        exact = network(x_t, mu, t)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = network(x_t, mu, t)
        assert half.dtype == torch.bfloat16
        assert 0 < (half.float() - exact).abs().max() < 0.05 * exact.abs().max()


def test_attention_is_that_of_every_position_to_every_position() -> None:
    attention = Attention(6).requires_grad_(False)
    x = torch.randn(2, 6, 3, 4)
    qkv = torch.einsum("oc,bcn->bon", attention.to_qkv.weight[:, :, 0, 0], x.flatten(2))
    q, k, v = (qkv[:, part : part + 128] for part in (0, 128, 256))
    heads = []
    for head in range(4):
        own = slice(32 * head, 32 * head + 32)
        weights = torch.softmax(torch.einsum("bci,bcj->bij", q[:, own], k[:, own]) / math.sqrt(32), dim=2)
        heads.append(torch.einsum("bij,bcj->bci", weights, v[:, own]))
    out = torch.einsum("oc,bcn->bon", attention.to_out.weight[:, :, 0, 0], torch.cat(heads, dim=1))
    expected = (out + attention.to_out.bias[:, None]).reshape(x.shape)
    torch.testing.assert_close(attention(x), expected, rtol=0, atol=1e-5)


def test_a_block_without_a_time_is_one_whose_time_says_nothing() -> None:
    timed = ResBlock(4, 6, time_width=8).requires_grad_(False)
    plain = ResBlock(4, 6)
    assert plain.state_dict().keys() == {name for name in timed.state_dict() if "mlp" not in name}
    plain.load_state_dict({name: x for name, x in timed.state_dict().items() if "mlp" not in name})
    x = torch.randn(2, 4, 5, 6)
    assert torch.equal(timed(x, torch.zeros(2, 12, 1, 1)), plain(x))
    scaled = F.silu(3 * timed.block1.proj(x) - 1)
    modulation = torch.cat([torch.full((2, 6, 1, 1), 2.0), torch.full((2, 6, 1, 1), -1.0)], dim=1)
    torch.testing.assert_close(
        timed(x, modulation), timed.block2(scaled) + timed.res_conv(x), rtol=0, atol=1e-5
    )


def test_it_is_a_network_that_cannot_be_tiled() -> None:
    network = alive(**SHAPES["published"])
    assert isinstance(network, Network)
    assert network.reach is None


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"multipliers": ()}, r"multipliers is \(\): give 1 to 8"),
        ({"multipliers": (2, 0)}, "each at least 1"),
        ({"multipliers": (1,) * 9}, "give 1 to 8"),
        ({"width": 3}, "width is 3"),
    ],
)
def test_wrong_sizes_are_errors(wrong: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        ConditionalUNet(**wrong)


# ---- published numbers


@pytest.fixture(scope="module")
def golden(golden_folder: Path) -> dict[str, Any]:
    """Of the published class; golden/README.md names them."""
    saved: dict[str, Any] = torch.load(golden_folder / "cunet_small.pt", weights_only=True)
    return saved


@pytest.fixture
def published(golden: dict[str, Any]) -> ConditionalUNet:
    network = ConditionalUNet(**SHAPES["published"])
    network.load_state_dict(golden["state_dict"], strict=True)
    return network


def as_batch(t: float | Tensor, like: Tensor) -> Tensor:
    return torch.as_tensor(t, dtype=torch.float32).expand(len(like))


def test_published_names_in_their_order(golden: dict[str, Any], published: ConditionalUNet) -> None:
    assert list(published.state_dict()) == list(golden["state_dict"])


@pytest.mark.parametrize("case", range(3))
def test_published_outputs(golden: dict[str, Any], published: ConditionalUNet, case: int) -> None:
    x_t, mu, t = golden["cases"][case]["args"]
    output = published(x_t, mu, as_batch(t, x_t))
    torch.testing.assert_close(output, golden["cases"][case]["output"], rtol=0, atol=1e-6)


def test_published_gradients(golden: dict[str, Any], published: ConditionalUNet) -> None:
    case = golden["train_case"]
    x_t, mu, t = case["args"]
    loss = (published(x_t, mu, as_batch(t, x_t)) * case["out_weight"]).mean()
    loss.backward()
    assert loss.item() == pytest.approx(float(case["loss"]), rel=1e-5)
    gradients = {name: p.grad for name, p in published.named_parameters()}
    assert gradients.keys() == case["grad_norm"].keys()
    for name, norm in case["grad_norm"].items():
        gradient = gradients[name]
        assert gradient is not None, name
        assert float(gradient.norm()) == pytest.approx(norm, rel=1e-4), name


@pytest.mark.parametrize("part", ["init_conv", "time_mlp", "downs", "ups", "mid_block1", "mid_attn"])
def test_published_numbers_need_every_part(
    golden: dict[str, Any], published: ConditionalUNet, part: str
) -> None:
    """The random weights are small; this says that the outputs above could tell."""
    x_t, mu, t = golden["cases"][0]["args"]
    before = published(x_t, mu, as_batch(t, x_t))
    for parameter in published.get_submodule(part).parameters():
        nn.init.normal_(parameter)
    assert (published(x_t, mu, as_batch(t, x_t)) - before).abs().max() > 1e-4


def test_norms_are_of_single_precision() -> None:
    norms = [module for module in alive(width=4, multipliers=(2,)).modules() if isinstance(module, LayerNorm)]
    assert {norm.eps for norm in norms} == {1e-5}
