"""What shadow removal does where there is no shadow: python benchmarks/outside.py PAIRS [MODEL]

Pixels whose surroundings differ by less than 8 grey levels between lq and gt count as outside.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import refusion
from refusion.data.pairs import find_pairs


def outside(lq: torch.Tensor, gt: torch.Tensor) -> torch.Tensor:
    """(h, w), true far from every shadow."""
    difference = (gt - lq).abs().mean(0)[None, None]
    return F.avg_pool2d(difference, 15, 1, 7, count_include_pad=False)[0, 0] < 8 / 255


def sharpness(picture: torch.Tensor, where: torch.Tensor) -> float:
    """Mean absolute difference of horizontal neighbours."""
    return float((picture[:, :, 1:] - picture[:, :, :-1]).abs().mean(0)[where[:, 1:]].mean())


def main() -> None:
    restore = refusion.load(sys.argv[2] if len(sys.argv) > 2 else "shadow-removal", "cpu")
    changes, ratios, clean = [], [], []
    for pair in find_pairs(Path(sys.argv[1])):
        (lq,), (gt,), *_ = pair.read()
        restored, where = restore(lq).tensor(), outside(lq.tensor(), gt.tensor())
        untouched = restore.run(restore.request(gt)).image  # that nothing changed is no warning here
        clean.append(float((untouched.tensor() - gt.tensor()).abs().mean()))
        if where.float().mean() > 0.02:
            changes.append(float((restored - lq.tensor()).abs().mean(0)[where].mean()))
            ratios.append(sharpness(restored, where) / sharpness(lq.tensor(), where))
    print(
        f"outside shadows, {len(changes)} pictures: mean change {255 * np.mean(changes):.1f} grey levels, ",
        end="",
    )
    print(f"median over pictures {255 * np.median(changes):.1f}, sharpness times {np.mean(ratios):.3f}")
    print(f"pictures without shadow: mean change {255 * np.mean(clean):.1f} grey levels of 255")


if __name__ == "__main__":
    main()
