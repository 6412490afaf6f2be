from __future__ import annotations

import numpy as np
import pytest

from ray_st.evaluation import metrics

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
    assert metrics.pearson(a, b) == pytest.approx(stats.pearsonr(a, b)[0], abs=1e-12)
    assert metrics.spearman(a, b) == pytest.approx(stats.spearmanr(a, b)[0], abs=1e-12)
    np.testing.assert_array_equal(metrics.average_ranks(a), stats.rankdata(a))


@pytest.mark.parametrize("constant", [[0.1] * 7, [3] * 7])
def test_correlation_with_a_constant_is_nan(constant) -> None:
    assert np.isnan(metrics.pearson(constant, range(7)))
    assert np.isnan(metrics.spearman(range(7), constant))


def test_correlation_with_nan_is_nan() -> None:
    assert np.isnan(metrics.pearson([1, 2, np.nan], [1, 2, 3]))
    assert np.isnan(metrics.spearman([1, 2, np.nan], [1, 2, 3]))


HITS = np.random.default_rng(5).random((30, 12)) < 0.2
RELEVANT = HITS.sum(axis=1) + np.random.default_rng(6).integers(1, 4, 30)


@pytest.mark.parametrize("k", [1, 3, 10, 12, 50])
def test_retrieval_figures_are_the_slow_ones(k) -> None:
    rows = [list(row[:k]) for row in HITS]
    pairs = list(zip(rows, RELEVANT, strict=True))

    def gain(row: list[bool]) -> float:
        return sum(hit / np.log2(i + 2) for i, hit in enumerate(row))

    def precision_average(row: list[bool], relevant: int) -> float:
        return sum(sum(row[: i + 1]) / (i + 1) for i, hit in enumerate(row) if hit) / min(relevant, k)

    slow = {
        "accuracy": np.mean([any(row) for row in rows]),
        "precision": np.mean([sum(row) / k for row in rows]),
        "recall": np.mean([sum(row) / relevant for row, relevant in pairs]),
        "mrr": np.mean([1 / (row.index(True) + 1) if True in row else 0 for row in rows]),
        "ndcg": np.mean([gain(row) / gain([True] * min(relevant, k)) for row, relevant in pairs]),
        "map": np.mean([precision_average(row, relevant) for row, relevant in pairs]),
    }
    ours = {
        "accuracy": metrics.accuracy_at(HITS, k),
        "precision": metrics.precision_at(HITS, k),
        "recall": metrics.recall_at(HITS, RELEVANT, k),
        "mrr": metrics.mrr_at(HITS, k),
        "ndcg": metrics.ndcg_at(HITS, RELEVANT, k),
        "map": metrics.map_at(HITS, RELEVANT, k),
    }
    assert ours == pytest.approx(slow, abs=1e-12)


def test_ndcg_is_scikit_learns() -> None:
    skm = pytest.importorskip("sklearn.metrics")
    scores = np.tile(np.arange(12, 0, -1), (30, 1))
    some = HITS.any(axis=1)
    theirs = skm.ndcg_score(HITS[some], scores[some], k=5)
    assert metrics.ndcg_at(HITS[some], HITS[some].sum(axis=1), 5) == pytest.approx(theirs, abs=1e-12)
