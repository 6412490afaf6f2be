from __future__ import annotations

import random
from statistics import fmean, stdev

import pytest

from ray_st.study.next_seed import expected_range, student_quantile

# Abramowitz and Stegun, table 26.10: two-sided 90 %.
TABLE = {1: 6.314, 2: 2.920, 3: 2.353, 4: 2.132, 9: 1.833, 10: 1.812, 30: 1.697}


@pytest.mark.parametrize(("freedom", "t"), TABLE.items())
def test_the_quantile_is_that_of_the_tables(freedom: int, t: float) -> None:
    assert student_quantile(0.9, freedom) == pytest.approx(t, abs=5e-4)


def test_the_quantile_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    for freedom in range(1, 40):
        for level in (0.5, 0.9, 0.99):
            expected = stats.t.ppf((1 + level) / 2, freedom)
            assert student_quantile(level, freedom) == pytest.approx(expected, rel=1e-9)


def test_the_range_is_that_of_one_more_draw() -> None:
    low, high = expected_range([0.8, 0.82, 0.84])  # type: ignore[misc]
    assert (low + high) / 2 == pytest.approx(0.82)
    assert high - 0.82 == pytest.approx(2.920 * 0.02 * (4 / 3) ** 0.5, abs=1e-4)
    assert expected_range([0.8]) is None
    assert expected_range([0.8, 0.8]) == (0.8, 0.8)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_nine_in_ten_new_values_are_within(count: int) -> None:
    chance = random.Random(count)
    within = 0
    for _ in range(4000):
        values = [chance.gauss(0, 1) for _ in range(count)]
        low, high = expected_range(values)  # type: ignore[misc]
        assert (low + high) / 2 == pytest.approx(fmean(values), abs=1e-6 * (1 + stdev(values)))
        within += low <= chance.gauss(0, 1) <= high
    assert within / 4000 == pytest.approx(0.9, abs=0.02)
