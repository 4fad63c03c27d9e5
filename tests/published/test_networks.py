"""Published weights: every published network against its description, written down once more without ours.

The functions of the first part read a published state dict as the description of the published networks
says, one sentence after the other. They share no code with the package.
"""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from refusion import published
from refusion.diffusion.sampling import StepContext, euler_maruyama
from refusion.diffusion.schedule import SCHEDULES, make_alphas
from refusion.diffusion.sde import DenoisingSDE
from refusion.errors import CheckpointError
from refusion.nn.nafnet import ConditionalNAFNet
from refusion.nn.pooling import local_mean
from refusion.nn.unet import ConditionalUNet
from refusion.restoring.latent_unet import LatentUNet

State = dict[str, Tensor]
Pool = Callable[[Tensor, int], Tensor]


# ---- the published networks in plain words


def conv(p: State, name: str, x: Tensor, **how: Any) -> Tensor:
    return F.conv2d(x, p[f"{name}.weight"], p.get(f"{name}.bias"), **how)


def linear(p: State, name: str, x: Tensor) -> Tensor:
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def norm(p: State, name: str, x: Tensor) -> Tensor:
    mean, variance = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5) * p[f"{name}.g"]


def gate(x: Tensor) -> Tensor:
    half = x.shape[1] // 2
    return x[:, :half] * x[:, half:]


