"""SSIMULACRA 2 (Jon Sneyers, Cloudinary, 2022), version 2.1: how good a picture looks beside its original.

The definition and the constants are those of libjxl's tool `ssimulacra2`. Pictures are compared in the
colour space XYB of JPEG XL at six scales, each half of the one before. In each scale and channel there are
three maps: of structure (as SSIM), of ringing (edges that the original lacks) and of blur (edges that are
lost). Of each map the mean and the 4-norm count with weights that were fitted to 17611 opinions of viewers.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from refusion.evaluation.metrics import Pictures, extended

SCALES = 6
SMALLEST = 8
"""Least side in pixels of a scale that is halved."""
SIGMA = 1.5
"""Standard deviation in pixels of the Gaussian window."""
TAPS = 5
"""The window ends before this offset in pixels."""
C2 = 0.0009
"""The constant that keeps SSIM's quotient of variances from being one of zeros."""

OPSIN = ((0.3, 0.622, 0.078), (0.23, 0.692, 0.078), (0.24342269, 0.20476745, 0.55180986))
"""Responses of the three cones of JPEG XL to linear RGB."""
OPSIN_BIAS = 0.0037930732552754493

# fmt: off
WEIGHTS = (
    (
        (0.0, 0.000737660671, 0.0, 0.0, 0.000779348168, 0.0),
        (0.0, 0.000437115573, 0.0, 1.10417264, 0.000662848341, 0.000152316328),
        (0.0, 0.00164064375, 0.0, 1.84224555, 11.4411726, 0.0),
        (0.000798910944, 0.000176816438, 0.0, 1.8787595, 10.9490699, 0.0),
        (0.000728934699, 0.967793708, 0.0, 0.000140034243, 0.998176698, 0.000319497559),
        (0.000455099211, 0.0, 0.0, 0.00136487662, 0.0, 0.0),
    ),
    (
        (0.0, 0.0, 0.0, 7.46689033, 0.0, 17.445834),
        (0.000623560163, 0.0, 0.0, 6.68367815, 0.00037724408, 1.02788994),
        (225.205153, 0.0, 0.0, 19.2132382, 0.00114015246, 0.00123775564),
        (176.393176, 0.0, 0.0, 24.43301, 0.285208026, 0.000448543692),
        (0.0, 0.0, 0.0, 34.7790634, 44.8356253, 0.0),
        (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    ),
    (
        (0.0, 0.000868055657, 0.0, 0.0, 0.0, 0.0),
        (0.0, 0.000531319187, 0.0, 0.000165338142, 0.0, 0.0),
        (0.0, 0.0, 0.0, 0.00041791718, 0.00172908282, 0.0),
        (0.00208270058, 0.0, 0.0, 8.82698276, 23.1924334, 0.0),
        (95.1080499, 0.986397803, 0.983438279, 0.0012286405, 171.266726, 0.980785887),
        (0.0, 0.0, 0.0, 0.000513006459, 0.0, 0.000108540579),
    ),
)
# fmt: on
"""By channel (X, Y, B - Y) and scale: of the means of structure, ringing and blur, then of their 4-norms."""


class Ssimulacra2(nn.Module):
    """The score of a picture beside its original, as of libjxl's tool.

    100 is for equal pictures, 90 for such as look the same, 70 for high quality, 50 for medium, 30 for low;
    it has no lower end. The score is not symmetric. Pictures with a side under 8 pixels, which the tool
    refuses, are continued by their border.
    """

    def forward(self, a: Pictures, b: Pictures) -> Float[Tensor, " b"]:
        """Return the scores of pictures `a` whose originals are `b`, sRGB in [0, 1]."""
        norms = []
        x, y = (_linear(extended(z, SMALLEST)) for z in (a, b))
        for scale in range(SCALES):
            if min(x.shape[-2:]) < SMALLEST:
                break
            if scale:
                x, y = _halved(x), _halved(y)
            norms.append(_norms(_xyb(x), _xyb(y)))
        # With fewer scales than six the tool counts the weights on from channel to channel, without gaps.
        values = torch.stack(norms, 2).flatten(1)
        weights = torch.tensor(WEIGHTS, dtype=values.dtype, device=values.device).flatten()
        return _score(values @ weights[: values.shape[1]])


def _score(error: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Return the score of a weighted error, on the viewers' scale."""
    e = 0.9562382616834844 * error
    e = 2.326765642916932 * e - 0.020884521182843837 * e**2 + 6.248496625763138e-05 * e**3
    return 100 - 10 * e.clamp(min=0) ** 0.6276336467831387


def _linear(x: Pictures) -> Pictures:
    """Return the linear light of sRGB."""
    return torch.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055).clamp(min=0) ** 2.4)


