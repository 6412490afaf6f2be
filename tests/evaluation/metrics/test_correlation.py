from __future__ import annotations

import numpy as np
import pytest

from ray_st.evaluation.metrics import correlation

CASES = {
    "random": (np.random.default_rng(0).random(50), np.random.default_rng(1).random(50)),
    "ties": (np.random.default_rng(2).integers(0, 5, 60), np.random.default_rng(3).integers(0, 3, 60)),
    "opposite": (np.arange(9), -np.arange(9)),
    "far from zero": (1e8 + np.arange(20), np.random.default_rng(4).random(20)),
    "two": ([1, 2], [5, 9]),
}


@pytest.mark.parametrize(("a", "b"), CASES.values(), ids=CASES.keys())
def test_correlations_are_scipys(a, b) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert correlation.pearson(a, b) == pytest.approx(stats.pearsonr(a, b)[0], abs=1e-12)
    assert correlation.spearman(a, b) == pytest.approx(stats.spearmanr(a, b)[0], abs=1e-12)
    np.testing.assert_array_equal(correlation.average_ranks(a), stats.rankdata(a))


@pytest.mark.parametrize("constant", [[0.1] * 7, [3] * 7])
def test_correlation_with_a_constant_is_nan(constant) -> None:
    assert np.isnan(correlation.pearson(constant, range(7)))
    assert np.isnan(correlation.spearman(range(7), constant))


def test_correlation_with_nan_is_nan() -> None:
    assert np.isnan(correlation.pearson([1, 2, np.nan], [1, 2, 3]))
    assert np.isnan(correlation.spearman([1, 2, np.nan], [1, 2, 3]))
