from __future__ import annotations

import numpy as np
import pytest

from ray_st.evaluation.metrics.ranked import Ranked

QUERIES = 25


def queries(levels: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Scores and relevance of each query's documents; few levels give many equal scores."""
    generator = np.random.default_rng(levels)
    sizes = generator.integers(1, 15, QUERIES)
    found = []
    for size in sizes:
        relevant = generator.random(size) < 0.4
        relevant[generator.integers(size)] = True
        found.append((generator.integers(0, levels, size).astype(np.float32), relevant))
    return found


def ranked(rows: list[tuple[np.ndarray, np.ndarray]]) -> Ranked:
    scores, relevant = (np.concatenate(column) for column in zip(*rows, strict=True))
    return Ranked.of(scores, relevant, np.array([len(row[0]) for row in rows]))


LEVELS = [1, 2, 4, 10_000]


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("k", [1, 3, 10, 10**9])
def test_metrics_are_the_slow_ones(levels, k) -> None:
    rows = queries(levels)
    precisions, ranks, gains = [], [], []
    for scores, relevant in rows:
        best = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
        first = next(rank for rank, i in enumerate(best, 1) if relevant[i])
        ranks.append(1 / first if first <= k else 0)
        precisions.append(np.mean([relevant[scores >= scores[i]].mean() for i in np.flatnonzero(relevant)]))
        gain = [relevant[scores == scores[i]].mean() for i in best[:k]]
        weights = [1 / np.log2(rank + 1) for rank in range(1, len(best) + 1)][:k]
        gains.append(np.dot(gain, weights) / sum(weights[: relevant.sum()]))
    found = ranked(rows)
    assert found.average_precision() == pytest.approx(np.mean(precisions), abs=1e-12)
    assert found.reciprocal_rank(k) == pytest.approx(np.mean(ranks), abs=1e-12)
    assert found.ndcg(k) == pytest.approx(np.mean(gains), abs=1e-12)


@pytest.mark.parametrize("levels", LEVELS)
def test_metrics_are_scikit_learns(levels) -> None:
    skm = pytest.importorskip("sklearn.metrics")
    rows = [row for row in queries(levels) if len(row[0]) > 1]
    found = ranked(rows)
    average = np.mean([skm.average_precision_score(relevant, scores) for scores, relevant in rows])
    gain = np.mean([skm.ndcg_score([relevant], [scores], k=4) for scores, relevant in rows])
    assert found.average_precision() == pytest.approx(average, abs=1e-12)
    assert found.ndcg(4) == pytest.approx(gain, abs=1e-12)
