"""LPIPS, DISTS and FID with random weights under the published names, against their formulas written out."""

import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from refusion.errors import CheckpointError
from refusion.evaluation import perceptual
from refusion.evaluation.inception import Inception
from refusion.evaluation.perceptual import METRICS, frechet, load

Tensors = dict[str, Tensor]

ALEXNET = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
"""Convolutions of torchvision's alexnet, by number."""
VGG16 = {
    **{0: (64, 3, 3), 2: (64, 64, 3), 5: (128, 64, 3), 7: (128, 128, 3), 10: (256, 128, 3)},
    **{12: (256, 256, 3), 14: (256, 256, 3), 17: (512, 256, 3), 19: (512, 512, 3), 21: (512, 512, 3)},
    **{24: (512, 512, 3), 26: (512, 512, 3), 28: (512, 512, 3)},
}


def backbone(layers: dict[int, tuple[int, int, int]]) -> Tensors:
    """Weights that keep the size of what they pass on."""
    made = {}
    for i, (out, channels, side) in layers.items():
        spread = (2 / (channels * side**2)) ** 0.5
        made[f"features.{i}.weight"] = spread * torch.randn(out, channels, side, side)
        made[f"features.{i}.bias"] = 0.1 * torch.randn(out)
    return made


def heads(*widths: int) -> Tensors:
    return {f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1) for i, width in enumerate(widths)}


@pytest.fixture(scope="module")
def alex() -> Tensors:
    torch.manual_seed(1)
    return backbone(ALEXNET) | heads(64, 192, 384, 256, 256)


@pytest.fixture(scope="module")
def vgg() -> Tensors:
    """With the heads of LPIPS and the weights of DISTS."""
    torch.manual_seed(2)
    mixed = {name: torch.rand(1, 1475, 1, 1) for name in ("alpha", "beta")}
    return backbone(VGG16) | heads(64, 128, 256, 512, 512) | mixed


def filled(name: str, weights: Tensors) -> nn.Module:
    """A metric of given weights, without a file."""
    with torch.device("meta"):
        module = METRICS[name].build()
    module.load_state_dict({key: weights[key] for key in module.state_dict()}, strict=False, assign=True)
    return module.eval().requires_grad_(False)


def two(height: int = 32, width: int = 35) -> tuple[Tensor, Tensor]:
    a = torch.rand(2, 3, height, width)
    return a, (a + 0.2 * torch.randn_like(a)).clamp(0, 1)


# ---- the formulas, straightforwardly


def alex_maps(x: Tensor, w: Tensors) -> Iterator[Tensor]:
    settings = {0: (4, 2, False), 3: (1, 2, True), 6: (1, 1, True), 8: (1, 1, False), 10: (1, 1, False)}
    for i, (stride, padding, pooled) in settings.items():
        x = F.max_pool2d(x, 3, 2) if pooled else x
        x = F.conv2d(x, w[f"features.{i}.weight"], w[f"features.{i}.bias"], stride, padding).clamp(min=0)
        yield x


def vgg_maps(x: Tensor, w: Tensors, pool: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
    for stage in ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)):
        x = pool(x) if stage[0] else x
        for i in stage:
            x = F.conv2d(x, w[f"features.{i}.weight"], w[f"features.{i}.bias"], padding=1).clamp(min=0)
        yield x


def max_pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 2)


