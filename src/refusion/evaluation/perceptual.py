"""Perceptual metrics: those without weights, and LPIPS, DISTS and FID, with weights from the user's files.

Lower is better for those with weights. Their parameters have the names of the published files: torchvision's
`features.*`, LPIPS' `lin0.model.1.weight` and so on, DISTS' `alpha` and `beta`, and those of `inception.py`.
Pictures are RGB in [0, 1].
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from refusion.errors import CheckpointError, first_line, hint
from refusion.evaluation.inception import Inception
from refusion.evaluation.metrics import Pictures
from refusion.evaluation.spectrum import Detail, Spectrum
from refusion.evaluation.ssimulacra2 import Ssimulacra2
from refusion.evaluation.wasserstein import SlicedWasserstein
from refusion.files import load_tensors

Distance = Callable[[Pictures, Pictures], Float[Tensor, " b"]]
Features = Callable[[Pictures], Float[Tensor, "b n"]]


@dataclass(frozen=True)
class Perceptual:
    """Perceptual metrics with their weights.

    Args:
        distances: metrics of two batches of equal size, by name; the second has the clean pictures.
        features: network whose features `frechet` compares; None without FID.
    """

    distances: Mapping[str, Distance] = field(default_factory=dict)
    features: Features | None = None


def _standard(x: Pictures) -> Pictures:
    """Normalise pictures by the statistics of ImageNet, as torchvision's networks and LPIPS expect."""
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)
    return (x - x.new_tensor(mean)[:, None, None]) / x.new_tensor(std)[:, None, None]


class _Tapped(nn.Module):
    """The convolutional part of a classifier, with torchvision's names, of which some maps are used."""

    def __init__(self, features: nn.Sequential, taps: Sequence[int], smallest: int) -> None:
        super().__init__()
        self.features, self.taps, self.smallest = features, taps, smallest
        self.widths = [len(features[tap - 1].get_parameter("weight")) for tap in taps]

    def maps(self, x: Pictures) -> list[Tensor]:
        """Return the maps after the layers `taps`."""
        height, width = x.shape[-2:]
        if min(height, width) < self.smallest:
            raise ValueError(
                f"{width}x{height} is too small: this metric needs {self.smallest} pixels a side"
            )
        x = _standard(x)
        tapped = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.taps:
                tapped.append(x)
        return tapped


class Lpips(_Tapped):
    """Learned perceptual image patch similarity, version 0.1 (Zhang et al., CVPR 2018, arXiv 1801.03924).

    It is the sum over layers of the mean over positions of w . (x - y)^2, where x and y are the maps of both
    pictures, normalised to unit length at each position.
    """

    def __init__(self, features: nn.Sequential, taps: Sequence[int], smallest: int) -> None:
        super().__init__(features, taps, smallest)
        for i, width in enumerate(self.widths):
            head = nn.Sequential(nn.Identity(), nn.Conv2d(width, 1, 1, bias=False))
            self.add_module(f"lin{i}", nn.ModuleDict({"model": head}))

    def forward(self, a: Pictures, b: Pictures) -> Float[Tensor, " b"]:
        """Return distances, 0 for equal pictures.

        Raises:
            ValueError: a side is too short for the layers.
        """
        total = a.new_zeros(len(a))
        for i, (x, y) in enumerate(zip(self.maps(a), self.maps(b), strict=True)):
            unit_x = x / (x.norm(dim=1, keepdim=True) + 1e-10)
            unit_y = y / (y.norm(dim=1, keepdim=True) + 1e-10)
            total = total + self.get_submodule(f"lin{i}.model")((unit_x - unit_y) ** 2).mean((1, 2, 3))
        return total


