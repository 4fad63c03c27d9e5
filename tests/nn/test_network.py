"""What every network states of itself."""

import pytest
import torch
from torch import Tensor

from refusion.nn.nafnet import ConditionalNAFNet
from refusion.nn.network import Network
from refusion.nn.pooling import Pool, whole_mean
from refusion.nn.unet import ConditionalUNet


class Plain(Network):
    """Sets nothing."""

    def embed(self, t: Tensor, condition: Tensor | None = None) -> Tensor:
        return t[:, None]

    def forward(
        self, x_t: Tensor, mu: Tensor, t: Tensor, embedding: Tensor | None = None, pool: Pool = whole_mean
    ) -> Tensor:
        return x_t


def test_one_that_sets_nothing_sees_one_picture_with_its_mean_and_runs_on_whole_states() -> None:
    network = Plain()
    assert (network.num_views, network.num_conditions, network.conditional) == (1, 0, True)
    assert (network.multiple, network.reach, network.local, network.working_bytes) == (1, None, (), 0)


@pytest.mark.parametrize("missing", ["embed", "forward"])
def test_one_without_a_method_cannot_be_made(missing: str) -> None:
    rest = {name: vars(Plain)[name] for name in ("embed", "forward") if name != missing}
    with pytest.raises(TypeError, match=missing):
        type("Half", (Network,), rest)()


def test_what_the_networks_declare_is_what_they_were_made_for() -> None:
    with torch.device("meta"):
        stereo = ConditionalNAFNet(width=4, encoder=(1,), decoder=(1,), stereo=True)
        camera = ConditionalNAFNet(width=4, encoder=(1,), decoder=(1,), conditions=3)
        local = ConditionalNAFNet(width=4, encoder=(1,), decoder=(1,), local=(8, 12))
        denoiser = ConditionalUNet(width=4, multipliers=(1, 2), conditional=False)
    declared = [(n.num_views, n.num_conditions, n.conditional, n.local) for n in (stereo, camera, local)]
    assert declared == [(2, 0, True, ()), (1, 3, True, ()), (1, 0, True, (8, 12))]
    assert (denoiser.num_views, denoiser.num_conditions, denoiser.conditional) == (1, 0, False)
    assert [n.reach is None for n in (stereo, camera, local, denoiser)] == [False, False, True, True]
    assert all(n.working_bytes > 0 for n in (stereo, camera, local, denoiser))


def test_one_that_runs_another_declares_all_that_the_other_does() -> None:
    other, network = Plain(), Plain()
    for i, name in enumerate(Network.__annotations__):
        setattr(other, name, (name, i))
    network.declare_like(other)
    for name in Network.__annotations__:
        assert getattr(network, name) == getattr(other, name), name


@pytest.mark.parametrize(("views", "conditions"), [(1, 0), (2, 0), (1, 3), (2, 3)])
def test_it_takes_the_views_and_conditions_it_declares_and_no_others(views: int, conditions: int) -> None:
    network = Plain()
    network.num_views, network.num_conditions = views, conditions
    network.check(views, conditions)
    network.check(views)  # of what is not known yet nothing is said
    for given in {0, 1, 2, 3} - {views}:
        with pytest.raises(ValueError, match=rf"^{given} pictures: ") as caught:
            network.check(given, conditions)
        assert ("left and a right" if views == 2 else "one picture") in str(caught.value)
        assert "\n" not in str(caught.value)
    for given in {0, 1, 3, 4} - {conditions}:
        with pytest.raises(ValueError, match=rf"^condition has {given} numbers: .*takes {conditions}$"):
            network.check(views, given)
