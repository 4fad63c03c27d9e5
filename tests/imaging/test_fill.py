"""The harmonic fill: the membrane over a hole, and nothing else."""

import numpy as np
import pytest
import skimage.data
import torch
from scipy.sparse import coo_matrix, diags
from scipy.sparse.linalg import spsolve

from refusion.imaging import fill
from refusion.imaging.fill import FILLS, harmonic_fill


def ramp(height: int, width: int) -> torch.Tensor:
    """Each colour a plane, which is harmonic."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([0.01 * x, 0.3 + 0.005 * y, 0.9 - 0.004 * x - 0.003 * y]).float()


def box(height: int, width: int, rows: slice, columns: slice) -> torch.Tensor:
    mask = torch.zeros(1, height, width)
    mask[:, rows, columns] = 1
    return mask


def membrane(picture: np.ndarray, holes: np.ndarray) -> np.ndarray:
    """The exact solution, by elimination."""
    number = np.full(holes.shape, -1)
    number[holes] = np.arange(holes.sum())
    y, x = np.nonzero(holes)
    rows, columns, neighbours = [], [], np.zeros(len(y))
    right = np.zeros((len(y), picture.shape[-1]))
    for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        inside = (y + dy >= 0) & (y + dy < holes.shape[0]) & (x + dx >= 0) & (x + dx < holes.shape[1])
        neighbours += inside
        (own,) = np.nonzero(inside)
        other = number[y[own] + dy, x[own] + dx]
        rows.append(own[other >= 0])
        columns.append(other[other >= 0])
        known = own[other < 0]
        right[known] += picture[y[known] + dy, x[known] + dx]
    places = (np.concatenate(rows), np.concatenate(columns))
    links = coo_matrix((np.ones(len(places[0])), places), (len(y), len(y)))
    filled = picture.copy()
    filled[holes] = spsolve((diags(neighbours) - links).tocsc(), right)
    return filled


@pytest.mark.parametrize("thickness", [2, 9, 40])
def test_it_is_the_solution_of_laplaces_equation(thickness: int) -> None:
    picture = skimage.data.astronaut()[100:228, 150:278] / 255
    holes = np.zeros((128, 128), bool)
    holes[20 : 20 + thickness, 10:110] = holes[60:, 50 : 50 + thickness] = True  # to the border, too
    expected = membrane(picture, holes)
    filled = harmonic_fill(
        torch.from_numpy(picture).permute(2, 0, 1).float(), torch.from_numpy(holes).float()[None]
    )
    error = np.abs(filled.permute(1, 2, 0).numpy() - expected)[holes]
    assert error.max() < 0.03
    assert error.mean() < 0.006


@pytest.mark.parametrize("small", [0, 2**20])
def test_a_plane_is_continued(monkeypatch: pytest.MonkeyPatch, small: int) -> None:
    """Colours are filled together or, in a large picture, one after the other."""
    monkeypatch.setattr(fill, "SMALL", small)
    plane, mask = ramp(41, 67), box(41, 67, slice(5, 30), slice(20, 51))
    filled = harmonic_fill(plane * (1 - mask) + 7 * mask, mask)
    torch.testing.assert_close(filled, plane, atol=4e-3, rtol=0)


def test_what_is_kept_is_kept_to_the_bit_and_what_is_hidden_does_not_matter() -> None:
    picture, mask = torch.rand(3, 30, 41), (torch.rand(1, 30, 41) > 0.6).float()
    filled = harmonic_fill(picture, mask)
    assert torch.equal(filled[:, mask[0] == 0], picture[:, mask[0] == 0])
    assert torch.equal(filled, harmonic_fill(picture + mask, mask))
    assert bool((filled >= picture.amin() - 1e-3).all() and (filled <= picture.amax() + 1e-3).all())


def test_any_share_of_a_mask_is_a_hole() -> None:
    picture, mask = torch.rand(3, 20, 20), box(20, 20, slice(4, 9), slice(3, 12))
    assert torch.equal(harmonic_fill(picture, mask), harmonic_fill(picture, 0.2 * mask))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (17, 5)])
def test_pictures_of_any_size_are_filled_and_a_hole_of_everything_ends(size: tuple[int, int]) -> None:
    picture = torch.rand(3, *size)
    assert torch.equal(harmonic_fill(picture, torch.zeros(1, *size)), picture)
    assert bool(harmonic_fill(picture, torch.ones(1, *size)).isfinite().all())
    if size[1] > 1:
        half = box(*size, slice(None), slice(1, None))
        filled = harmonic_fill(picture, half)
        assert bool((filled >= picture[..., :1].amin() - 1e-3).all())
        assert torch.equal(filled[..., 0], picture[..., 0])


def test_fills_have_names() -> None:
    picture, mask = torch.rand(3, 8, 8), box(8, 8, slice(2, 5), slice(2, 6))
    assert bool((FILLS["white"](picture, mask)[:, mask[0] > 0] == 1).all())
    assert torch.equal(FILLS["harmonic"](picture, mask), harmonic_fill(picture, mask))