class Dists(_Tapped):
    """Deep image structure and texture similarity (Ding et al., arXiv 2004.07728).

    It is 1 minus the weighted mean over channels of the similarity of means (texture, alpha) and of the
    correlation (structure, beta); the picture itself is the first of six layers. Pictures are not resized.
    """

    def __init__(self, features: nn.Sequential, taps: Sequence[int], smallest: int) -> None:
        super().__init__(features, taps, smallest)
        channels = 3 + sum(self.widths)
        self.alpha = nn.Parameter(torch.empty(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.empty(1, channels, 1, 1))

    def forward(self, a: Pictures, b: Pictures) -> Float[Tensor, " b"]:
        """Return distances from 0, for equal pictures, to 2.

        Raises:
            ValueError: a side is too short for the layers.
        """
        texture, structure = [], []
        for x, y in zip([a, *self.maps(a)], [b, *self.maps(b)], strict=True):
            m_x, m_y = x.mean((2, 3)), y.mean((2, 3))
            texture.append((2 * m_x * m_y + 1e-6) / (m_x**2 + m_y**2 + 1e-6))
            d_x = x - x.mean((2, 3), keepdim=True)
            d_y = y - y.mean((2, 3), keepdim=True)
            cov = (d_x * d_y).mean((2, 3))
            v_x, v_y = (d_x * d_x).mean((2, 3)), (d_y * d_y).mean((2, 3))
            structure.append((2 * cov + 1e-6) / (v_x + v_y + 1e-6))
        alpha, beta = self.alpha.flatten(), self.beta.flatten()
        unlike = (1 - torch.cat(texture, 1)) @ alpha + (1 - torch.cat(structure, 1)) @ beta
        return unlike / (alpha.sum() + beta.sum())


class _L2Pool(nn.Module):
    """Pooling that halves a map: the root mean square under a Hann window of 3 x 3 (DISTS)."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c half_h half_w"]:
        bell = x.new_tensor([0.25, 0.5, 0.25])
        window = (bell[:, None] * bell).expand(x.shape[1], 1, 3, 3)
        return (F.conv2d(x**2, window, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()


def _alexnet() -> nn.Sequential:
    """Return AlexNet up to its last ReLU (Krizhevsky 2014, arXiv 1404.5997)."""
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    )


def _vgg16(pool: Callable[[], nn.Module]) -> nn.Sequential:
    """Return VGG-16 up to its last ReLU, without weights (Simonyan and Zisserman, arXiv 1409.1556)."""
    layers: list[nn.Module] = []
    channels = 3
    for depth, width in ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)):
        if layers:
            layers.append(pool())
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
    return nn.Sequential(*layers)


def frechet(a: Float[Tensor, "m d"], b: Float[Tensor, "n d"]) -> float:
    """Return FID, the squared Fréchet distance of two Gaussians with the moments of both sets.

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), with means m and covariances C.

    Raises:
        ValueError: a set has fewer than 2 pictures.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError("FID of 1 picture: it compares sets, give at least 2")
    x, y = a.double().cpu(), b.double().cpu()
    shift = (x.mean(0) - y.mean(0)).square().sum()
    # C = R^T R, and the trace of the root is the sum of the singular values of R_a R_b^T.
    r_x = torch.linalg.qr((x - x.mean(0)) / (len(x) - 1) ** 0.5, mode="r").R
    r_y = torch.linalg.qr((y - y.mean(0)) / (len(y) - 1) ** 0.5, mode="r").R
    overlap = torch.linalg.svdvals(r_x @ r_y.T).sum()
    return max(0.0, float(shift + r_x.square().sum() + r_y.square().sum() - 2 * overlap))


class Metric(NamedTuple):
    """The constructor of a metric, and the files of its weights for messages; "" if it has no weights."""

    build: Callable[[], nn.Module]
    files: str = ""


_VGG = "torchvision's vgg16 (https://download.pytorch.org/models/vgg16-397923af.pth)"
_ALEX = "torchvision's alexnet (https://download.pytorch.org/models/alexnet-owt-7be5be79.pth)"
_LIN = "in lpips/weights/v0.1 of https://github.com/richzhang/PerceptualSimilarity"
_FID = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights"
_VGG_TAPS = (3, 8, 15, 22, 29)

