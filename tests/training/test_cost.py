"""What a recipe costs is counted as it will be, without spending it."""

import resource
import time
from typing import Any

import pytest

from refusion.training.cost import Cost, cost
from refusion.training.recipe import Recipe, parse
from tiny import SMALLEST


def recipe(**overrides: Any) -> Recipe:
    given = {name.replace("__", "."): value for name, value in overrides.items()}
    return parse(
        {
            **SMALLEST,
            "model": {**SMALLEST["model"], "network": {**SMALLEST["model"]["network"], "width": 8}},
            "data": {"patch": [32, 32]},
            "training": {"batch": 2},
        },
        "test",
        given,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "network", [{}, {"model__network__encoder": [2, 1], "model__network__decoder": [1, 3]}]
)
@pytest.mark.parametrize("codec", [{"name": "Pixels"}, {"name": "Pyramid", "longest_side": 16}])
def test_parameters_are_counted(network: dict[str, Any], codec: dict[str, Any]) -> None:
    described = recipe(model__codec=codec, **network)
    real = sum(p.numel() for p in described.model.build().network.parameters())
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
    assert cost(recipe(model__network=flat)).macs == 16 * 16 * (ends + block) + once


def test_work_is_of_one_sample_and_memory_of_a_batch() -> None:
    one, four = cost(recipe(training__batch=1)), cost(recipe(training__batch=4))
    assert one.macs == four.macs
    kept = [c.memory - 20 * c.parameters for c in (one, four)]
    assert 3.5 < kept[1] / kept[0] <= 4
    half, whole = (cost(recipe(training__precision=precision)).memory for precision in ("bf16", "32"))
    assert half < whole


def test_a_pyramid_costs_the_same_for_every_size() -> None:
    codec = {"name": "Pyramid", "longest_side": 16, "factor": 2}
    assert (
        cost(recipe(model__codec=codec)).macs
        == cost(recipe(model__codec=codec, data__patch=[2048, 2048])).macs
    )


def test_a_huge_network_takes_no_memory() -> None:
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    counted = cost(recipe(model__network__width=2048, data__patch=[4096, 4096], training__batch=64))
    assert time.perf_counter() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300e3  # KiB
    assert counted.parameters > 1e8
    assert counted.memory > 1e12


def test_a_cost_is_a_line() -> None:
    assert str(Cost(2_500_000, 3_000_000_000, 0, 2**30)) == (
        "2.50 M parameters, 3.00 GMAC a sample and pass, about 1.00 GiB a training step"
    )
    assert str(Cost(2_500_000, 3_000_000_000, 1_250_000_000, 2**30)) == (
        "2.50 M parameters, 3.00 GMAC a sample and pass and 1.25 in the codec, about 1.00 GiB a training step"
    )


# ---- a codec with weights

LATENT = {"name": "LatentUNet", "latent_channels": 4, "width": 8, "multipliers": [1, 2], "unshuffle": 2}


def test_the_weights_of_the_codec_count() -> None:
    made = recipe(model__codec=LATENT).model.build()
    codec, network = (sum(p.numel() for p in m.parameters()) for m in (made.codec, made.network))
    assert codec > 0
    assert cost(recipe(model__codec=LATENT)).parameters == codec + network


def test_a_codec_without_weights_does_no_work() -> None:
    for codec in ({"name": "Pixels"}, {"name": "Pyramid", "longest_side": 16}):
        assert cost(recipe(model__codec=codec)).codec_macs == 0


def test_the_work_of_a_codec_is_counted_as_by_hand() -> None:
    """One level without skips at 16 x 16: four blocks of two convolutions, and the ways in and out."""
    flat = {**LATENT, "multipliers": [1], "skips": 0}
    ends = 9 * (12 * 8 + 8 * 12)
    levels = 9 * (4 * 2 * 8 * 8 + 2 * 8 * 8)
    latent = 2 * 8 * 4
    counted = cost(recipe(model__codec=flat))
    assert counted.codec_macs == 16 * 16 * (ends + levels + latent)
    assert cost(recipe(model__codec=flat, training__batch=5)).codec_macs == counted.codec_macs
    assert cost(recipe(model__codec=flat, data__patch=[32, 96])).codec_macs == 3 * counted.codec_macs


def stages(first: int, second: int, width: int = 8, **more: object) -> Cost:
    """With patches of these sides in the two stages."""
    patches = {"codec_training__patch": [first, first], "data__patch": [second, second]}
    loops = ("codec_training", "training")
    same = {f"{loop}__{key}": value for loop in loops for key, value in (("batch", 1), ("precision", "32"))}
    return cost(recipe(model__codec={**LATENT, "width": width, "skips": 0}, **{**patches, **same, **more}))


@pytest.mark.slow
def test_memory_is_that_of_the_larger_stage() -> None:
    assert stages(8, 512).memory == stages(16, 512).memory < stages(512, 512).memory
    assert stages(512, 8).memory == stages(512, 16).memory == stages(512, 512).memory
    assert 3.9 < stages(1024, 8).memory / stages(512, 8).memory < 4
    half = stages(512, 8, codec_training__precision="bf16")
    assert 0.5 < half.memory / stages(512, 8).memory < 0.51
    assert stages(512, 8, training__precision="bf16") == stages(512, 8)


def test_frozen_weights_need_no_gradient() -> None:
    """In the second stage the codec and its average are two copies; in the first all five, kept, too."""
    narrow, wide = (stages(8, 2048, width=width) for width in (8, 32))
    assert wide.memory - narrow.memory == 8 * (wide.parameters - narrow.parameters)
    assert stages(8, 8, width=64).memory > 5 * 4 * (wide.parameters - narrow.parameters)


def test_the_first_stage_of_a_codec_without_weights_costs_nothing() -> None:
    assert cost(recipe(codec_training__batch=512, codec_training__patch=[2048, 2048])) == cost(recipe())


@pytest.mark.slow
def test_a_tuned_decoder_keeps_what_decoding_needs_and_nothing_of_the_network() -> None:
    sizes = {"data__patch": [256, 256], "codec_training__patch": [32, 32], "codec_training__batch": 1}
    plain = cost(recipe(model__codec=LATENT, **sizes))
    sizes["training__compare"] = "picture"
    decoded, tuned = (
        cost(recipe(model__codec=LATENT, training__trainable=z, **sizes)) for z in ("network", "decoder")
    )
    assert max(plain.memory, tuned.memory) < decoded.memory
    assert plain.macs == decoded.macs == tuned.macs


# ---- a mean


def test_memory_counts_the_stage_of_the_mean() -> None:
    network = {"name": "ConditionalNAFNet", "width": 8, "encoder": [1], "middle": 1, "decoder": [1]}
    plain, equal = cost(recipe()), cost(recipe(model__mean=network, mean_training__batch=2))
    assert (equal.macs, equal.parameters) == (2 * plain.macs, 2 * plain.parameters)
    assert equal.memory - plain.memory == 8 * plain.parameters
    large, larger = (cost(recipe(model__mean=network, mean_training__batch=count)) for count in (20, 40))
    assert large.macs == equal.macs
    weights = 5 * 4 * plain.parameters
    assert 1.95 < (larger.memory - weights) / (large.memory - weights) <= 2