def l2_pool(x: Tensor) -> Tensor:
    """Padded by hand, and the window summed term by term."""
    height, width = ((side + 1) // 2 for side in x.shape[-2:])
    squares, total = F.pad(x**2, (1, 2, 1, 2)), torch.zeros(())
    for i, u in enumerate((1, 2, 1)):
        for j, v in enumerate((1, 2, 1)):
            total = total + u * v / 16 * squares[..., i : i + 2 * height : 2, j : j + 2 * width : 2]
    return (total + 1e-12).sqrt()


def lpips(maps: Callable[[Tensor], Iterator[Tensor]], w: Tensors, a: Tensor, b: Tensor) -> Tensor:
    """With the constants of LPIPS, for pictures in [-1, 1]."""
    shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    total = torch.zeros(len(a))
    for i, (x, y) in enumerate(zip(*(maps((2 * z - 1 - shift) / scale) for z in (a, b)), strict=True)):
        x, y = (z / z.square().sum(1, keepdim=True).sqrt().clamp(min=1e-10) for z in (x, y))
        total += (w[f"lin{i}.model.1.weight"] * (x - y).square()).sum(1).mean((1, 2))
    return total


def dists(w: Tensors, a: Tensor, b: Tensor) -> Tensor:
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    maps = [[z, *vgg_maps((z - mean) / std, w, l2_pool)] for z in (a.double(), b.double())]
    similar, first = torch.zeros(len(a)), 0
    for x, y in zip(*maps, strict=True):
        alpha, beta = (w[name][0, first : first + x.shape[1], 0, 0] for name in ("alpha", "beta"))
        first += x.shape[1]
        m_x, m_y, v_x, v_y = x.mean((2, 3)), y.mean((2, 3)), x.var((2, 3), False), y.var((2, 3), False)
        cov = (x * y).mean((2, 3)) - m_x * m_y
        similar = similar + (alpha * (2 * m_x * m_y + 1e-6) / (m_x**2 + m_y**2 + 1e-6)).sum(1)
        similar = similar + (beta * (2 * cov + 1e-6) / (v_x + v_y + 1e-6)).sum(1)
    return 1 - similar / (w["alpha"].sum() + w["beta"].sum())


def test_lpips_with_alexnet_is_its_formula(alex: Tensors) -> None:
    a, b = two()
    expected = lpips(lambda x: alex_maps(x, alex), alex, a, b)
    torch.testing.assert_close(filled("lpips-alex", alex)(a, b), expected, rtol=1e-4, atol=0)
    assert (expected > 0.01).all()


def test_lpips_with_vgg_is_its_formula(vgg: Tensors) -> None:
    a, b = two()
    expected = lpips(lambda x: vgg_maps(x, vgg, max_pool), vgg, a, b)
    torch.testing.assert_close(filled("lpips-vgg", vgg)(a, b), expected, rtol=1e-4, atol=0)


def test_dists_is_its_formula(vgg: Tensors) -> None:
    a, b = two(20, 17)
    expected = dists({name: value.double() for name, value in vgg.items()}, a, b)
    torch.testing.assert_close(filled("dists", vgg)(a, b).double(), expected, rtol=1e-4, atol=1e-6)
    assert (expected > 1e-3).all()


@pytest.mark.parametrize("name", ["lpips-alex", "lpips-vgg", "dists"])
def test_a_distance_is_symmetric_and_nothing_for_equal_pictures(
    name: str, alex: Tensors, vgg: Tensors
) -> None:
    metric = filled(name, alex if name == "lpips-alex" else vgg)
    a, b = (z[:1] for z in (two(31, 31) if name == "lpips-alex" else two(16, 17)))
    torch.testing.assert_close(metric(a, b), metric(b, a), rtol=1e-5, atol=1e-7)
    assert (metric(a, a) == 0).all()
    near = metric(a, a + 0.1 * (b - a))
    assert (near < metric(a, b)).all()


@pytest.mark.parametrize(("name", "smallest"), [("lpips-alex", 31), ("lpips-vgg", 16)])
def test_pictures_too_small_for_the_layers_are_an_error(
    name: str, smallest: int, alex: Tensors, vgg: Tensors
) -> None:
    metric = filled(name, alex if name == "lpips-alex" else vgg)
    a, b = two(smallest, smallest + 3)
    assert metric(a, b).shape == (2,)
    with pytest.raises(ValueError, match=f"{smallest + 3}x{smallest - 1} is too small: .* {smallest} pixels"):
        metric(a[:, :, :-1], b[:, :, :-1])


# ---- FID


def gaussian(mean: Tensor, root: Tensor, count: int) -> Tensor:
    """A set with exactly this mean, and the covariance root^T root."""
    z = torch.randn(count, len(mean), dtype=torch.float64)
    white = torch.linalg.qr(z - z.mean(0)).Q * (count - 1) ** 0.5
    return mean + white @ root


def test_frechet_is_the_closed_form_of_gaussians() -> None:
    """Where covariances commute: |m_a - m_b|^2 and the squared differences of the deviations."""
    m_a, m_b, s_a, s_b = torch.rand(4, 6, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    a, b = (gaussian(m, torch.diag(s) @ turn, 50) for m, s in ((m_a, s_a), (m_b, s_b)))
    expected = (m_a - m_b).square().sum() + (s_a - s_b).square().sum()
    assert frechet(a, b) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("count", [4, 40])
def test_frechet_is_its_formula_also_of_few(count: int) -> None:
    """By the root of the product of the covariances, whose eigenvalues are real and not negative."""
    a, b = torch.randn(2, count, 8, dtype=torch.float64)
    b = 2 * b + 1
    root = torch.linalg.eigvals(torch.cov(a.T) @ torch.cov(b.T)).real.clamp(min=0).sqrt().sum()
    expected = (
        (a.mean(0) - b.mean(0)).square().sum() + torch.cov(a.T).trace() + torch.cov(b.T).trace() - 2 * root
    )
    assert frechet(a, b) == pytest.approx(float(expected), rel=1e-6)


def test_frechet_of_a_set_to_itself_is_nothing_and_of_one_an_error() -> None:
    a, b = torch.randn(2, 9, 2048)
    assert frechet(a, a.flip(0)) == pytest.approx(0, abs=1e-8)
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-9)
    with pytest.raises(ValueError, match="FID of 1 picture"):
        frechet(a[:1], b)


@pytest.fixture(scope="module")
def inception() -> Inception:
    """With pictures of 107 pixels, so that the last map is still one of 2 x 2."""
    torch.manual_seed(3)
    with torch.device("meta"):
        module = Inception(side=107)
    module = module.to_empty(device="cpu").eval().requires_grad_(False)
    for name, value in module.state_dict().items():
        if value.ndim == 4:
            value.normal_(0, (2 / value[0].numel()) ** 0.5)
        else:
            value.uniform_(*((0.8, 1.2) if name.endswith(("weight", "var")) else (-0.1, 0.1)))
    return module


def straight_inception(x: Tensor, w: Tensors) -> Tensor:
    """Block after block as Szegedy et al. draw them (torchvision's names)."""

    def unit(x: Tensor, name: str, padding: tuple[int, int] = (0, 0), stride: int = 1) -> Tensor:
        x = F.conv2d(x, w[f"{name}.conv.weight"], None, stride, padding)
        mean, var, gain, bias = (
            w[f"{name}.bn.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (var + 1e-3).sqrt() * gain + bias).clamp(min=0)

    def mean_pool(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 3, 1, 1) / F.avg_pool2d(torch.ones_like(x), 3, 1, 1)

    x = unit(unit(unit(x, "Conv2d_1a_3x3", stride=2), "Conv2d_2a_3x3"), "Conv2d_2b_3x3", (1, 1))
    x = unit(unit(F.max_pool2d(x, 3, 2), "Conv2d_3b_1x1"), "Conv2d_4a_3x3")
    x = F.max_pool2d(x, 3, 2)
    for n in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        five = unit(unit(x, f"{n}.branch5x5_1"), f"{n}.branch5x5_2", (2, 2))
        three = unit(unit(x, f"{n}.branch3x3dbl_1"), f"{n}.branch3x3dbl_2", (1, 1))
        three = unit(three, f"{n}.branch3x3dbl_3", (1, 1))
        pool = unit(mean_pool(x), f"{n}.branch_pool")
        x = torch.cat([unit(x, f"{n}.branch1x1"), five, three, pool], 1)
    three = unit(unit(x, "Mixed_6a.branch3x3dbl_1"), "Mixed_6a.branch3x3dbl_2", (1, 1))
    three = unit(three, "Mixed_6a.branch3x3dbl_3", stride=2)
    x = torch.cat([unit(x, "Mixed_6a.branch3x3", stride=2), three, F.max_pool2d(x, 3, 2)], 1)
    flat, tall = (0, 3), (3, 0)
    for n in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        seven = unit(unit(x, f"{n}.branch7x7_1"), f"{n}.branch7x7_2", flat)
        seven = unit(seven, f"{n}.branch7x7_3", tall)
        twice = unit(x, f"{n}.branch7x7dbl_1")
        for i, padding in ((2, tall), (3, flat), (4, tall), (5, flat)):
            twice = unit(twice, f"{n}.branch7x7dbl_{i}", padding)
        pool = unit(mean_pool(x), f"{n}.branch_pool")
        x = torch.cat([unit(x, f"{n}.branch1x1"), seven, twice, pool], 1)
    three = unit(unit(x, "Mixed_7a.branch3x3_1"), "Mixed_7a.branch3x3_2", stride=2)
    seven = unit(unit(x, "Mixed_7a.branch7x7x3_1"), "Mixed_7a.branch7x7x3_2", flat)
    seven = unit(unit(seven, "Mixed_7a.branch7x7x3_3", tall), "Mixed_7a.branch7x7x3_4", stride=2)
    x = torch.cat([three, seven, F.max_pool2d(x, 3, 2)], 1)
    for n in ("Mixed_7b", "Mixed_7c"):
        three = unit(x, f"{n}.branch3x3_1")
        forks = [
            unit(three, f"{n}.branch3x3_2{end}", padding) for end, padding in (("a", (0, 1)), ("b", (1, 0)))
        ]
        three = unit(unit(x, f"{n}.branch3x3dbl_1"), f"{n}.branch3x3dbl_2", (1, 1))
        forks += [
            unit(three, f"{n}.branch3x3dbl_3{end}", padding)
            for end, padding in (("a", (0, 1)), ("b", (1, 0)))
        ]
        pooled = mean_pool(x) if n == "Mixed_7b" else F.max_pool2d(x, 3, 1, 1)
        x = torch.cat([unit(x, f"{n}.branch1x1"), *forks, unit(pooled, f"{n}.branch_pool")], 1)
    return x.mean((2, 3))


def test_inception_is_what_it_should_be(inception: Inception) -> None:
    """21,785,568 is the published number of parameters without the classifier."""
    assert sum(p.numel() for p in inception.parameters()) == 21_785_568
    assert METRICS["fid"].build is Inception
    x = torch.rand(1, 3, 107, 107)
    expected = straight_inception(2 * x - 1, inception.state_dict())
    torch.testing.assert_close(inception(x), expected, rtol=1e-3, atol=1e-4)
    assert expected.std() > 0.01


def test_features_are_those_of_the_resized_picture(inception: Inception) -> None:
    x = torch.rand(1, 3, 40, 90)
    resized = F.interpolate(x, (107, 107), mode="bilinear", align_corners=False)
    torch.testing.assert_close(inception(x), inception(resized))


# ---- files


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, alex: Tensors) -> tuple[Path, Path]:
    """AlexNet as torch.save writes it, with what LPIPS does not need; the heads as safetensors."""
    folder = tmp_path_factory.mktemp("weights")
    parts = {side: {k: v for k, v in alex.items() if k.startswith(side)} for side in ("features", "lin")}
    torch.save(parts["features"] | {"classifier.1.bias": torch.zeros(3)}, folder / "alexnet.pth")
    save_file({name: value.half() for name, value in parts["lin"].items()}, folder / "heads.safetensors")
    return folder / "alexnet.pth", folder / "heads.safetensors"


@pytest.mark.parametrize("order", [1, -1])
def test_weights_come_from_files_in_any_order(files: tuple[Path, Path], alex: Tensors, order: int) -> None:
    first, second = files[::order]
    loaded = load([f"lpips-alex={first},{second}"])
    assert list(loaded.distances) == ["lpips-alex"]
    assert loaded.features is None
    a, b = two()
    expected = filled("lpips-alex", alex)(a, b)
    torch.testing.assert_close(loaded.distances["lpips-alex"](a, b), expected, rtol=1e-3, atol=0)


def test_nothing_wanted_is_nothing() -> None:
    assert load([]) == perceptual.Perceptual()


def refused(wanted: str, *parts: str) -> None:
    with pytest.raises((CheckpointError, ValueError)) as caught:
        load([wanted])
    said = str(caught.value)
    assert "\n" not in said
    for part in parts:
        assert part in said


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("lpips-alex", ["alexnet-owt-7be5be79.pth", "alex.pth"]),
        ("lpips-vgg", ["vgg16-397923af.pth", "vgg.pth"]),
        ("dists", ["vgg16-397923af.pth", "weights.pt"]),
        ("fid", ["pt_inception-2015-12-05-6726825d.pth"]),
    ],
)
def test_without_weights_it_says_which_and_from_where(name: str, parts: list[str]) -> None:
    refused(name, f"{name} comes without weights: give {name}=FILE", "https://", *parts)