METRICS: dict[str, Metric] = {
    "ssimulacra2": Metric(Ssimulacra2),
    "swd": Metric(SlicedWasserstein),
    "spectrum": Metric(Spectrum),
    "detail": Metric(Detail),
    "lpips-alex": Metric(
        lambda: Lpips(_alexnet(), (1, 4, 7, 9, 11), 31), f"{_ALEX} and the linear heads alex.pth ({_LIN})"
    ),
    "lpips-vgg": Metric(
        lambda: Lpips(_vgg16(partial(nn.MaxPool2d, 2)), _VGG_TAPS, 16),
        f"{_VGG} and the linear heads vgg.pth ({_LIN})",
    ),
    "dists": Metric(
        lambda: Dists(_vgg16(_L2Pool), _VGG_TAPS, 1),
        f"{_VGG} and weights.pt (in DISTS_pytorch of https://github.com/dingkeyan93/DISTS)",
    ),
    "fid": Metric(Inception, f"Inception's ({_FID}/pt_inception-2015-12-05-6726825d.pth)"),
}
"""Metrics by name. One of your own: `METRICS["mine"] = Metric(Mine)`."""


def without_weights() -> Perceptual:
    """Return the metrics of `METRICS` that need no files."""
    return Perceptual({name: metric.build() for name, metric in METRICS.items() if not metric.files})


def load(wanted: Sequence[str], device: str | torch.device = "cpu") -> Perceptual:
    """Load metrics, those that have weights from files.

    Args:
        wanted: metrics as NAME or NAME=FILE,FILE ..., each a name in `METRICS` and the files of its weights,
            if it has some, in any order, in the formats of safetensors or `torch.save`. OWNER/REPO:FILE is a
            file of the Hugging Face hub.
        device: of the metrics.

    Raises:
        ValueError: a name is unknown.
        CheckpointError: a file is missing or damaged; a tensor is missing, not finite or of another shape.
    """
    metrics = {}
    for assignment in wanted:
        name, _, files = assignment.partition("=")
        if name not in METRICS:
            raise ValueError(f"unknown metric {name!r}{hint(name, METRICS)}: there are {', '.join(METRICS)}")
        metrics[name] = _filled(name, [file for file in files.split(",") if file]).to(device)
    features = metrics.pop("fid", None)
    return Perceptual(metrics, features)


def _filled(name: str, files: Sequence[str]) -> nn.Module:
    build, needed = METRICS[name]
    if needed and not files:
        raise CheckpointError(f"{name} comes without weights: give {name}=FILE,... with {needed}")
    tensors = {key: value for file in files for key, value in _tensors(_local(file)).items()}
    with torch.device("meta"):
        module = build()
    expected = module.state_dict()
    for key, value in expected.items():
        have = tensors.get(key)
        if not isinstance(have, Tensor):
            raise CheckpointError(f"{name}: {key} is missing in {', '.join(files)}; give {needed}")
        if have.shape != value.shape or not bool(have.isfinite().all()):
            shape = "not finite" if have.shape == value.shape else f"{tuple(have.shape)}"
            raise CheckpointError(f"{name}: {key} is {shape} instead of {tuple(value.shape)}; give {needed}")
    weights = {key: tensors[key].float() for key in expected}
    module.load_state_dict(
        weights, strict=False, assign=True
    )  # not strict, for the counts of batch normalisation
    return module.eval().requires_grad_(False)


def _local(file: str) -> Path:
    """Return the path of a file, which is downloaded from the hub if it does not exist."""
    path = Path(file)
    on_hub = re.fullmatch(r"([\w.-]+/[\w.-]+):(.+)", file)
    if path.exists() or on_hub is None:
        return path
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise CheckpointError(
            f"{file}: no such file, and the hub needs pip install 'refusion[hub]'"
        ) from error
    try:
        return Path(hf_hub_download(on_hub[1], on_hub[2]))
    except Exception as error:  # the network and the hub raise many types
        reason = first_line(error)
        raise CheckpointError(f"{file}: not to be had from the hub ({reason}); give a file") from error


def _tensors(path: Path) -> Mapping[str, Any]:
    """Read the tensors of a file by name."""
    content = load_tensors(path, "give a file, or OWNER/REPO:FILE of the hub")
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: a {type(content).__name__} instead of tensors by name")
    return content