def _halved(x: Pictures) -> Float[Tensor, "b 3 half_h half_w"]:
    """Return the means of squares of 2 x 2 pixels; an odd last row or column counts twice."""
    height, width = x.shape[-2:]
    return F.avg_pool2d(F.pad(x, (0, width % 2, 0, height % 2), mode="replicate"), 2)


def _xyb(linear: Pictures) -> Pictures:
    """Return X, Y and B - Y of linear RGB, scaled and shifted to about [0, 1]."""
    cones = torch.einsum("ij,bjhw->bihw", linear.new_tensor(OPSIN), linear) + OPSIN_BIAS
    long, medium, short = (cones.clamp(min=0) ** (1 / 3) - OPSIN_BIAS ** (1 / 3)).unbind(1)
    x, y = (long - medium) / 2, (long + medium) / 2
    return torch.stack([14 * x + 0.42, y + 0.01, short - y + 0.55], 1)


def _norms(x: Pictures, y: Pictures) -> Float[Tensor, "b 3 6"]:
    """Return the mean and the 4-norm of the three maps in every channel, `y` being the original."""
    mean_x, mean_y, square_x, square_y, product = _blurred(torch.cat([x, y, x * x, y * y, x * y], 1)).chunk(
        5, 1
    )
    luminance = 1 - (mean_x - mean_y) ** 2
    covariance = 2 * (product - mean_x * mean_y) + C2
    variances = (square_x - mean_x**2) + (square_y - mean_y**2) + C2
    structure = (1 - luminance * covariance / variances).clamp(min=0)
    edges = (1 + (x - mean_x).abs()) / (1 + (y - mean_y).abs()) - 1
    maps = torch.stack([structure, edges.clamp(min=0), (-edges).clamp(min=0)], 2)
    squares = maps**2
    fourth = (squares**2).mean((3, 4), dtype=torch.float64) ** 0.25
    return torch.cat([maps.mean((3, 4), dtype=torch.float64), fourth], 2)


def _blurred(maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Return maps under the Gaussian window; outside of the picture they are 0."""
    window = gaussian().to(maps)
    rows = window.reshape(1, 1, 1, -1).expand(maps.shape[1], 1, 1, -1)
    side = TAPS - 1
    across = F.conv2d(maps, rows, padding=(0, side), groups=len(rows))
    return F.conv2d(across, rows.mT, padding=(side, 0), groups=len(rows))


def gaussian() -> Float[Tensor, " taps"]:
    """Return the window as JPEG XL approximates it, by three cosines (Charalampidis 2016).

    "Recursive implementation of the Gaussian filter using truncated cosine functions", IEEE Transactions on
    Signal Processing 64 (14): cosines of 1, 3 and 5 quarter periods, with the amplitudes of the Gaussian's
    spectrum, changed as little as gives the window a sum of 1 and a variance of sigma^2.
    """
    offsets = torch.arange(1 - TAPS, TAPS, dtype=torch.float64)
    frequencies = torch.tensor([1.0, 3.0, 5.0], dtype=torch.float64) * torch.pi / (2 * TAPS)
    cosines = torch.cos(frequencies[:, None] * offsets)
    amplitudes = torch.exp(-((SIGMA * frequencies) ** 2) / 2) / TAPS
    moments = torch.stack([cosines.sum(1), (cosines * offsets**2).sum(1)])
    lacking = torch.tensor([1.0, SIGMA**2], dtype=torch.float64) - moments @ amplitudes
    change: Tensor = torch.linalg.pinv(moments) @ lacking
    return (amplitudes + change) @ cosines
