"""What a restoration needs at least is estimated, and refused where it is not free."""

import pytest
import torch

from refusion.diffusion.sde import MeanRevertingSDE
from refusion.errors import ImageError
from refusion.restoring import admission
from refusion.restoring.admission import Demand
from refusion.restoring.codec import Pixels, Pyramid
from restorers import photo, small_restorer

CPU = torch.device("cpu")


def test_what_does_not_fit_is_refused_with_its_size_and_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "free_memory", lambda device: 3 * 2**30)
    Demand(2**30, 2**31).admit("a.png", CPU)
    with pytest.raises(
        ImageError, match=r"^a\.png needs 3\.50 GiB .* 3\.00 GiB are free on cpu: .*--tile"
    ) as caught:
        Demand(3 * 2**29, 2**31).admit("a.png", CPU)
    assert "\n" not in str(caught.value)


def test_pictures_and_states_are_in_the_memory_of_their_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"cpu": 100, "cuda": 50}
    monkeypatch.setattr(admission, "free_memory", lambda device: free[device.type])
    cuda = torch.device("cuda")
    Demand(100, 50).admit("a.png", cuda)
    for host, device, place in ((101, 0, "cpu"), (0, 51, "cuda")):
        with pytest.raises(ImageError, match=f"free on {place}"):
            Demand(host, device).admit("a.png", cuda)


@pytest.mark.parametrize("codec", [Pixels(2), Pyramid(64, 2)], ids=repr)
def test_more_pixels_samples_and_steps_need_more(sde: MeanRevertingSDE, codec: Pixels) -> None:
    restorer = small_restorer(sde, codec)

    def total(side: int, **options: object) -> int:
        needed = restorer.demand((side, side), **options)  # type: ignore[arg-type]
        return needed.host + needed.device

    sizes = [total(side) for side in (1, 100, 1000, 4000, 11000, 20000)]  # 4000 whole, 11000 in strips
    assert sizes == sorted(sizes)
    assert sizes[-1] > 12 * 20000**2
    assert total(1000, samples=2) > total(1000)
    assert total(1000, trajectory=True, steps=9) > total(1000, trajectory=True, steps=5) > total(1000)
    assert total(4000, tile=2000) >= total(4000)


def test_a_large_pyramid_needs_no_copies(sde: MeanRevertingSDE) -> None:
    needed = small_restorer(sde, Pyramid(64, 2)).demand((10_000, 10_000))
    assert needed.host + needed.device < 1.2 * 12 * 10**8


def test_a_request_that_does_not_fit_is_refused_unless_a_budget_is_handed_in(
    sde: MeanRevertingSDE, monkeypatch: pytest.MonkeyPatch
) -> None:
    restorer = small_restorer(sde)
    monkeypatch.setattr(admission, "free_memory", lambda device: 1000)
    with pytest.raises(ImageError, match="22 x 13 pixels needs"):
        restorer.run(restorer.request(photo()))
    assert restorer.run(restorer.request(photo(), memory=2**30)).image.size == (22, 13)
