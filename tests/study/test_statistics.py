"""Intervals against tables, by hand, and against SciPy."""

import math

import numpy as np
import pytest

from refusion.study.statistics import (
    Interval,
    bootstrap_interval,
    t_interval,
    t_probability,
    t_quantile,
)


@pytest.mark.parametrize(
    ("freedom", "expected"), [(1, 12.7062), (2, 4.3027), (4, 2.7764), (9, 2.2622), (39, 2.0227)]
)
def test_quantiles_are_those_of_the_tables(freedom: int, expected: float) -> None:
    assert t_quantile(freedom) == pytest.approx(expected, abs=1e-4)


def test_probabilities_are_those_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for freedom in range(1, 31):
        for t in (0.01, 0.5, 1.0, 2.5, 20.0):
            expected = 1 - 2 * stats.t.sf(t, freedom)
            assert t_probability(t, freedom) == pytest.approx(expected, abs=1e-12)


def test_an_interval_by_hand() -> None:
    """Mean 2, deviation 1, three values: 2 +- 4.3027 / sqrt(3)."""
    found = t_interval([1.0, 2.0, 3.0])
    assert found is not None
    assert found.mean == 2
    assert found.high - 2 == pytest.approx(4.30265 / math.sqrt(3), abs=1e-5)
    assert 2 - found.low == pytest.approx(found.high - 2)


def test_of_one_value_there_is_no_interval() -> None:
    assert t_interval([1.0]) is None
    assert bootstrap_interval([1.0]) is None


def test_a_bootstrap_of_many_pictures_is_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(1.0, 2.0, 400)
    found = bootstrap_interval(list(values))
    assert found is not None
    half = 1.96 * values.std() / 20
    assert found.mean == pytest.approx(values.mean())
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)
    assert bootstrap_interval([0.5] * 8) == Interval(0.5, 0.5, 0.5)


@pytest.mark.parametrize(("low", "high", "sign"), [(0.1, 1, 1), (-1, -0.1, -1), (-1, 1, 0), (0, 1, 0)])
def test_the_sign_is_that_of_the_whole_interval(low: float, high: float, sign: int) -> None:
    assert Interval((low + high) / 2, low, high).sign == sign
