"""Filling holes: what is there is kept to the last bit, and what is missing enters as white."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from refusion.codec import Pixels
from refusion.image import from_array
from refusion.nn import ConditionalNAFNet
from refusion.prediction import Clean
from refusion.restorer import SAMPLERS, Restorer, Sampling
from refusion.sde import MeanRevertingSDE

Make = Callable[..., Restorer]


class Spied(ConditionalNAFNet):
    """Keeps what it is shown as the degraded picture."""

    seen: Tensor

    def forward(self, x_t: Tensor, mu: Tensor, t: Tensor, embedding: Tensor | None = None) -> Tensor:  # type: ignore[override]
        self.seen = mu
        return super().forward(x_t, mu, t, embedding)


@pytest.fixture(scope="module")
def make(sde: MeanRevertingSDE) -> Make:
    """A small network that changes every pixel."""

    def build() -> Restorer:
        torch.manual_seed(0)
        network = Spied(3, 4, (1,), 1, (1,))
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.2)
        return Restorer(network.requires_grad_(False).eval(), Pixels(), sde, Clean(), Sampling(steps=2))

    return build


def photo(channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).uniform(0.2, 0.8, (13, 22, channels)).astype(np.float32)


def box() -> np.ndarray:
    holes = np.zeros((13, 22), np.float32)
    holes[3:9, 5:17] = 1
    return holes


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_is_there_is_kept_to_the_last_bit_and_the_rest_is_made(make: Make, sampler: str) -> None:
    lq, holes = photo(), box() > 0
    filled = make().fill(lq, box(), sampler=sampler).pixels
    np.testing.assert_array_equal(filled[~holes], lq[~holes])
    changed = np.abs(filled - lq).max(-1)[holes]
    assert (changed > 0).mean() > 0.99
    assert changed.max() > 0.05


def test_holes_enter_as_white_and_the_rest_as_it_is(make: Make) -> None:
    restore, lq, holes = make(), photo(), box() > 0
    restore.fill(lq, box())
    assert isinstance(restore.network, Spied)
    seen = restore.network.seen[0].permute(1, 2, 0).numpy()
    assert (seen[holes] == 1).all()
    np.testing.assert_array_equal(seen[~holes], lq[~holes])


def test_what_a_hole_hides_changes_nothing(make: Make) -> None:
    one, other, holes = photo(), photo(), box() > 0
    other[holes] = 0
    results = [make().fill(lq, box()).pixels for lq in (one, other)]
    np.testing.assert_array_equal(*results)


def test_it_is_the_restoration_of_the_picture_with_white_holes(make: Make) -> None:
    lq, holes = photo(), box() > 0
    white = lq.copy()
    white[holes] = 1
    filled, restored = make().fill(lq, box(), seed=5), make()(white, seed=5)
    np.testing.assert_array_equal(filled.pixels[holes], restored.pixels[holes])


def test_without_a_hole_the_picture_is_kept_and_with_nothing_else_it_is_made(make: Make) -> None:
    lq = photo()
    np.testing.assert_array_equal(make().fill(lq, np.zeros((13, 22), np.float32)).pixels, lq)
    made = make().fill(lq, np.ones((13, 22), np.float32)).pixels
    np.testing.assert_array_equal(made, make()(np.ones_like(lq)).pixels)


def test_soft_edges_of_a_hole_enter_mixed_and_are_made(make: Make) -> None:
    restore, lq, holes = make(), photo(), box()
    holes[3] = 0.25
    filled = restore.fill(lq, holes).pixels
    assert isinstance(restore.network, Spied)
    seen = restore.network.seen[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(seen[3], 0.75 * lq[3] + 0.25, atol=1e-6)
    assert (np.abs(filled - lq)[3].max(-1) > 0).all()


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_a_mask_of_any_precision_is_taken(make: Make, kind: type) -> None:
    expected = make().fill(photo(), box()).pixels
    np.testing.assert_array_equal(make().fill(photo(), box().astype(kind)).pixels, expected)


def test_depth_and_alpha_pass_through(make: Make) -> None:
    rgba = np.round(65535 * photo(4)).astype(np.uint16)
    source, holes = from_array(rgba), box() > 0
    filled = make().fill(source, box())
    assert filled.depth == 16
    assert filled.alpha is not None
    np.testing.assert_array_equal(filled.alpha, source.alpha)
    np.testing.assert_array_equal(filled.pixels[~holes], source.pixels[~holes])


def test_the_picture_and_the_mask_are_left_alone(make: Make) -> None:
    lq, holes = photo(), box()
    make().fill(lq, holes)
    np.testing.assert_array_equal(lq, photo())
    np.testing.assert_array_equal(holes, box())


@pytest.mark.parametrize("size", [(22, 13), (13, 21), (1, 1)])
def test_a_mask_of_another_size_is_an_error_that_names_both(make: Make, size: tuple[int, int]) -> None:
    said = f"^the mask is {size[1]}x{size[0]} and the picture 22x13: give equal ones$"
    with pytest.raises(ValueError, match=said):
        make().fill(photo(), np.zeros(size, np.float32))
