"""One falling table from 1 to delta; everything else about a schedule follows from it."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from refusion.diffusion.schedule import SCHEDULES, make_alphas, timesteps

KINDS = ["s10_e0.005", "s50_e0.005", "s50_e0.01", "s0.2_e0.005", "s1_e0.005"]
SETTINGS = [f"{schedule}_{kind}" for schedule in SCHEDULES for kind in KINDS]
some_rates = st.lists(st.floats(1e-2, 10), min_size=2, max_size=40).map(
    lambda values: torch.tensor(values, dtype=torch.float64)
)
some_deltas = st.floats(1e-4, 0.9)


def times(total: int) -> Tensor:
    return torch.arange(total + 1, dtype=torch.float64)


@given(some_rates, some_deltas)
def test_alphas_fall_from_exactly_one_to_delta(rates: Tensor, delta: float) -> None:
    alphas = make_alphas(rates, delta)
    assert alphas.dtype == torch.float64
    assert len(alphas) == len(rates)
    assert alphas[0] == 1
    assert (alphas.diff() < 0).all()
    assert float(alphas[-1]) == pytest.approx(delta, rel=1e-12)


@given(some_rates, st.floats(1e-2, 10), st.floats(1e-3, 1e3))
def test_only_the_shape_of_the_rates_after_the_first_matters(
    rates: Tensor, first: float, unit: float
) -> None:
    changed = rates * unit
    changed[0] = first
    torch.testing.assert_close(make_alphas(changed), make_alphas(rates), rtol=0, atol=1e-9)


@given(some_rates, some_deltas)
def test_alphas_give_back_the_rates(rates: Tensor, delta: float) -> None:
    alphas = make_alphas(rates, delta)
    dt = -math.log(delta) / rates[1:].sum()
    integrals = torch.log(alphas[:-1] / alphas[1:])
    torch.testing.assert_close(integrals, rates[1:] * dt, rtol=1e-7, atol=1e-11)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("total", [1, 2, 20, 100, 1000])
def test_named_schedules_make_a_table_for_any_number_of_steps(name: str, total: int) -> None:
    rates = SCHEDULES[name](times(total))
    alphas = make_alphas(rates)
    assert len(alphas) == total + 1
    assert rates.dtype == torch.float64
    assert (rates > 0).all()
    assert (alphas.diff() < 0).all()


def test_the_cosine_rises_and_is_not_that_of_ddpm() -> None:
    rates = SCHEDULES["cosine"](times(100))
    assert (rates.diff() > 0).all()
    assert rates[0] < 1e-3
    assert 0.99 < rates[-1] < 1


def test_the_linear_schedule_ends_at_its_published_values() -> None:
    rates = SCHEDULES["linear"](times(100))
    assert float(rates[0]) == pytest.approx(1000 / 101 * 1e-4)
    assert float(rates[-1]) == pytest.approx(1000 / 101 * 0.02)


@pytest.mark.parametrize("delta", [-0.1, 0.0, 1.0, 1.5, math.nan])
def test_delta_outside_0_and_1_is_an_error_that_names_it(delta: float) -> None:
    with pytest.raises(ValueError, match=f"delta {delta}"):
        make_alphas(times(10) + 1, delta)


def test_a_schedule_without_a_step_is_an_error() -> None:
    with pytest.raises(ValueError, match="0 steps"):
        make_alphas(torch.ones(1, dtype=torch.float64))


@pytest.mark.parametrize("setting", SETTINGS)
def test_published_tables(golden: dict[str, Tensor], setting: str) -> None:
    """Published tables are float32, cosine included: exact enough from t = 3 on."""
    level, delta = (golden[f"{setting}/{name}"] for name in ("noise_level", "delta"))
    rates = SCHEDULES[setting.split("_")[0]](times(100))
    alphas = make_alphas(rates, float(delta))
    integral = rates.cumsum(0) - rates[0]
    dt = -torch.log(delta) / integral[-1]
    ours = {
        "thetas": rates,
        "thetas_cumsum": integral,
        "sigmas": level * torch.sqrt(2 * rates),
        "sigma_bars": level * torch.sqrt(1 - alphas**2),
    }
    for name, table in ours.items():
        theirs = golden[f"{setting}/{name}"].double()
        torch.testing.assert_close(table[:3], theirs[:3], rtol=3e-4, atol=1e-9, msg=name)
        torch.testing.assert_close(table[3:], theirs[3:], rtol=1e-5, atol=0, msg=name)
    assert float(golden[f"{setting}/dt"]) == pytest.approx(float(dt), rel=1e-6)
    steps = golden[f"{setting}/thetas"].double() * golden[f"{setting}/dt"]
    torch.testing.assert_close(torch.log(alphas[:-1] / alphas[1:]), steps[1:], rtol=5e-5, atol=0)


@given(st.integers(1, 1000).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))))
def test_timesteps_walk_evenly_from_total_down_to_0(sizes: tuple[int, int]) -> None:
    total, steps = sizes
    walk = timesteps(total, steps)
    gaps = [t - r for t, r in pairwise(walk)]
    assert walk[0] == total
    assert walk[-1] == 0
    assert len(walk) == steps + 1
    assert min(gaps) >= 1
    assert max(gaps) - min(gaps) <= 1


@given(st.integers(1, 1000))
def test_as_many_steps_as_times_visit_every_time(total: int) -> None:
    assert timesteps(total, total) == list(range(total, -1, -1))


@pytest.mark.parametrize("steps", [-1, 0, 101, 1000])
def test_steps_the_model_was_not_trained_for_are_an_error_that_names_both(steps: int) -> None:
    with pytest.raises(ValueError, match=f"steps is {steps}: .* trained with 100"):
        timesteps(100, steps)
