"""Holes are cut out as published models expect it, and found where a picture was painted over."""

import numpy as np
import pytest
import torch
from torch import Tensor

from refusion.imaging.masks import apply_mask, mask_from_colour


def picture(size: tuple[int, int], seed: int = 0) -> Tensor:
    """Noise in which all values from black to white occur."""
    return torch.from_numpy(np.random.default_rng(seed).uniform(-0.2, 1.2, (3, *size))).float().clamp(0, 1)


def source(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_masked_picture_is_gt_m_and_white_elsewhere() -> None:
    gt, m = picture((8, 9)), torch.from_numpy(source().uniform(0, 1, (1, 8, 9))).float().round(decimals=0)
    torch.testing.assert_close(apply_mask(gt, 1 - m), gt * m + (1 - m), rtol=0, atol=0)
    assert torch.equal(apply_mask(gt, torch.zeros(1, 8, 9)), gt)
    assert torch.equal(apply_mask(gt, torch.ones(1, 8, 9)), torch.ones(3, 8, 9))
    torch.testing.assert_close(apply_mask(gt, torch.full((1, 8, 9), 0.5)), (gt + 1) / 2)


@pytest.mark.parametrize("colour", ["#ff00ff", "FF00FF"])
@pytest.mark.parametrize("change", [0.0, 0.1])
def test_what_is_painted_over_is_found_and_one_pixel_around(colour: str, change: float) -> None:
    canvas = 0.8 * picture((16, 20))
    magenta = torch.tensor([1 - change, change, 1.0])[:, None, None]
    canvas[:, 4:9, 6:12] = magenta
    expected = torch.zeros(1, 16, 20)
    expected[:, 3:10, 5:13] = 1
    found = mask_from_colour(canvas, colour)
    assert torch.equal(found, expected)
    lq = apply_mask(canvas, found)
    assert torch.equal(lq[:, 3:10, 5:13], torch.ones(3, 7, 8))
    assert float(mask_from_colour(lq, colour).max()) == 0


def test_another_colour_is_not_what_is_painted() -> None:
    canvas = torch.tensor([1.0, 0.2, 1.0])[:, None, None].expand(3, 5, 6)
    assert float(mask_from_colour(canvas, "#ff00ff").max()) == 0
    assert float(mask_from_colour(canvas, "#ff00ff", tolerance=0.25).min()) == 1
    assert float(mask_from_colour(canvas, "#ff33ff").min()) == 1


@pytest.mark.parametrize("colour", ["magenta", "#fff", "#ff00fg", "#ff00ff00", ""])
def test_a_colour_of_another_notation_is_named(colour: str) -> None:
    with pytest.raises(ValueError, match=f"colour is '{colour}': give six hexadecimal digits, as #ff00ff"):
        mask_from_colour(picture((4, 4)), colour)