def sinusoid(t: Tensor, width: int) -> Tensor:
    f = [math.exp(-i * math.log(10000) / (width // 2 - 1)) for i in range(width // 2)]
    return torch.stack([torch.sin(t * k) for k in f] + [torch.cos(t * k) for k in f], dim=1)


def parts(values: Tensor, count: int) -> Iterator[Tensor]:
    size = values.shape[1] // count
    return (values[:, i * size : (i + 1) * size, None, None] for i in range(count))


def padded(x: Tensor, multiple: int, mode: str) -> Tensor:
    return F.pad(x, (0, -x.shape[-1] % multiple, 0, -x.shape[-2] % multiple), mode=mode)


def scam(p: State, name: str, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    c, height, width = left.shape[1:]
    taps = torch.tensor([-0.09375, 0.59375, 0.59375, -0.09375])  # of a cubic with a = -3/4, at 1/2 and 3/2

    def shrunk(x: Tensor) -> Tensor:
        blocks = x[..., : height // 4 * 4, : width // 4 * 4].reshape(-1, c, height // 4, 4, width // 4, 4)
        return torch.einsum("bcyixj,i,j->bcyx", blocks, taps, taps)

    small_l, small_r = shrunk(left), shrunk(right)
    q_l = conv(p, f"{name}.l_proj1", norm(p, f"{name}.norm_l", small_l))
    q_r = conv(p, f"{name}.r_proj1", norm(p, f"{name}.norm_r", small_r))
    v_l, v_r = conv(p, f"{name}.l_proj2", small_l), conv(p, f"{name}.r_proj2", small_r)
    to_left, to_right = torch.zeros_like(v_l), torch.zeros_like(v_r)
    for b in range(len(left)):
        for y in range(height // 4):
            scores = q_l[b, :, y].T @ q_r[b, :, y] / math.sqrt(c)
            to_left[b, :, y] = v_r[b, :, y] @ torch.softmax(scores, dim=1).T
            to_right[b, :, y] = v_l[b, :, y] @ torch.softmax(scores.T, dim=1).T
    rows = torch.arange(height) * (height // 4) // height
    columns = torch.arange(width) * (width // 4) // width
    to_left, to_right = (x[:, :, rows][..., columns] for x in (to_left, to_right))
    return left + p[f"{name}.beta"] * to_left, right + p[f"{name}.gamma"] * to_right


def naf_block(p: State, name: str, x: Tensor, time: Tensor, cam: Tensor | None, pool: Pool, i: int) -> Tensor:
    mlp = f"{name}.mlp.1" if cam is None else f"{name}.time_mlp.1"
    shift_att, scale_att, shift_ffn, scale_ffn = parts(linear(p, mlp, gate(time)), 4)
    a = norm(p, f"{name}.norm1", x) * (scale_att + 1) + shift_att
    a = conv(p, f"{name}.conv1", a)
    a = gate(conv(p, f"{name}.conv2", a, padding=1, groups=a.shape[1]))
    a = a * conv(p, f"{name}.sca.1", pool(a, i))
    y = x + p[f"{name}.beta"] * conv(p, f"{name}.conv3", a)
    f = norm(p, f"{name}.norm2", y) * (scale_ffn + 1) + shift_ffn
    f = gate(conv(p, f"{name}.conv4", f))
    if cam is not None:
        scale, shift = parts(linear(p, f"{name}.cam_mlp.1", gate(cam)), 2)
        f = f * (scale + 1) + shift
    y = y + p[f"{name}.gamma"] * conv(p, f"{name}.conv5", f)
    if f"{name}.fusion.beta" not in p:
        return y
    return torch.cat(scam(p, f"{name}.fusion", y[: len(y) // 2], y[len(y) // 2 :]))


def whole_mean(x: Tensor, _: int) -> Tensor:
    return x.mean((2, 3), keepdim=True)


def naf(
    p: State,
    x_t: Tensor,
    mu: Tensor | None,
    t: Tensor,
    lens: Tensor | None = None,
    long_skip: bool = False,
    pool: Pool = whole_mean,
) -> Tensor:
    stereo = x_t.shape[1] == 2 * p["ending.weight"].shape[0]
    x = x_t if mu is None else torch.cat([x_t - mu, mu], dim=1)
    if stereo and mu is not None:
        (x_l, x_r), (mu_l, mu_r) = (z.chunk(2, dim=1) for z in (x_t, mu))
        x = torch.cat([torch.cat([x_l - mu_l, mu_l], dim=1), torch.cat([x_r - mu_r, mu_r], dim=1)])
        t = torch.cat([t, t])
    width = p["intro.weight"].shape[0]
    first = 1 if lens is None else 0
    time = gate(linear(p, f"time_mlp.{first}", sinusoid(t, width)))
    time = linear(p, f"time_mlp.{first + 2}", time)
    cam = None
    if lens is not None:
        cam = torch.cat([sinusoid(lens[:, i], width) for i in range(3)], dim=1)
        cam = linear(p, "cam_mlp.2", gate(linear(p, "cam_mlp.0", cam)))
    levels = len({name.split(".")[1] for name in p if name.startswith("downs.")})

    def stage(name: str, x: Tensor, level: int) -> Tensor:
        for j in range(len({n.split(".")[name.count(".") + 1] for n in p if n.startswith(f"{name}.")})):
            x = naf_block(p, f"{name}.{j}", x, time, cam, pool, level)
        return x

    x = intro = conv(p, "intro", padded(x, 2**levels, "constant"), padding=1)
    skips = []
    for i in range(levels):
        x = stage(f"encoders.{i}", x, i)
        skips.append(x)
        x = conv(p, f"downs.{i}", x, stride=2)
    x = stage("middle_blks", x, levels)
    for i in range(levels):
        x = F.pixel_shuffle(conv(p, f"ups.{i}.0", x), 2) + skips[levels - 1 - i]
        x = stage(f"decoders.{i}", x, levels - 1 - i)
    x = conv(p, "ending", x + intro if long_skip else x, padding=1)[..., : x_t.shape[2], : x_t.shape[3]]
    return torch.cat(x.chunk(2), dim=1) if stereo else x


def box_mean(x: Tensor, window: tuple[int, int]) -> Tensor:
    """One window after another."""
    height, width = x.shape[-2:]
    if window[0] >= height and window[1] >= width:
        return x.mean((2, 3), keepdim=True)
    h, w = min(window[0], height), min(window[1], width)
    down, across = height - h + 1, width - w + 1
    means = torch.empty(*x.shape[:2], down, across)
    for i in range(down):
        for j in range(across):
            means[..., i, j] = x[..., i : i + h, j : j + w].mean((2, 3))
    top, left = (height - down) // 2, (width - across) // 2
    rows = [min(max(y - top, 0), down - 1) for y in range(height)]
    columns = [min(max(z - left, 0), across - 1) for z in range(width)]
    return means[:, :, rows][..., columns]


def boxes(train_size: tuple[int, ...], levels: int) -> Pool:
    """The pool of a network that was trained at that size."""

    def pool(x: Tensor, i: int) -> Tensor:
        window = []
        for side in train_size[-2:]:
            base, feature = math.floor(1.5 * side), math.ceil(side / 2**levels) * 2 ** (levels - i)
            window.append(feature * base // side)
        return box_mean(x, (window[0], window[1]))

    return pool


def res_block(p: State, name: str, x: Tensor, time: Tensor | None = None) -> Tensor:
    h = conv(p, f"{name}.block1.proj", x, padding=1)
    if time is not None:
        scale, shift = parts(linear(p, f"{name}.mlp.1", time * torch.sigmoid(time)), 2)
        h = h * (scale + 1) + shift
    h = conv(p, f"{name}.block2.proj", h * torch.sigmoid(h), padding=1)
    return h * torch.sigmoid(h) + (conv(p, f"{name}.res_conv", x) if f"{name}.res_conv.weight" in p else x)


def attention(p: State, name: str, x: Tensor) -> Tensor:
    b, _, height, width = x.shape
    qkv = conv(p, f"{name}.fn.fn.to_qkv", norm(p, f"{name}.fn.norm", x)).reshape(b, 3, 4, 32, height * width)
    q, k, v = qkv[:, 0], qkv[:, 1], qkv[:, 2]
    if f"{name}.fn.fn.to_out.weight" in p:
        weights = torch.softmax(torch.einsum("bhci,bhcj->bhij", q, k) / math.sqrt(32), dim=-1)
        out = torch.einsum("bhij,bhcj->bhci", weights, v).reshape(b, 128, height, width)
        return x + conv(p, f"{name}.fn.fn.to_out", out)
    q, k, v = torch.softmax(q, dim=2) / math.sqrt(32), torch.softmax(k, dim=3), v / (height * width)
    context = torch.einsum("bhci,bhdi->bhcd", k, v)
    out = torch.einsum("bhcd,bhci->bhdi", context, q).reshape(b, 128, height, width)
    return x + norm(p, f"{name}.fn.fn.to_out.1", conv(p, f"{name}.fn.fn.to_out.0", out))


def down(p: State, name: str, x: Tensor, last: bool) -> Tensor:
    return conv(p, name, x, padding=1) if last else conv(p, name, x, stride=2, padding=1)


def up(p: State, name: str, x: Tensor, last: bool) -> Tensor:
    if last:
        return conv(p, name, x, padding=1)
    return conv(p, f"{name}.1", x.repeat_interleave(2, 2).repeat_interleave(2, 3), padding=1)


def unet(p: State, x_t: Tensor, mu: Tensor | None, t: Tensor) -> Tensor:
    levels = len({name.split(".")[1] for name in p if name.startswith("downs.")})
    x = padded(x_t if mu is None else torch.cat([x_t - mu, mu], dim=1), 2**levels, "reflect")
    x = init = conv(p, "init_conv", x, padding=3)
    time = linear(p, "time_mlp.1", sinusoid(t, x.shape[1]))
    time = linear(p, "time_mlp.3", time / 2 * (1 + torch.erf(time / math.sqrt(2))))
    skips = []
    for i in range(levels):
        x = res_block(p, f"downs.{i}.0", x, time)
        skips.append(x)
        x = attention(p, f"downs.{i}.2", res_block(p, f"downs.{i}.1", x, time))
        skips.append(x)
        x = down(p, f"downs.{i}.3", x, i == levels - 1)
    x = attention(p, "mid_attn", res_block(p, "mid_block1", x, time))
    x = res_block(p, "mid_block2", x, time)
    for i in range(levels):
        x = res_block(p, f"ups.{i}.0", torch.cat([x, skips.pop()], dim=1), time)
        x = res_block(p, f"ups.{i}.1", torch.cat([x, skips.pop()], dim=1), time)
        x = up(p, f"ups.{i}.3", attention(p, f"ups.{i}.2", x), i == levels - 1)
    x = res_block(p, "final_res_block", torch.cat([x, init], dim=1), time)
    return conv(p, "final_conv", x, padding=1)[..., : x_t.shape[2], : x_t.shape[3]]


def encode(p: State, image: Tensor) -> tuple[Tensor, list[Tensor]]:
    levels = len({name.split(".")[1] for name in p if name.startswith("encoder.")})
    x = conv(p, "init_conv", padded(image, 2**levels, "reflect"), padding=1)
    h = [x]
    for i in range(levels):
        x = res_block(p, f"encoder.{i}.0", x)
        h.append(x)
        x = res_block(p, f"encoder.{i}.1", x)
        x = attention(p, f"encoder.{i}.2", x) if i == levels - 1 else x
        h.append(x)
        x = down(p, f"encoder.{i}.3", x, i == levels - 1)
    return conv(p, "latent_conv", x), h


def decode(p: State, latent: Tensor, h: list[Tensor], size: torch.Size) -> Tensor:
    levels, left = len({name.split(".")[1] for name in p if name.startswith("decoder.")}), list(h)
    x = conv(p, "post_latent_conv", latent)
    for i in range(levels):
        x = res_block(p, f"decoder.{i}.0", torch.cat([x, left.pop()], dim=1))
        x = res_block(p, f"decoder.{i}.1", torch.cat([x, left.pop()], dim=1))
        x = attention(p, f"decoder.{i}.2", x) if i == 0 else x
        x = up(p, f"decoder.{i}.3", x, i == levels - 1)
    return conv(p, "final_conv", x + h[0], padding=1)[..., : size[0], : size[1]]


# ---- equal numbers


NAF: dict[str, Any] = {"width": 8, "enc_blk_nums": [1, 2], "middle_blk_num": 2, "dec_blk_nums": [2, 1]}
LATENT: dict[str, Any] = {"in_ch": 3, "out_ch": 3, "ch": 4, "ch_mult": [2, 2, 3], "embed_dim": 5}


def weights(cls: str, settings: dict[str, Any], seed: int = 1) -> State:
    """Random tensors with which every part counts and nothing grows."""
    draw = torch.Generator().manual_seed(seed)
    made = {}
    for name, shape in published.shapes(cls, settings).items():
        x = torch.randn(shape, generator=draw)
        gain = 1 + 0.3 * x if name.endswith(".g") else 0.5 * x
        made[name] = x / math.sqrt(x[0].numel()) if name.endswith("weight") else gain
    return made


def fields(*shape: int) -> tuple[Tensor, Tensor]:
    x_t, mu = torch.randn(2, *shape, generator=torch.Generator().manual_seed(2))
    return x_t, mu


def assert_equal(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * max(1.0, float(theirs.abs().max())))


sizes = pytest.mark.parametrize("size", [(16, 24), (19, 29)])


@sizes
@pytest.mark.parametrize("task", ["deraining", "sisr", "latent-dehazing"])
@torch.inference_mode()
def test_nafnet(task: str, size: tuple[int, int]) -> None:
    """The long skip is the dehazing variant's only difference."""
    settings = {**NAF, "img_channel": 3 if task != "latent-dehazing" else 5, "task": task}
    p = weights("ConditionalNAFNet", settings)
    x_t, mu = fields(2, settings["img_channel"], *size)
    output = published.build("ConditionalNAFNet", settings, p)(x_t, mu, 37)
    t = torch.full((2,), 37.0)
    assert_equal(output, naf(p, x_t, mu, t, long_skip=task == "latent-dehazing"))
    assert (output - naf(p, x_t, mu, t, long_skip=task != "latent-dehazing")).abs().max() > 0.1


@pytest.mark.parametrize("t", [12, 12.0, torch.tensor(12), torch.tensor([12, 12])])
@torch.inference_mode()
def test_a_time_may_be_a_number_or_one_for_each_picture(t: float | Tensor) -> None:
    for cls, settings in (
        ("ConditionalNAFNet", {**NAF, "task": "deblurring"}),
        ("ConditionalUNet", {"in_nc": 3, "out_nc": 3, "nf": 4, "depth": 1, "task": "deblurring"}),
    ):
        network, (x_t, mu) = published.build(cls, settings, weights(cls, settings)), fields(2, 3, 8, 8)
        output = network(x_t, mu, t)
        assert torch.equal(output, network(x_t, mu, torch.full((2,), 12.0)))
        other = network(x_t, mu, torch.tensor([12, 50]))
        assert torch.allclose(other[0], output[0], atol=1e-5)
        assert (other[1] - output[1]).abs().max() > 1e-3


@sizes
@torch.inference_mode()
def test_denoising_nafnet(size: tuple[int, int]) -> None:
    settings = {**NAF, "task": "denoising-sde"}
    p, (x_t, _) = weights("ConditionalNAFNet", settings), fields(2, 3, *size)
    assert p["intro.weight"].shape[1] == 3
    t = torch.tensor([700, 3])
    assert_equal(published.build("ConditionalNAFNet", settings, p)(x_t, None, t), naf(p, x_t, None, t))


@pytest.mark.parametrize("train_size", [(1, 5, 16, 16), (1, 5, 11, 18), (4, 5, 3, 40), (1, 5, 200, 200)])
@sizes
@torch.inference_mode()
def test_local_nafnet(size: tuple[int, int], train_size: tuple[int, ...]) -> None:
    settings = {**NAF, "img_channel": 5, "train_size": train_size}
    p, (x_t, mu) = weights("CNAFNetLocal", settings), fields(2, 5, *size)
    output = published.build("CNAFNetLocal", settings, p)(x_t, mu, 3)
    t = torch.full((2,), 3.0)
    assert_equal(output, naf(p, x_t, mu, t, long_skip=True, pool=boxes(train_size, 2)))
    everywhere = naf(p, x_t, mu, t, long_skip=True)
    if all(1.5 * trained >= side for trained, side in zip(train_size[-2:], size, strict=True)):
        assert_equal(output, everywhere)
    else:
        assert (output - everywhere).abs().max() > 1e-2


@pytest.mark.parametrize("size", [(8, 8), (9, 14), (30, 7), (5, 40), (1, 1), (12, 13), (13, 12)])
@pytest.mark.parametrize("train_size", [(8, 8), (5, 10), (8, 6)])
def test_local_means_are_means_over_boxes(size: tuple[int, int], train_size: tuple[int, int]) -> None:
    for level in range(3):
        x = torch.randn(2, 4 * 2**level, *size)
        ours = local_mean(train_size, 4, 4)(x)
        assert_equal(ours, boxes(train_size, 2)(x, level))


@pytest.mark.parametrize("size", [(16, 32), (22, 37), (17, 60)])
@torch.inference_mode()
def test_stereo_nafnet(size: tuple[int, int]) -> None:
    settings = {**NAF, "task": "stereo-sr"}
    p, (x_t, mu) = weights("ConditionalNAFNet", settings), fields(2, 6, *size)
    t = torch.tensor([5, 80])
    network = published.build("ConditionalNAFNet", settings, p)
    output = network(x_t, mu, t)
    assert output.shape == x_t.shape
    assert_equal(output, naf(p, x_t, mu, t))
    without = {name: 0 * x if "fusion" in name else x for name, x in p.items()}
    assert (output - naf(without, x_t, mu, t)).abs().max() > 0.1


@sizes
@torch.inference_mode()
def test_bokeh_nafnet(size: tuple[int, int]) -> None:
    settings = {**NAF, "img_channel": 4, "task": "latent-bokeh"}
    p, (x_t, mu) = weights("ConditionalNAFNet", settings), fields(2, 4, *size)
    t, lens = torch.tensor([5, 80]), torch.tensor([[-14.0, 160.0, 42.0], [18.0, -28.0, 7.0]])
    network = published.build("ConditionalNAFNet", settings, p)
    output = network(x_t, mu, t, lens)
    assert_equal(output, naf(p, x_t, mu, t, lens))
    assert (network(x_t, mu, t, lens[:, [1, 0, 2]]) - output).abs().max() > 0.1


@sizes
@pytest.mark.parametrize(
    ("shape", "task"),
    [
        ({"depth": 2}, "deraining"),
        ({"depth": 3, "upscale": 1}, "sisr"),
        ({"ch_mult": [3, 1, 2]}, "latent-dehazing"),
        ({"depth": 2}, "denoising-sde"),
    ],
)
@torch.inference_mode()
def test_unet(size: tuple[int, int], shape: dict[str, Any], task: str) -> None:
    settings = {"in_nc": 3, "out_nc": 3, "nf": 8, **shape, "task": task}
    p, (x_t, mu), t = weights("ConditionalUNet", settings), fields(2, 3, *size), torch.tensor([37, 2])
    seen = None if task == "denoising-sde" else mu
    assert ("mid_attn.fn.fn.to_out.weight" in p) == (task == "denoising-sde")
    output = published.build("ConditionalUNet", settings, p)(x_t, seen, t)
    assert_equal(output, unet(p, x_t, seen, t))


@sizes
@torch.inference_mode()
def test_autoencoder(size: tuple[int, int]) -> None:
    p, (x, x2) = weights("UNet", LATENT), fields(2, 3, *size)
    codec = published.build("UNet", LATENT, p)
    assert isinstance(codec, published.Autoencoder)
    (latent, hidden), (latent2, h2) = codec.encode(x), encode(p, x2)
    theirs, h = encode(p, x)
    assert_equal(latent, theirs)
    for ours, other in zip(hidden, h, strict=True):
        assert_equal(ours, other)
    assert_equal(codec(x), decode(p, theirs, h, x.shape[2:]))
    assert_equal(codec.decode(latent2, hidden), decode(p, latent2, h, x.shape[2:]))
    assert_equal(codec.decode(latent2, h2), decode(p, latent2, h2, h2[0].shape[2:]))


def test_goldens(golden_folder: Path) -> None:
    """Numbers of the published classes: ours, and those of the description that ours are compared with."""
    for file, cls, direct in (
        ("naf_small", "ConditionalNAFNet", naf),
        ("cunet_small", "ConditionalUNet", unet),
    ):
        golden = torch.load(golden_folder / f"{file}.pt", weights_only=True)
        state = golden["state_dict"]
        network = published.build(cls, {**golden["init_kwargs"], "task": "deraining"}, state)
        for case in golden["cases"]:
            x_t, mu, t = case["args"]
            torch.testing.assert_close(network(x_t, mu, t), case["output"], rtol=0, atol=1e-6)
            times = torch.as_tensor(t, dtype=torch.float32).expand(len(x_t))
            torch.testing.assert_close(direct(state, x_t, mu, times), case["output"], rtol=0, atol=2e-6)


@pytest.mark.parametrize("case", range(3))
def test_golden_autoencoder(golden_folder: Path, case: int) -> None:
    golden = load_file(golden_folder / "latent_unet_small.safetensors")
    state = {name.removeprefix("state/"): x for name, x in golden.items() if name.startswith("state/")}
    codec = published.build("UNet", published.infer(state).settings, state)
    assert isinstance(codec, published.Autoencoder)
    x, recon, mixed = (golden[f"{case}/{name}"] for name in ("x", "recon", "decode_latent2_hidden1"))
    latent, hidden = codec.encode(x)
    torch.testing.assert_close(latent, golden[f"{case}/latent"], rtol=0, atol=1e-5)
    torch.testing.assert_close(codec(x), recon, rtol=0, atol=1e-5)
    again = codec.decode(golden[f"{case}/latent2"], hidden)
    torch.testing.assert_close(again, mixed, rtol=0, atol=1e-5)
    theirs, h = encode(state, x)
    torch.testing.assert_close(decode(state, theirs, h, x.shape[2:]), recon, rtol=0, atol=1e-5)


# ---- names, shapes, and what they tell


@pytest.fixture(scope="module")
def manifests(golden_folder: Path) -> dict[str, Any]:
    """Names, shapes and settings of all published networks; golden/README.md says more."""
    read: dict[str, Any] = json.loads((golden_folder / "manifests.json").read_text())
    return read


ENTRIES = range(37)


def empty(shapes: dict[str, Any]) -> State:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def test_no_manifest_is_left_out(manifests: dict[str, Any]) -> None:
    assert len(manifests["networks"]) == len(ENTRIES)


@pytest.mark.slow
@pytest.mark.parametrize("entry", ENTRIES)
def test_a_published_network_is_told_and_built(manifests: dict[str, Any], entry: int) -> None:
    network = manifests["networks"][entry]
    cls, task, shapes = network["cls"], network["task"], manifests["shapes"][network["sha"]]
    settings = {**network["setting"], "task": task}
    ours = published.shapes(cls, settings)
    assert list(ours.items()) == [(name, tuple(shape)) for name, shape in shapes.items()]
    built = published.build(cls, settings, empty(shapes))
    assert {parameter.device.type for parameter in built.parameters()} == {"meta"}

    inferred = published.infer(empty(shapes))
    assert inferred.cls == cls
    default = {"img_channel": 3} if cls == "ConditionalNAFNet" else {}
    assert inferred.settings == {**default, **network["setting"]}
    if cls == "UNet":
        assert inferred.facts == {}
        return
    facts, process = inferred.facts[task], network["sde"]
    if network["phase"] == "train" or not facts.unsure:
        assert facts.noise_level == pytest.approx(process["max_sigma"] / 255)
        assert facts.steps == process["T"]
    assert facts.schedule == process.get("schedule", "cosine")
    assert facts.delta == (0.04 if task == "denoising-sde" else process["eps"])
    assert facts.enlarge == (4 if task.endswith("sr") else 1)
    assert facts.long_skip == (task == "latent-dehazing")
    partners = [n["setting"] for n in manifests["networks"] if n["task"] == task and n["cls"] == "UNet"]
    assert facts.partner == (partners[0] if partners else None)


def test_tensors_tell_a_task_only_where_its_network_is_its_own(manifests: dict[str, Any]) -> None:
    inferred = {}
    for network in manifests["networks"]:
        cls, _, facts = published.infer(empty(manifests["shapes"][network["sha"]]))
        inferred[network["sha"], cls] = set(facts)
        if cls != "UNet":
            assert network["task"] in facts
    alone = {"stereo-sr", "latent-bokeh", "latent-dehazing", "denoising-sde"}
    pixels = {"deblurring", "deraining", "deshadow", "inpainting", "sisr"}
    assert {frozenset(tasks) for tasks in inferred.values() if tasks} == {
        frozenset(pixels),
        *(frozenset({task}) for task in alone),
    }


def test_the_wide_and_the_deep_network_of_deshadowing_differ_in_noise() -> None:
    levels = {}
    for shape in ({"nf": 32, "depth": 5}, {"nf": 64, "depth": 4}):
        settings = {"in_nc": 3, "out_nc": 3, **shape, "task": "deshadow"}
        facts = published.infer(empty(published.shapes("ConditionalUNet", settings))).facts
        levels[shape["depth"]] = round(255 * facts["deshadow"].noise_level)
        assert facts["deraining"].noise_level == 10 / 255
    assert levels == {5: 30, 4: 10}


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        ("ConditionalNAFNet", {**NAF, "img_channel": 3, "task": "deraining"}),
        ("ConditionalNAFNet", {**NAF, "img_channel": 3, "task": "stereo-sr"}),
        ("ConditionalNAFNet", {**NAF, "img_channel": 4, "task": "latent-bokeh"}),
        ("ConditionalNAFNet", {**NAF, "img_channel": 3, "task": "denoising-sde"}),
        ("ConditionalUNet", {"in_nc": 4, "out_nc": 4, "nf": 6, "ch_mult": [3, 1], "task": "latent-dehazing"}),
        ("ConditionalUNet", {"in_nc": 3, "out_nc": 3, "nf": 6, "depth": 3, "task": "denoising-sde"}),
        ("UNet", LATENT),
    ],
)
def test_networks_of_other_sizes_are_told_too(cls: str, settings: dict[str, Any]) -> None:
    inferred = published.infer(weights(cls, settings))
    assert inferred.cls == cls
    assert inferred.settings == {name: value for name, value in settings.items() if name != "task"}
    assert not inferred.facts or settings["task"] in inferred.facts


def test_our_class_and_its_arguments() -> None:
    settings = {**NAF, "img_channel": 4, "task": "latent-bokeh"}
    kind, arguments = published.from_published("ConditionalNAFNet", settings)
    assert kind is ConditionalNAFNet
    assert arguments["conditions"] == 3
    assert published.from_published("UNet", LATENT)[0] is LatentUNet
    shape = {"in_nc": 3, "out_nc": 3, "nf": 4, "depth": 2, "task": "deraining"}
    assert published.from_published("ConditionalUNet", shape)[0] is ConditionalUNet
    local = published.from_published("CNAFNetLocal", {**NAF, "train_size": (1, 3, 64, 64)})
    shape = {"channels": 3, "conditions": 0, "long_skip": True, "local": (64, 64)}
    assert local == (ConditionalNAFNet, {**arguments, **shape})


def test_weights_of_half_precision_become_single() -> None:
    settings = {**NAF, "task": "deraining"}
    p = {name: x.half() for name, x in weights("ConditionalNAFNet", settings).items()}
    network = published.build("ConditionalNAFNet", settings, p)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


# ---- what does not fit


def test_the_first_tensor_that_does_not_fit_is_named_with_both_shapes() -> None:
    settings = {**NAF, "task": "deraining"}
    p = weights("ConditionalNAFNet", settings)
    p["norm.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r"norm.weight is \(1,\), .* has no such tensor"):
        published.build("ConditionalNAFNet", settings, p)
    p["middle_blks.1.conv5.weight"] = torch.zeros(4, 4)
    with pytest.raises(CheckpointError, match=r"middle_blks.1.conv5.weight is \(4, 4\), .*\(32, 32, 1, 1\)"):
        published.build("ConditionalNAFNet", settings, p)
    del p["decoders.0.1.norm2.g"]  # published decoders come before the middle
    with pytest.raises(CheckpointError, match=r"decoders.0.1.norm2.g is no such tensor, .*\(1, 16, 1, 1\)"):
        published.build("ConditionalNAFNet", settings, p)
    p = weights("ConditionalNAFNet", {**settings, "task": "denoising-sde"})
    with pytest.raises(CheckpointError, match=r"intro.weight is \(8, 3, 3, 3\), .*\(8, 6, 3, 3\)"):
        published.build("ConditionalNAFNet", settings, p)


@pytest.mark.parametrize(
    ("cls", "settings", "expected"),
    [
        ("ConditionalNAFnet", {}, "class ConditionalNAFnet, did you mean ConditionalNAFNet"),
        ("ConditionalNAFNet", NAF, "the setting task is missing"),
        ("ConditionalNAFNet", {**NAF, "task": "derain"}, "task derain, did you mean deraining"),
        ("CNAFNetLocal", NAF, "the setting train_size is missing"),
        ("ConditionalUNet", {"in_nc": 3, "nf": 8, "task": "sisr"}, "the setting depth is missing"),
        ("ConditionalUNet", {"in_nc": 3, "nf": 8, "depth": 60, "task": "sisr"}, "multipliers"),
        ("UNet", {**LATENT, "ch": 0}, "width 0"),
        ("UNet", {**LATENT, "ch": 10**12}, "UNet: "),
        ("UNet", {**LATENT, "ch": "8"}, "UNet: "),
    ],
)
def test_settings_that_are_wrong_are_errors(cls: str, settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(CheckpointError, match=expected):
        published.build(cls, settings, {})


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        ("ConditionalNAFNet", "ending.weight"),
        ("ConditionalUNet", "downs.1.3.weight"),
        ("UNet", "init_conv.weight"),
    ],
)
def test_what_cannot_be_told_is_an_error(cls: str, name: str) -> None:
    settings = {**NAF, **LATENT, "in_nc": 3, "nf": 8, "depth": 2, "task": "deraining"}
    p = weights(cls, settings)
    with pytest.raises(CheckpointError, match=rf"{name} is \(2, 2\)"):
        published.infer({**p, name: torch.zeros(2, 2)})
    del p[name]
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        published.infer(p)


def test_other_weights_are_not_told() -> None:
    for other in ({}, {"conv.weight": torch.zeros(3, 3, 3, 3)}):
        with pytest.raises(CheckpointError, match=r"init_conv.weight is missing; these are not the weights"):
            published.infer(other)


# ---- files


@pytest.fixture(scope="module")
def plain() -> State:
    return weights("UNet", LATENT)


def named(prefix: str, state: State) -> State:
    return {prefix + name: x for name, x in state.items()}


def assert_same(one: State, other: State) -> None:
    assert list(one) == list(other)
    assert all(torch.equal(one[name], x) for name, x in other.items())


WRAPPED: dict[str, tuple[Callable[[State], Any], str]] = {
    "plain": (lambda p: p, "a state dict"),
    "params": (lambda p: {"params": p}, "params"),
    "averaged first": (
        lambda p: {"params": {"init_conv.weight": torch.zeros(1)}, "params_ema": p},
        "params_ema",
    ),
    "model of a run": (lambda p: {"step": 3, "model": p, "optimizer": {"state": {}}}, "model"),
    "twice": (lambda p: {"ema": {"state_dict": p}, "epoch": 1.5}, "ema, state_dict"),
    "parallel": (lambda p: {"state_dict": named("module.", p)}, "state_dict, module."),
    "several prefixes": (lambda p: named("module.model.", p), "module.model."),
    "average": (
        lambda p: {"initted": torch.tensor(True), "step": torch.tensor(7), **named("ema_model.", p)},
        "ema_model., without 2 others",
    ),
    "average beside": (
        lambda p: {**named("online_model.", {n: 0 * x for n, x in p.items()}), **named("ema_model.", p)},
        "ema_model., without 67 others",
    ),
}


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("legacy", [False, True])
def test_weights_are_found_in_what_wraps_them(tmp_path: Path, plain: State, name: str, legacy: bool) -> None:
    wrap, what = WRAPPED[name]
    what = what.replace("67", str(len(plain)))
    content = wrap(plain)
    for found in (published.unwrap(content), _saved(tmp_path / "weights.pth", content, legacy)):
        assert_same(found.tensors, plain)
        assert found.what == what
        tensors, said = found
        assert tensors is found.tensors
        assert said == what


def _saved(path: Path, content: Any, legacy: bool) -> published.Weights:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return published.read(path)


def test_parameters_become_tensors(plain: State) -> None:
    found = published.unwrap({name: torch.nn.Parameter(x) for name, x in plain.items()})
    assert not any(x.requires_grad for x in found.tensors.values())


def test_safetensors(tmp_path: Path, plain: State) -> None:
    for name in ("weights.safetensors", "weights.pth"):
        save_file(named("module.", plain), tmp_path / name)
        found = published.read(tmp_path / name)
        assert {n: x.shape for n, x in found.tensors.items()} == {n: x.shape for n, x in plain.items()}
        assert all(torch.equal(found.tensors[n], x) for n, x in plain.items())
        assert found.what == "module."


class Thing:
    """What a file of weights should not hold."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("opened").touch, ())


LOOP: dict[str, Any] = {}
LOOP["model"] = LOOP


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "a NoneType instead of tensors by name"),
        ({}, "a dict instead of tensors by name"),
        ([torch.zeros(1)], "a list instead of tensors by name"),
        ({3: torch.zeros(1)}, "a dict instead of tensors by name"),
        ({"model": {}}, "a dict instead of tensors by name"),
        (LOOP, "wrapped too often"),
        (
            {"conv.weight": torch.zeros(1)},
            "no published network: neither intro.weight nor .*, but conv.weight",
        ),
        ({"init_conv.weight": torch.zeros(1), "epoch": 3}, "epoch is no tensor"),
        (
            {"init_conv.weight": torch.zeros(1, dtype=torch.int64)},
            "init_conv.weight is no tensor of floating",
        ),
        (
            {"init_conv.weight": torch.zeros(2, 2).to_sparse()},
            "(is no tensor of floating|holds a tensor that is not dense)",
        ),
        ({"init_conv.weight": torch.tensor([1.0, math.nan])}, "init_conv.weight holds NaN"),
        (
            {"g.intro.weight": torch.zeros(1), "l.init_conv.weight": torch.zeros(1)},
            r"several networks under the prefixes 'g\.', 'l\.'",
        ),
    ],
)
def test_other_contents_are_errors(tmp_path: Path, content: Any, expected: str) -> None:
    with pytest.raises(CheckpointError, match=expected):
        published.unwrap(content)
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=f"weights.pth: .*{expected}"):
        published.read(tmp_path / "weights.pth")


def test_objects_are_not_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: State) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": plain, "thing": Thing()}, "weights.pth")
    with pytest.raises(CheckpointError, match=r"weights.pth: runs getattr, so it was not opened"):
        published.read("weights.pth")
    assert not Path("opened").exists()


def test_damaged_files_are_errors(tmp_path: Path, plain: State) -> None:
    torch.save(plain, tmp_path / "new.pth")
    torch.save(plain, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(plain, tmp_path / "safe.safetensors")
    for file in list(tmp_path.iterdir()):
        whole = file.read_bytes()
        for kept in (0, 1, 9, 100, len(whole) // 2, len(whole) - 1):
            file.write_bytes(whole[:kept])
            with pytest.raises(CheckpointError, match=f"{file.name}: damaged"):
                published.read(file)
    (tmp_path / "text").write_text("no weights at all")
    with pytest.raises(CheckpointError, match="text: damaged"):
        published.read(tmp_path / "text")
    for nothing in (tmp_path / "missing", tmp_path):
        with pytest.raises(CheckpointError, match="give a file of weights"):
            published.read(nothing)


# ---- the denoising SDE


LEVEL = 70 / 255


@pytest.mark.parametrize("total", [100, 1000])
@pytest.mark.parametrize("name", SCHEDULES)
def test_denoising_sde(name: str, total: int) -> None:
    """Its formulas, each from the tables of the literature."""
    i = torch.arange(total + 1, dtype=torch.float64)
    f = (
        torch.cos((torch.arange(total + 2, dtype=torch.float64) / (total + 2) + 0.008) / 1.008 * math.pi / 2)
        ** 2
    )
    thetas = {
        "constant": torch.ones_like(i),
        "linear": 1000 / (total + 1) * torch.linspace(1e-4, 0.02, total + 1, dtype=torch.float64),
        "cosine": 1 - f[1:] / f[0],
    }[name]
    cumsum = thetas.cumsum(0) - thetas[0]
    dt = -math.log(0.04) / cumsum[-1]
    sigmas, bars = LEVEL * torch.sqrt(2 * thetas), LEVEL * torch.sqrt(1 - torch.exp(-2 * cumsum * dt))

    sde = DenoisingSDE(make_alphas(SCHEDULES[name](i), 0.04), LEVEL)
    x0, x, eps, z = torch.rand(4, 1, 3, 4, 5, dtype=torch.float64)
    mu = torch.rand_like(x)  # of which nothing depends
    for t in (1, 2, total // 2, total):
        torch.testing.assert_close(sde.perturb(x0, mu, t, eps), x0 + bars[t] * eps)
        clean = x - bars[t] * eps
        torch.testing.assert_close(sde.clean_from_noise(x, eps, mu, t), clean)
        a, score = torch.exp(-2 * cumsum[t] * dt), -eps / bars[t]
        step = StepContext(sde, mu, x, t, t - 1, [(t, clean)], lambda: z)
        drift = x + sigmas[t] ** 2 / 2 * (1 + a) * score * dt
        torch.testing.assert_close(euler_maruyama()(step), drift - sigmas[t] * torch.sqrt(dt) * z)
        ode = x + sigmas[t] ** 2 / 2 * a * score * dt
        torch.testing.assert_close(euler_maruyama(stochastic=False)(step), ode)
        before, now = torch.exp(-2 * cumsum[t - 1] * dt), torch.exp(-2 * cumsum[t] * dt)
        best = x0 + torch.exp(-thetas[t] * dt) * (1 - before) / (1 - now) * (x - x0)
        torch.testing.assert_close(sde.posterior_mean(x, x0, mu, t, t - 1), best)
    for grey in (5, 15, 25, 50, 65):
        wanted = -math.log(1 - (grey / 255 / LEVEL) ** 2 + 1e-6) / (2 * dt)
        assert sde.initial_time(grey / 255) == max(1, int((cumsum - wanted).abs().argmin()))
