"""Inception v3 (Szegedy et al., arXiv 1512.00567), whose features FID compares.

Names are torchvision's, as in the weights of pytorch-fid. Those are for a network that differs from
torchvision's: average pooling does not count the padding, and the last block has max pooling.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class _Layer(NamedTuple):
    """The name, output channels and kernel of a unit."""

    name: str
    out: int
    kernel: tuple[int, int]


Branch = list[_Layer]


def _branch(name: str, *shapes: tuple[int, int, int], last: str = "") -> Branch:
    """Return a sequence of units with names name_1, name_2 ...; the name of a single unit has no number.

    Args:
        name: of the branch.
        shapes: output channels and height and width of the kernel of each unit.
        last: ending of the last unit's name, instead of its number.
    """
    ends = [f"_{i + 1}" for i in range(len(shapes))] if len(shapes) > 1 else [""]
    ends[-1] = last or ends[-1]
    return [_Layer(name + end, out, (h, w)) for end, (out, h, w) in zip(ends, shapes, strict=True)]


class _Unit(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(
        self, channels: int, out: int, kernel: tuple[int, int], stride: int = 1, padded: bool = True
    ) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2) if padded else 0
        self.conv = nn.Conv2d(channels, out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=0.001)
        self.bn.num_batches_tracked = None  # for training only; files may lack it

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b out unit_h unit_w"]:
        return F.relu(self.bn(self.conv(x)))


class _Block(nn.ModuleDict):
    """Parallel branches, the last of which pools the input; their outputs are concatenated.

    Args:
        branches: two of them may share their first units.
        pool: the pooling of the last branch.
        pooled: channels of a unit after the pool; 0 for a block without this unit, which halves the size.
    """

    def __init__(self, channels: int, branches: Iterable[Branch], pool: nn.Module, pooled: int = 0) -> None:
        super().__init__()
        self["pool"] = pool
        self.branches, self.pooled = list(branches), pooled
        self.width = sum(branch[-1].out for branch in self.branches) + (pooled or channels)
        for branch in self.branches:
            inputs = channels
            for layer in branch:
                halves = not pooled and layer is branch[-1]
                if layer.name not in self:
                    unit = _Unit(inputs, layer.out, layer.kernel, 2 if halves else 1, padded=not halves)
                    self[layer.name] = unit
                inputs = layer.out
        if pooled:
            self["branch_pool"] = _Unit(channels, pooled, (1, 1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b width block_h block_w"]:
        outputs = []
        for branch in self.branches:
            y = x
            for layer in branch:
                y = self[layer.name](y)
            outputs.append(y)
        y = self["pool"](x)
        outputs.append(self["branch_pool"](y) if self.pooled else y)
        return torch.cat(outputs, dim=1)


def _blocks(channels: int) -> Iterator[tuple[str, _Block]]:
    """Yield the names and blocks after the stem."""
    for name, branches, pool, pooled in _shapes():
        block = _Block(channels, branches, pool, pooled)
        channels = block.width
        yield name, block


def _shapes() -> Iterator[tuple[str, list[Branch], nn.Module, int]]:
    """Yield the name, branches, pool and channels after the pool of each block."""
    mean, halving = nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.MaxPool2d(3, 2)
    double = _branch("branch3x3dbl", (64, 1, 1), (96, 3, 3), (96, 3, 3))
    for name, pooled in (("5b", 32), ("5c", 64), ("5d", 64)):
        wide = _branch("branch5x5", (48, 1, 1), (64, 5, 5))
        yield f"Mixed_{name}", [_branch("branch1x1", (64, 1, 1)), wide, double], mean, pooled
    yield "Mixed_6a", [_branch("branch3x3", (384, 3, 3)), double], halving, 0
    for name, c in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        single = _branch("branch7x7", (c, 1, 1), (c, 1, 7), (192, 7, 1))
        double = _branch("branch7x7dbl", (c, 1, 1), (c, 7, 1), (c, 1, 7), (c, 7, 1), (192, 1, 7))
        yield f"Mixed_{name}", [_branch("branch1x1", (192, 1, 1)), single, double], mean, 192
    single = _branch("branch3x3", (192, 1, 1), (320, 3, 3))
    double = _branch("branch7x7x3", (192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3))
    yield "Mixed_7a", [single, double], halving, 0
    forks = [_branch("branch1x1", (320, 1, 1))]
    for end, h, w in (("a", 1, 3), ("b", 3, 1)):
        forks.append(_branch("branch3x3", (384, 1, 1), (384, h, w), last=f"_2{end}"))
    for end, h, w in (("a", 1, 3), ("b", 3, 1)):
        forks.append(_branch("branch3x3dbl", (448, 1, 1), (384, 3, 3), (384, h, w), last=f"_3{end}"))
    yield "Mixed_7b", forks, mean, 192
    yield "Mixed_7c", forks, nn.MaxPool2d(3, 1, 1), 192


class Inception(nn.Sequential):
    """The 2048 features of a picture that FID compares (Heusel et al., arXiv 1706.08500).

    Args:
        side: of the squares to which pictures are resized; 299 for the published weights.
    """

    def __init__(self, side: int = 299) -> None:
        super().__init__()
        self.side = side
        layers = {
            "Conv2d_1a_3x3": _Unit(3, 32, (3, 3), stride=2, padded=False),
            "Conv2d_2a_3x3": _Unit(32, 32, (3, 3), padded=False),
            "Conv2d_2b_3x3": _Unit(32, 64, (3, 3)),
            "pool1": nn.MaxPool2d(3, 2),
            "Conv2d_3b_1x1": _Unit(64, 80, (1, 1)),
            "Conv2d_4a_3x3": _Unit(80, 192, (3, 3), padded=False),
            "pool2": nn.MaxPool2d(3, 2),
            **dict(_blocks(192)),
        }
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 2048"]:
        """Return the features of pictures in [0, 1]."""
        x = 2 * F.interpolate(x, (self.side, self.side), mode="bilinear") - 1
        for layer in self:
            x = layer(x)
        return x.mean((2, 3))
