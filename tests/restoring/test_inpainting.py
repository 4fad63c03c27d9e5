"""Filling holes: what is there is kept to the last bit, and what is missing enters as white."""

from collections.abc import Callable

import numpy as np
import pytest
from torch import Tensor

from refusion.diffusion.sampling import SAMPLERS
from refusion.diffusion.sde import MeanRevertingSDE
from refusion.imaging.arrays import from_array
from refusion.imaging.resize import Enlarge
from refusion.nn.nafnet import ConditionalNAFNet
from refusion.nn.pooling import Pool, whole_mean
from refusion.restoring.codec import Pixels
from refusion.restoring.request import Sampling
from refusion.restoring.restorer import Restorer
from restorers import ask, photo, small_restorer

Make = Callable[..., Restorer]


class Spied(ConditionalNAFNet):
    """Keeps what it is shown as the degraded picture."""

    seen: Tensor

    def forward(
        self, x_t: Tensor, mu: Tensor, t: Tensor, embedding: Tensor | None = None, pool: Pool = whole_mean
    ) -> Tensor:
        self.seen = mu
        return super().forward(x_t, mu, t, embedding, pool)


@pytest.fixture(scope="module")
def make(sde: MeanRevertingSDE) -> Make:
    """A small network that changes every pixel."""
    return lambda enlarge=Enlarge(): small_restorer(
        sde, Pixels(), Spied, enlarge=enlarge, sampling=Sampling(steps=2)
    )


def box() -> np.ndarray:
    holes = np.zeros((13, 22), np.float32)
    holes[3:9, 5:17] = 1
    return holes


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_is_there_is_kept_to_the_last_bit_and_the_rest_is_made(make: Make, sampler: str) -> None:
    lq, holes = photo(), box() > 0
    filled = make()(lq, mask=box(), sampler=sampler).pixels
    np.testing.assert_array_equal(filled[~holes], lq[~holes])
    changed = np.abs(filled - lq).max(-1)[holes]
    assert (changed > 0).mean() > 0.99
    assert changed.max() > 0.05


def test_holes_enter_as_white_and_the_rest_as_it_is(make: Make) -> None:
    restore, lq, holes = make(), photo(), box() > 0
    restore(lq, mask=box())
    assert isinstance(restore.network, Spied)
    seen = restore.network.seen[0].permute(1, 2, 0).numpy()
    assert (seen[holes] == 1).all()
    np.testing.assert_array_equal(seen[~holes], lq[~holes])


def test_what_a_hole_hides_changes_nothing(make: Make) -> None:
    one, other, holes = photo(), photo(), box() > 0
    other[holes] = 0
    results = [make()(lq, mask=box()).pixels for lq in (one, other)]
    np.testing.assert_array_equal(*results)


def test_it_is_the_restoration_of_the_picture_with_white_holes(make: Make) -> None:
    lq, holes = photo(), box() > 0
    white = lq.copy()
    white[holes] = 1
    filled, restored = make()(lq, mask=box(), seed=5), make()(white, seed=5)
    np.testing.assert_array_equal(filled.pixels[holes], restored.pixels[holes])


def test_without_a_hole_the_picture_is_kept_and_with_nothing_else_it_is_made(make: Make) -> None:
    lq = photo()
    kept = ask(make(), lq, mask=np.zeros((13, 22), np.float32))
    np.testing.assert_array_equal(kept.image.pixels, lq)
    assert [notice.key for notice in kept.warnings] == ["unchanged"]
    made = make()(lq, mask=np.ones((13, 22), np.float32)).pixels
    white = make()(np.ones_like(lq)).pixels  # which is without colour, and comes back so
    np.testing.assert_allclose(made.mean(-1), white[..., 0], atol=1e-6)


def test_soft_edges_of_a_hole_enter_mixed_and_are_made(make: Make) -> None:
    restore, lq, holes = make(), photo(), box()
    holes[3] = 0.25
    filled = restore(lq, mask=holes).pixels
    assert isinstance(restore.network, Spied)
    seen = restore.network.seen[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(seen[3], 0.75 * lq[3] + 0.25, atol=1e-6)
    assert (np.abs(filled - lq)[3].max(-1) > 0).all()


@pytest.mark.parametrize("kind", [np.float16, np.float64, np.bool_, np.uint8])
def test_a_mask_of_any_type_is_taken(make: Make, kind: type) -> None:
    expected = make()(photo(), mask=box()).pixels
    np.testing.assert_array_equal(make()(photo(), mask=box().astype(kind)).pixels, expected)


def test_depth_and_alpha_pass_through(make: Make) -> None:
    rgba = np.round(65535 * photo(channels=4)).astype(np.uint16)
    source, holes = from_array(rgba), box() > 0
    filled = make()(source, mask=box())
    assert filled.depth == 16
    assert filled.alpha is not None
    np.testing.assert_array_equal(filled.alpha, source.alpha)
    np.testing.assert_array_equal(filled.pixels[~holes], source.pixels[~holes])


def test_the_picture_and_the_mask_are_left_alone(make: Make) -> None:
    lq, holes = photo(), box()
    make()(lq, mask=holes)
    np.testing.assert_array_equal(lq, photo())
    np.testing.assert_array_equal(holes, box())


@pytest.mark.parametrize("size", [(22, 13), (13, 21), (1, 1)])
def test_a_mask_of_another_size_is_an_error_that_names_both(make: Make, size: tuple[int, int]) -> None:
    said = f"^the mask is {size[1]}x{size[0]} and the picture 22x13: give equal ones$"
    with pytest.raises(ValueError, match=said):
        make()(photo(), mask=np.zeros(size, np.float32))


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_samples_are_filled_each_and_agree_on_what_is_there(make: Make, samples: int) -> None:
    restore, lq, holes = make(), photo(), box() > 0
    filled = ask(restore, lq, mask=box(), samples=samples, seed=2)
    np.testing.assert_array_equal(filled.image.pixels[~holes], lq[~holes])
    alone = np.stack([restore(lq, mask=box(), seed=2 + i).pixels for i in range(samples)])
    np.testing.assert_allclose(filled.image.pixels, alone.mean(0), atol=1e-6)
    if samples > 1:
        (std,) = filled.stds
        assert (std[~holes] == 0).all()
        assert (std[holes] > 0).mean() > 0.5  # elsewhere all are black, or white
        np.testing.assert_allclose(std, np.sqrt(alone.var(0, ddof=1).mean(-1)), atol=1e-6)


def test_every_step_of_a_trajectory_keeps_what_is_there(make: Make) -> None:
    lq, holes = photo(), box() > 0
    filled = ask(make(), lq, mask=box(), trajectory=True)
    assert len(filled.trajectory) == 2
    for image in filled.trajectory:
        np.testing.assert_array_equal(image.pixels[~holes], lq[~holes])
    first, last = (image.pixels[holes] for image in filled.trajectory)
    assert np.abs(first - last).max() > 0.01


def test_a_model_that_makes_more_pixels_fills_no_holes(make: Make) -> None:
    with pytest.raises(ValueError, match=r"mask: .* 3 times") as caught:
        make(enlarge=Enlarge(3))(photo(), mask=box())
    assert "\n" not in str(caught.value)
