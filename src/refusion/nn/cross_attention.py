"""SCAM: cross-attention between two views of a scene (NAFSSR, Chu et al., arXiv 2204.08714, section 3.3)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from refusion.nn.layers import LayerNorm

DOWNSCALES = (1, 4)
"""Factors by which the views are reduced before attention: not at all (NAFSSR), or by 4 (Refusion)."""
QK_INIT_GAIN = 2.0
"""Gain of the query and key projections of a fresh module. They start as a multiple of the identity, so that
a position attends to those that look like it, sharply enough to stand out from the rest of the row."""
SCORES = 2**24
"""Largest number of attention scores in memory at one time; only a single row may have more."""


class SCAM(nn.Module):
    """Stereo cross-attention: to each view it adds features from the same row of the other view.

    Pictures 2i and 2i + 1 of a batch are the left and the right view of a scene, rectified. `beta` and
    `gamma` start at zero, so a fresh module is the identity, although its attention already matches
    positions that look alike.

    Args:
        downscale: factor by which the views are reduced first. By 4, bicubic sampling reads blocks of exactly
            4 x 4 and leaves out the rest at the ends. 1 keeps every position, and resolves shifts of one.
    """

    def __init__(self, channels: int, downscale: int = 4) -> None:
        super().__init__()
        c, self.downscale = channels, downscale
        self.norm_l, self.norm_r = LayerNorm(c), LayerNorm(c)
        self.l_proj1, self.r_proj1 = nn.Conv2d(c, c, 1), nn.Conv2d(c, c, 1)
        self.l_proj2, self.r_proj2 = nn.Conv2d(c, c, 1), nn.Conv2d(c, c, 1)
        for projection in (self.l_proj1, self.r_proj1):
            scaled_identity = {"weight": QK_INIT_GAIN * torch.eye(c)[..., None, None], "bias": torch.zeros(c)}
            projection.load_state_dict(scaled_identity)
        self.beta = nn.Parameter(torch.zeros(1, c, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, c, 1, 1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the views with features of each other; unchanged if a side is shorter than a block."""
        if self.downscale > 1 and min(x.shape[-2:]) < self.downscale:
            return x
        small = F.interpolate(x, scale_factor=1 / self.downscale, mode="bicubic") if self.downscale > 1 else x
        left, right = small[::2], small[1::2]
        q_l, q_r = _rows(self.l_proj1(self.norm_l(left))), _rows(self.r_proj1(self.norm_r(right)))
        to_left = attend(q_l, q_r, _rows(self.r_proj2(right)))
        to_right = attend(q_r, q_l, _rows(self.l_proj2(left)))
        weights = torch.stack([self.beta, self.gamma], dim=1).to(x.dtype)
        added = weights * torch.stack([_picture(rows, left) for rows in (to_left, to_right)], dim=1)
        added = added.flatten(0, 1)
        return x + (F.interpolate(added, size=x.shape[-2:], mode="nearest") if self.downscale > 1 else added)


def attend(
    q: Float[Tensor, "rows 1 w c"], k: Float[Tensor, "rows 1 w c"], v: Float[Tensor, "rows 1 w c"]
) -> Float[Tensor, "rows 1 w c"]:
    """Return softmax(q k^T / sqrt(c)) v within each row.

    Rows are attended in groups, so that memory is bounded also where torch computes the matrix of scores; in
    a graph for all sizes, in one.
    """
    if torch.compiler.is_exporting():
        return F.scaled_dot_product_attention(q, k, v)
    count = max(1, SCORES // q.shape[-2] ** 2)
    groups = zip(torch.split(q, count), torch.split(k, count), torch.split(v, count), strict=True)
    return torch.cat([F.scaled_dot_product_attention(*group) for group in groups])


def _rows(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "rows 1 w c"]:
    return x.permute(0, 2, 3, 1).flatten(0, 1)[:, None]


def _picture(rows: Float[Tensor, "rows 1 w c"], ref: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    return rows.reshape(ref.shape[0], -1, *rows.shape[-2:]).permute(0, 3, 1, 2)
