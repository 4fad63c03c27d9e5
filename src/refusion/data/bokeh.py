"""Pairs that are rendered from one clean picture: through two lenses, and from two places.

Both put a sharp front, another part of the same picture cut out along a random outline, before the whole
picture, so that nothing hidden need be made up.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from refusion.degradation import Example, Field, Picture, smooth_field
from refusion.errors import DataError
from refusion.lens import LENSES, Lens, condition

Light = Float[Tensor, "3 h w"]
"""Linear light; white may be brighter than 1."""

BLADES = 8
ROUNDNESS = {"Canon": 0.3, "Sony": 1.0}
"""Of the blades: 0 makes the aperture a regular polygon, 1 a disc."""
WIDEST = 1.4
"""f-number that the barrel lets through whole on the axis."""
CUT = 0.6
"""How far the barrel moves over the aperture of f/1.4 in the corners, in radii."""
GAMMA, KNEE, GAIN = 2.2, 0.8, 20.0
"""Values are light to the power 1 / GAMMA; what lies above KNEE was GAIN times farther above."""
FINE = 8.0
"""Radius in pixels above which half the resolution serves as well."""
SPACING = 32
"""Of the grid of kernels, in pixels."""
LENS_NAMES = tuple(map(str, LENSES))


@dataclass(frozen=True, kw_only=True)
class Bokeh:
    """A picture taken with one lens, to be made look as if taken with another.

    A front in focus stands before the picture, whose distance from the focal plane varies smoothly. Both
    lenses are drawn independently. Equal lenses give equal pictures.

    Args:
        name: what a recipe calls it.
        strength: radius in pixels of the blur at disparity 1, 50 mm and f/1, whatever the picture's size.
        least, most: range of the disparity, which stands for the largest distance from the focal plane.
        uneven: largest part of the disparity that is missing at the nearest point behind the front.
        sources, targets: names of lenses of which one is drawn, see `Lens.parse`.

    Raises:
        ValueError: a range is empty or negative, no lens is named, or a name is none of a lens.
    """

    name: Literal["Bokeh"] = "Bokeh"
    strength: float = 0.25
    least: float = 10.0
    most: float = 90.0
    uneven: float = 0.8
    sources: tuple[str, ...] = LENS_NAMES
    targets: tuple[str, ...] = LENS_NAMES

    def __post_init__(self) -> None:
        if not (0 <= self.least <= self.most < math.inf and 0 <= self.strength < math.inf):
            values = f"least {self.least}, most {self.most}, strength {self.strength}"
            raise ValueError(f"{values}: give 0 <= least <= most, and strength at least 0")
        if not 0 <= self.uneven <= 1:
            raise ValueError(f"uneven {self.uneven}: give 0 to 1")
        if not (self.sources and self.targets):
            raise ValueError("sources and targets: give at least one lens each")
        try:
            for name in (*self.sources, *self.targets):
                Lens.parse(name)
        except DataError as error:
            raise ValueError(str(error)) from None

    def __call__(self, clean: Picture, rng: np.random.Generator) -> Example:
        size = (clean.shape[-2], clean.shape[-1])
        source, target = (
            Lens.parse(names[rng.integers(len(names))]) for names in (self.sources, self.targets)
        )
        disparity = rng.uniform(self.least, self.most)
        behind = disparity * (1 - rng.uniform(0, self.uneven) * _relief(size, rng))
        front, matte = _elsewhere(clean, rng), _matte(size, rng)
        lq, gt = (
            torch.lerp(blur(clean, lens, self.radius(lens, behind)), front, matte)
            for lens in (source, target)
        )
        return Example(lq, gt, condition(source, target, disparity))

    def radius(self, lens: Lens, disparity: Field) -> Field:
        """Of the blur in pixels: it grows with the aperture's diameter and the disparity."""
        return self.strength * disparity * lens.focal / (50 * lens.f_number)


def blur(picture: Picture, lens: Lens, radius: Field) -> Picture:
    """The picture out of focus: a bright point becomes an image of the aperture.

    Canon's has rounded blades, Sony's is a disc. Towards the edges the barrel cuts both to cat's eyes: a
    second disc moves over the aperture. Light is averaged before the camera's curve, which squeezes what
    is near white. The lens is rendered for a grid of points and blended in between (Hirsch et al. 2010,
    efficient filter flow), and wide blur at lower resolution; so `radius` should vary smoothly. The border
    is mirrored.

    Args:
        radius: of the blur in pixels, at least 0; where it is 0 the picture stays.
    """
    linear = picture**GAMMA
    mean = linear.mean(0).clamp(min=1e-6)
    light = _spread(linear * (1 + (GAIN - 1) * (1 - KNEE / mean).relu()), lens, radius)
    mean = light.mean(0).clamp(min=1e-6)
    squeezed = light * (KNEE / mean + (1 - KNEE / mean) / GAIN).clamp(max=1)
    return squeezed.clamp(0, 1) ** (1 / GAMMA)


