"""Synthetic bokeh: pairs rendered from one clean picture as seen through two lenses.

A sharp foreground, another part of the same picture cut out along a random outline, is placed before the
whole picture, so that no hidden background must be invented.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from refusion.data.degradation import Example
from refusion.data.fields import (
    Field,
    Picture,
    front_opacity,
    front_picture,
    mirrored_positions,
    smooth_relief,
)
from refusion.errors import DataError
from refusion.imaging.lens import LENSES, Lens, condition

Light = Float[Tensor, "3 h w"]
"""Linear light; white may be brighter than 1."""

BLADES = 8
ROUNDNESS = {"Canon": 0.3, "Sony": 1.0}
"""Roundness of the blades: 0 for an aperture that is a regular polygon, 1 for a disc."""
WIDEST = 1.4
"""Smallest f-number whose aperture the barrel does not cut on the axis."""
CUT = 0.6
"""Shift of the barrel over the aperture of f/1.4 in the corners of the picture, in radii."""
GAMMA, KNEE, GAIN = 2.2, 0.8, 20.0
"""Values are light to the power 1 / GAMMA; light above KNEE is compressed GAIN times."""
FINE = 8.0
"""Largest radius in pixels of blur at full resolution; larger blur is computed at half of it."""
SPACING = 32
"""Spacing of the grid of kernels, in pixels."""
LENS_NAMES = tuple(map(str, LENSES))


@dataclass(frozen=True, kw_only=True)
class Bokeh:
    """A pair of pictures taken with two lenses; the first is to look as if taken with the second.

    A foreground in focus is before the picture, whose distance from the focal plane varies smoothly. Both
    lenses are drawn independently. Equal lenses give equal pictures. The guide is the foreground: 1 where
    the picture is in focus, 0 elsewhere.

    Args:
        name: of the degradation, in a recipe.
        strength: radius in pixels of the blur at disparity 1, 50 mm and f/1, for every size of picture.
        least, most: range of the disparity, a measure of the largest distance from the focal plane.
        uneven: largest part by which the disparity of the background falls towards its nearest point.
        sources, targets: names of the lenses from which one is drawn, see `Lens.parse`.

    Raises:
        ValueError: a range is empty or negative, no lens is named, or a name is not that of a lens.
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
        source = Lens.parse(self.sources[rng.integers(len(self.sources))])
        target = Lens.parse(self.targets[rng.integers(len(self.targets))])
        disparity = rng.uniform(self.least, self.most)
        behind = disparity * (1 - rng.uniform(0, self.uneven) * smooth_relief(size, rng))
        front, opacity = front_picture(clean, rng), front_opacity(size, rng)
        lq = torch.lerp(blur(clean, source, self.radius(source, behind)), front, opacity)
        gt = torch.lerp(blur(clean, target, self.radius(target, behind)), front, opacity)
        return Example(lq, gt, condition(source, target, disparity), guides=opacity)

    def radius(self, lens: Lens, disparity: Field) -> Field:
        """Return the radius of the blur in pixels, proportional to the aperture and the disparity."""
        return self.strength * disparity * lens.focal / (50 * lens.f_number)


def blur(picture: Picture, lens: Lens, radius: Field) -> Picture:
    """Blur a picture that is out of focus: a bright point becomes an image of the aperture.

    Canon's aperture has rounded blades, Sony's is a disc. Towards the edges of the picture the barrel, a
    second disc that shifts over the aperture, cuts both to cat's eyes. Light is averaged before the camera's
    curve, which compresses values near white. Kernels are computed on a grid of points and blended in between
    (Hirsch et al. 2010, efficient filter flow), and large blur at lower resolution; so `radius` should vary
    smoothly. The border is mirrored.

    Args:
        radius: of the blur in pixels, at least 0; where it is 0 the picture does not change.
    """
    linear = picture**GAMMA
    mean = linear.mean(0).clamp(min=1e-6)
    light = _spread(linear * (1 + (GAIN - 1) * (1 - KNEE / mean).relu()), lens, radius)
    mean = light.mean(0).clamp(min=1e-6)
    squeezed = light * (KNEE / mean + (1 - KNEE / mean) / GAIN).clamp(max=1)
    return squeezed.clamp(0, 1) ** (1 / GAMMA)


def _spread(light: Light, lens: Lens, radius: Field) -> Light:
    """Blur linear light, at half the resolution with half the radius if the radius is large."""
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
    """Filter linear light; each cell of the grid blends the results of the kernels of its four corners."""
    size = light.shape[-2:]
    reach = math.ceil(float(radius.max()) - 0.5)
    rows, columns = math.ceil(size[0] / SPACING), math.ceil(size[1] / SPACING)
    high, wide = math.ceil(size[0] / rows), math.ceil(size[1] / columns)
    lines = light[:, mirrored_positions(size[0], -reach, rows * high + reach)]
    whole = lines[:, :, mirrored_positions(size[1], -reach, columns * wide + reach)]
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
    """Return images of the aperture that sum to 1, turned by 180 degrees for correlation.

    Args:
        radius: in pixels, up to `reach` + 1/2.
        place: (x, y) from the centre of the picture; corners have length 1.
    """
    radius = radius[..., None, None]
    offsets = torch.arange(-reach, reach + 1.0)
    y, x = torch.meshgrid(offsets, offsets, indexing="ij")
    sector = 2 * math.pi / BLADES
    polygon = math.cos(sector / 2) / torch.cos(torch.atan2(y, x) % sector - sector / 2)
    outline = torch.lerp(polygon, torch.ones(()), ROUNDNESS[lens.brand])
    aperture = radius * outline - torch.hypot(x, y)
    opening = radius * max(lens.f_number / WIDEST, 1)
    right, down = CUT * opening * place[..., None, None]
    barrel = opening - torch.hypot(x - right, y - down)
    covered = (aperture.minimum(barrel) + 0.5).clamp(0, 1)
    return covered / covered.sum((-2, -1), keepdim=True)