def test_bad_names_and_files_are_one_line(files: tuple[Path, Path], tmp_path: Path) -> None:
    backbone, _ = files
    refused("lpips-alx=a", "unknown metric 'lpips-alx', did you mean lpips-alex?", "fid")
    refused("fid=none.pth", "none.pth: No such file", "OWNER/REPO:FILE")
    (tmp_path / "cut.pth").write_bytes(backbone.read_bytes()[:1000])
    refused(f"fid={tmp_path / 'cut.pth'}", "cut.pth: damaged")
    torch.save([1], tmp_path / "list.pth")
    refused(f"fid={tmp_path / 'list.pth'}", "list.pth: a list instead of tensors by name")
    torch.save({"x": types.SimpleNamespace()}, tmp_path / "code.pth")
    refused(f"fid={tmp_path / 'code.pth'}", "code.pth: runs types.SimpleNamespace, so it was not opened")


def test_bad_weights_fail_by_the_first_key(files: tuple[Path, Path], tmp_path: Path, alex: Tensors) -> None:
    backbone, given = files
    refused(f"lpips-alex={backbone}", "lpips-alex: lin0.model.1.weight is missing", "alexnet.pth", "give")
    refused(f"lpips-alex={given}", "lpips-alex: features.0.weight is missing")
    refused(
        f"lpips-vgg={backbone},{given}",
        "lpips-vgg: features.0.weight is (64, 3, 11, 11) instead of (64, 3, 3, 3)",
    )
    broken = tmp_path / "broken.pth"
    torch.save({"features.3.bias": torch.full((192,), torch.nan)}, broken)
    refused(f"lpips-alex={backbone},{given},{broken}", "lpips-alex: features.3.bias is not finite")


def test_a_file_of_the_hub_is_fetched(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def hf_hub_download(repo: str, file: str) -> str:
        asked.append((repo, file))
        if file == "none":
            raise RuntimeError("404\nnot found")
        return str(files[1])

    hub = types.SimpleNamespace(hf_hub_download=hf_hub_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert load([f"lpips-alex={files[0]},some-one/lpips.heads:v0.1/alex.pth"]).distances
    assert asked == [("some-one/lpips.heads", "v0.1/alex.pth")]
    refused("fid=a/b:none", "a/b:none: not to be had from the hub (404)")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused("fid=a/b:c", "pip install 'refusion[hub]'")
