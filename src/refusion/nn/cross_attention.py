"""SCAM: what two views of a scene tell each other (NAFSSR, Chu et al., arXiv 2204.08714, section 3.3)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from refusion.nn.layers import LayerNorm

SHRINKS = (1, 4)
"""The views meet as they are (NAFSSR), or at a quarter of their size (Refusion's change)."""
LIKENESS = 2.0
"""What the projections of a fresh module multiply by: queries and keys are then the features themselves, so
that points find those that look like them, sharply enough to be told from the rest of their row."""
SCORES = 2**24
"""Scores of attention, at most, at one time; only a single row may have more."""


class SCAM(nn.Module):
    """Stereo cross-attention: each view adds what it finds along the same row of the other.

    Pictures 2i and 2i + 1 of a batch are the left and the right view of a scene, rectified. `beta` and
    `gamma` start at zero, so a fresh module is the identity; but it already finds what looks alike.

    Args:
        shrink: by exactly 4, bicubic sampling takes blocks of 4 x 4 and nothing beyond; what is left over
            at the ends is not looked at. 1 keeps every position, and sees shifts of a single one.
    """

    def __init__(self, channels: int, shrink: int = 4) -> None:
        super().__init__()
        c, self.shrink = channels, shrink
        self.norm_l, self.norm_r = LayerNorm(c), LayerNorm(c)
        self.l_proj1, self.r_proj1 = nn.Conv2d(c, c, 1), nn.Conv2d(c, c, 1)
        self.l_proj2, self.r_proj2 = nn.Conv2d(c, c, 1), nn.Conv2d(c, c, 1)
        for projection in (self.l_proj1, self.r_proj1):
            alike = {"weight": LIKENESS * torch.eye(c)[..., None, None], "bias": torch.zeros(c)}
            projection.load_state_dict(alike)
        self.beta = nn.Parameter(torch.zeros(1, c, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, c, 1, 1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The views with what they saw in each other; as they are where a side is shorter than a block."""
        if min(x.shape[-2:]) < self.shrink:
            return x
        small = F.interpolate(x, scale_factor=1 / self.shrink, mode="bicubic") if self.shrink > 1 else x
        left, right = small[::2], small[1::2]
        q_l, q_r = _rows(self.l_proj1(self.norm_l(left))), _rows(self.r_proj1(self.norm_r(right)))
        to_left = attend(q_l, q_r, _rows(self.r_proj2(right)))
        to_right = attend(q_r, q_l, _rows(self.l_proj2(left)))
        weights = torch.stack([self.beta, self.gamma], dim=1).to(x.dtype)
        found = weights * torch.stack([_picture(rows, left) for rows in (to_left, to_right)], dim=1)
        found = found.flatten(0, 1)
        return x + (F.interpolate(found, size=x.shape[-2:], mode="nearest") if self.shrink > 1 else found)


def attend(
    q: Float[Tensor, "rows 1 w c"], k: Float[Tensor, "rows 1 w c"], v: Float[Tensor, "rows 1 w c"]
) -> Float[Tensor, "rows 1 w c"]:
    """softmax(q k^T / sqrt(c)) v within each row. Rows are taken so many at a time that their scores are
    bounded also where torch has no attention that does without a matrix of them."""
    count = max(1, SCORES // q.shape[-2] ** 2)
    parts = zip(*(torch.split(x, count) for x in (q, k, v)), strict=True)
    return torch.cat([F.scaled_dot_product_attention(*part) for part in parts])


def _rows(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "rows 1 w c"]:
    return x.permute(0, 2, 3, 1).flatten(0, 1)[:, None]


def _picture(rows: Float[Tensor, "rows 1 w c"], like: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    return rows.reshape(len(like), -1, *rows.shape[-2:]).permute(0, 3, 1, 2)
