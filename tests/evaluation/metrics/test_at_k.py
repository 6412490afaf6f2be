from __future__ import annotations

import numpy as np
import pytest

from ray_st.evaluation.metrics import at_k

HITS = np.random.default_rng(5).random((30, 12)) < 0.2
RELEVANT = HITS.sum(axis=1) + np.random.default_rng(6).integers(1, 4, 30)


@pytest.mark.parametrize("k", [1, 3, 10, 12, 50])
def test_retrieval_metrics_are_the_slow_ones(k) -> None:
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
        "accuracy": at_k.accuracy_at(HITS, k),
        "precision": at_k.precision_at(HITS, k),
        "recall": at_k.recall_at(HITS, RELEVANT, k),
        "mrr": at_k.mrr_at(HITS, k),
        "ndcg": at_k.ndcg_at(HITS, RELEVANT, k),
        "map": at_k.map_at(HITS, RELEVANT, k),
    }
    assert ours == pytest.approx(slow, abs=1e-12)


def test_ndcg_is_scikit_learns() -> None:
    skm = pytest.importorskip("sklearn.metrics")
    scores = np.tile(np.arange(12, 0, -1), (30, 1))
    some = HITS.any(axis=1)
    theirs = skm.ndcg_score(HITS[some], scores[some], k=5)
    assert at_k.ndcg_at(HITS[some], HITS[some].sum(axis=1), 5) == pytest.approx(theirs, abs=1e-12)
