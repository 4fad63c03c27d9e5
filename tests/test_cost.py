"""What a recipe costs is counted as it will be, without spending it."""

import resource
import time
from typing import Any

import pytest

from refusion.cost import Cost, cost
from refusion.recipe import Recipe, parse


def recipe(**overrides: Any) -> Recipe:
    given = {name.replace("__", "."): value for name, value in overrides.items()}
    return parse(
        {
            "task": "test",
            "network": {"name": "ConditionalNAFNet", "width": 8, "encoder": [1], "middle": 1, "decoder": [1]},
            "codec": {"name": "Pixels", "factor": 2},
            "process": {"noise_level": "50/255"},
            "prediction": "clean",
            "data": {"patch": [32, 32]},
            "training": {"batch": 2},
        },
        "test",
        given,
    )


@pytest.mark.parametrize("network", [{}, {"network__encoder": [2, 1], "network__decoder": [1, 3]}])
@pytest.mark.parametrize("codec", [{"name": "Pixels"}, {"name": "Pyramid", "longest_side": 16}])
def test_parameters_are_counted(network: dict[str, Any], codec: dict[str, Any]) -> None:
    described = recipe(codec=codec, **network)
    real = sum(p.numel() for p in described.build().network.parameters())
    assert cost(described).parameters == real


def test_work_grows_with_the_pixels() -> None:
    """Apart from what there is once for every picture: the time and the channel attention."""
    one, two, three = (cost(recipe(data__patch=[32, 32 * n])).macs for n in (1, 2, 3))
    assert three - two == two - one
    assert 1.9 < two / one <= 2


def test_work_is_counted_as_by_hand() -> None:
    """One block of 8 channels between two convolutions of 3x3, at 16 x 16."""
    flat = {"name": "ConditionalNAFNet", "width": 8, "encoder": [], "middle": 1, "decoder": []}
    ends = 9 * (24 * 8 + 8 * 12)
    block = (2 + 1 + 2 + 1) * 8 * 8 + 9 * 16
    once = 8 * 64 + 32 * 32 + 16 * 32 + 8 * 8  # the time, its modulation, the channel attention
    assert cost(recipe(network=flat)).macs == 16 * 16 * (ends + block) + once


def test_work_is_of_one_sample_and_memory_of_a_batch() -> None:
    one, four = cost(recipe(training__batch=1)), cost(recipe(training__batch=4))
    assert one.macs == four.macs
    kept = [c.memory - 20 * c.parameters for c in (one, four)]
    assert 3.5 < kept[1] / kept[0] <= 4
    assert cost(recipe(training__batch=4, training__precision="bf16")).memory < four.memory


def test_a_pyramid_costs_the_same_for_every_size() -> None:
    codec = {"name": "Pyramid", "longest_side": 16, "factor": 2}
    assert cost(recipe(codec=codec)).macs == cost(recipe(codec=codec, data__patch=[2048, 2048])).macs


def test_a_huge_network_takes_no_memory() -> None:
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    counted = cost(recipe(network__width=2048, data__patch=[4096, 4096], training__batch=64))
    assert time.perf_counter() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300e3  # KiB
    assert counted.parameters > 1e8
    assert counted.memory > 1e12


def test_a_cost_is_a_line() -> None:
    assert str(Cost(2_500_000, 3_000_000_000, 2**30)) == (
        "2.50 M parameters, 3.00 GMAC a sample and pass, about 1.00 GiB a training step"
    )