def _spread(light: Light, lens: Lens, radius: Field) -> Light:
    """At half the resolution, and half the radius, where the radius is large."""
    height, width = light.shape[-2:]
    if radius.max() <= FINE:
        blurred = _filtered(light, lens, radius)
    else:
        both = F.pad(torch.cat([light, radius / 2]), (0, width % 2, 0, height % 2), mode="replicate")
        half = F.avg_pool2d(both, 2)
        small = _spread(half[:3], lens, half[3:])
        blurred = F.interpolate(small[None], scale_factor=2, mode="bilinear")[0, :, :height, :width]
    return torch.lerp(light, blurred, radius.clamp(max=1))


def _filtered(light: Light, lens: Lens, radius: Field) -> Light:
    """Cells of the grid, each a linear blend of the picture filtered with the kernels of its corners."""
    size = light.shape[-2:]
    reach = math.ceil(float(radius.max()) - 0.5)
    rows, columns = (math.ceil(side / SPACING) for side in size)
    high, wide = math.ceil(size[0] / rows), math.ceil(size[1] / columns)
    lines = light[:, _mirrored(size[0], -reach, rows * high + reach)]
    whole = lines[:, :, _mirrored(size[1], -reach, columns * wide + reach)]
    cells = whole.unfold(1, high + 2 * reach, high).unfold(2, wide + 2 * reach, wide).flatten(1, 2)
    y = (high * torch.arange(rows + 1)).clamp(max=size[0] - 1)[:, None].expand(-1, columns + 1)
    x = (wide * torch.arange(columns + 1)).clamp(max=size[1] - 1).expand(rows + 1, -1)
    place = torch.stack([2 * x - size[1] + 1, 2 * y - size[0] + 1]) / math.hypot(*size)
    kernels = _kernels(lens, radius[0, y, x], place, reach)
    down, across = torch.arange(high)[:, None] / high, torch.arange(wide) / wide
    blurred = torch.zeros(3, rows * columns, high, wide)
    for i, vertical in enumerate((1 - down, down)):
        for j, horizontal in enumerate((1 - across, across)):
            corner = kernels[i : i + rows, j : j + columns].flatten(0, 1)[:, None]
            blurred += vertical * horizontal * F.conv2d(cells, corner, groups=len(corner))
    joined = blurred.reshape(3, rows, columns, high, wide).transpose(2, 3)
    return joined.reshape(3, rows * high, columns * wide)[:, : size[0], : size[1]]


def _kernels(
    lens: Lens, radius: Float[Tensor, "rows columns"], place: Float[Tensor, "2 rows columns"], reach: int
) -> Float[Tensor, "rows columns side side"]:
    """Images of the aperture, each turned by 180 degrees as correlation wants it; they sum to 1.

    Args:
        radius: in pixels, up to `reach` + 1/2.
        place: (x, y) from the centre of the picture; corners have length 1.
    """
    radius = radius[..., None, None]
    y, x = torch.meshgrid(*[torch.arange(-reach, reach + 1.0)] * 2, indexing="ij")
    sector = 2 * math.pi / BLADES
    polygon = math.cos(sector / 2) / torch.cos(torch.atan2(y, x) % sector - sector / 2)
    outline = torch.lerp(polygon, torch.ones(()), ROUNDNESS[lens.maker])
    aperture = radius * outline - torch.hypot(x, y)
    opening = radius * max(lens.f_number / WIDEST, 1)
    right, down = CUT * opening * place[..., None, None]
    barrel = opening - torch.hypot(x - right, y - down)
    covered = (aperture.minimum(barrel) + 0.5).clamp(0, 1)
    return covered / covered.sum((-2, -1), keepdim=True)


def _mirrored(side: int, start: int, end: int) -> Int[Tensor, " n"]:
    """Positions start ... end - 1 of a side that is mirrored at its ends for ever."""
    position = torch.arange(start, end) % (2 * side)
    return position.minimum(2 * side - 1 - position)


