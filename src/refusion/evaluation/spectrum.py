"""Radially averaged power spectra: how much structure of each size a picture has, wherever it lies.

They see texture that is missing or too much, and do not mind where its grains are.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from refusion.evaluation.metrics import Pictures, extended

RINGS = 32
"""Rings of equal width from frequency 0 to 1/2 cycle a pixel."""
SMALLEST = 8
FLOOR = 1 / 12 / 255**2
"""Power of rounding to 8 bit, which is added everywhere: what is weaker is not there."""
LUMA = (0.299, 0.587, 0.114)
"""Y of ITU-R BT.601."""


class Spectrum(nn.Module):
    """The distance of the spectra of two pictures: the mean absolute difference over the rings, in dB.

    It is symmetric and 0 for equal pictures.
    """

    def forward(self, a: Pictures, b: Pictures) -> Float[Tensor, " b"]:
        """Return distances of pictures in [0, 1]."""
        return (spectrum(a) - spectrum(b)).abs().nanmean(1)


class Detail(nn.Module):
    """How much more fine detail one picture has than another, in dB.

    It is the mean difference over the rings of the upper half of the frequencies, from 1/4 cycle a pixel:
    -3 where half of the power is missing, 0 for equal pictures, above 0 for noise. Exchanged pictures
    change the sign.
    """

    def forward(self, a: Pictures, b: Pictures) -> Float[Tensor, " b"]:
        """Return the excess of pictures `a` over pictures `b`, both in [0, 1]."""
        difference = spectrum(a) - spectrum(b)
        return difference[:, RINGS // 2 :].nanmean(1)


def spectrum(x: Pictures) -> Float[Tensor, "b rings"]:
    """Return the mean power of luma in rings of frequency, in dB; white noise of variance v has 10 log10 v.

    A Hann window keeps the edges of the picture out of it. Pictures with a side under 8 pixels are continued
    by their border; rings into which no frequency of a small picture falls are NaN.
    """
    x = extended(x, SMALLEST)
    height, width = x.shape[-2:]
    windows = [torch.hann_window(n, periodic=False, device=x.device) for n in (height, width)]
    window = windows[0][:, None] * windows[1]
    luma = torch.einsum("c,bchw->bhw", x.new_tensor(LUMA), x)
    mean = (luma * window).sum((1, 2), keepdim=True) / window.sum()
    power = torch.fft.fft2((luma - mean) * window).abs() ** 2 / window.square().sum()
    vertical, horizontal = (torch.fft.fftfreq(n, device=x.device) for n in (height, width))
    radius = torch.hypot(vertical[:, None], horizontal)
    inside = (radius > 0) & (radius < 0.5)
    ring = (radius[inside] * 2 * RINGS).long()
    counts = torch.bincount(ring, minlength=RINGS)
    sums = power.new_zeros(len(x), RINGS).index_add(1, ring, power[:, inside])
    return 10 * torch.log10(sums / counts + FLOOR)