def parallax(clean: Picture, rng: np.random.Generator, largest: float = 0.12) -> tuple[Picture, Picture]:
    """A left and a right view: a point at column x of the left one is at x - d of the right one.

    The disparity d is from 0 to `largest` of the width. It varies smoothly within the background, which is
    `clean` on the left, and within a nearer front, which covers other parts of it in each view. What comes
    in at the right border is mirrored.
    """
    size = (clean.shape[-2], clean.shape[-1])
    total, cut = largest * size[1] * rng.uniform(0.2, 1), rng.uniform(0.2, 0.8)
    behind, before = total * cut * _relief(size, rng), total * (cut + (1 - cut) * _relief(size, rng))
    front, matte = _elsewhere(clean, rng), _matte(size, rng)
    cover = warp(torch.cat([front, matte]), before)
    left = torch.lerp(clean, front, matte)
    return left, torch.lerp(warp(clean, behind), cover[:3], cover[3:])


def warp(left: Float[Tensor, "c h w"], disparity: Field) -> Float[Tensor, "c h w"]:
    """The right view: what it shows at column x is at x + disparity of the left one.

    Bicubic, clipped to [0, 1]; the border is mirrored.

    Args:
        disparity: in pixels, at each point of the right view.
    """
    height, width = left.shape[-2:]
    x = (torch.arange(width) + disparity[0]) * (2 / max(1, width - 1)) - 1
    y = torch.linspace(-1, 1, height)[:, None].expand_as(x)
    grid = torch.stack([x, y], dim=-1)[None]
    right = F.grid_sample(left[None], grid, mode="bicubic", padding_mode="reflection", align_corners=True)
    return right[0].clamp(0, 1)


def vertical_offset(left: Picture, right: Picture) -> float:
    """How many pixels lower the right view shows what the left one shows; 0 in a rectified pair.

    Rows are matched by means along them, which hardly depend on how far things moved to the side. Good to
    about a quarter of a pixel up to 8, and reports at most 10; noise in small pictures can mislead it.
    """
    reach = min(10, left.shape[-2] // 4)
    if not reach or left.shape[-1] < 2:
        return 0.0
    rows, others = _row_means(left), _row_means(right)
    windows = others.unfold(1, rows.shape[1] - 2 * reach, 1)
    far = (torch.arange(-reach, reach + 1.0) * 1e-6).abs()
    costs: list[float] = ((windows - rows[:, None, reach:-reach]).abs().mean((0, 2)).cpu() + far).tolist()
    best = min(range(len(costs)), key=costs.__getitem__)
    if best in (0, 2 * reach):
        return float(best - reach)
    above, lowest, below = (cost**2 for cost in costs[best - 1 : best + 2])
    return best - reach + (above - below) / (2 * (above - 2 * lowest + below))


def _row_means(view: Picture) -> Float[Tensor, "4 h"]:
    """Of brightness and of the strength of edges; each without what varies slowly, of deviation 1."""
    grey = view.mean(0)
    down, across = torch.gradient(grey)
    means = torch.stack([grey, across.abs(), down.relu(), (-down).relu()]).mean(2)
    fine = means - F.avg_pool1d(means, 17, 1, 8, count_include_pad=False)
    return fine / fine.std(1, keepdim=True).clamp(min=1e-6)


def _relief(size: tuple[int, int], rng: np.random.Generator) -> Field:
    """A field from 0 to 1 of a few bumps, however large."""
    coarse = smooth_field((4, 4), rng)[None]
    return F.interpolate(coarse, size, mode="bicubic", align_corners=True)[0].clamp(0, 1)


def _matte(size: tuple[int, int], rng: np.random.Generator) -> Field:
    """1 in the front, 0 elsewhere: one to three smooth blobs, mostly at the lower border, with soft edges."""
    y, x = torch.meshgrid(*(torch.arange(float(side)) for side in size), indexing="ij")
    matte = torch.zeros(1, *size)
    waves = torch.arange(1.0, 5)[:, None, None]
    for _ in range(int(rng.integers(1, 4))):
        across, low, tall = rng.uniform((0, 0.4, 1), (1, 1.1, 2))
        right, down = x - across * size[1], (y - low * size[0]) / tall
        height, phase = (
            torch.from_numpy(rng.uniform(0, high, (4, 1, 1))).float() for high in (0.3, 2 * math.pi)
        )
        bumps = (height / waves * torch.cos(waves * torch.atan2(down, right) + phase)).sum(0)
        outline = min(size) * rng.uniform(0.12, 0.35) * (1 + bumps)
        edge = (outline - torch.hypot(right, down)) / rng.uniform(1, 2)
        matte = matte.maximum((edge + 0.5).clamp(0, 1))
    return matte


def _elsewhere(clean: Picture, rng: np.random.Generator) -> Picture:
    """Another part of the picture, brighter or darker; it is mirrored where it ends."""
    width = clean.shape[-1]
    start = int(rng.integers(width // 4 + 1, 2 * width - width // 4))
    columns = _mirrored(width, start, start + width)
    return (rng.uniform(0.6, 1.4) * clean[:, :, columns]).clamp(0, 1)
