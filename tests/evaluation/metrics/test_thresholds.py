from __future__ import annotations

import numpy as np
import pytest

from ray_st.evaluation.metrics.thresholds import Cuts, classification_metrics, matthews

ROWS = 60


def rows(seed: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.random(ROWS) < 0.3
    match kind:
        case "ties":
            values = generator.integers(-2, 3, ROWS).astype(float)
        case "equal":
            values = np.zeros(ROWS)
        case "neighbours":  # numbers between which float32 has none
            values = np.where(generator.random(ROWS) < 0.5, 1, np.nextafter(1, 2, dtype=np.float32))
        case _:
            values = generator.standard_normal(ROWS) + labels
    return values.astype(np.float32), labels


KINDS = ["spread", "ties", "equal", "neighbours"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_no_threshold_does_better(kind, seed) -> None:
    values, labels = rows(seed, kind)
    predictions = [values >= t for t in [*values, np.inf]]
    found = classification_metrics(values, labels)

    def f1(said: np.ndarray) -> float:
        return 2 * (said & labels).sum() / (said.sum() + labels.sum())

    assert found["accuracy"] == pytest.approx(max((said == labels).mean() for said in predictions))
    assert found["f1"] == pytest.approx(max(map(f1, predictions)))
    assert ((values >= found["accuracy_threshold"]) == labels).mean() == pytest.approx(found["accuracy"])
    said = values >= found["f1_threshold"]
    assert f1(said) == pytest.approx(found["f1"])
    assert found["precision"] == pytest.approx(labels[said].mean())
    assert found["recall"] == pytest.approx(said[labels].mean())
    assert found["mcc"] == pytest.approx(0 if said.all() else np.corrcoef(said, labels)[0, 1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_metrics_are_scikit_learns(kind, seed) -> None:
    skm = pytest.importorskip("sklearn.metrics")
    values, labels = rows(seed, kind)
    found = classification_metrics(values, labels)
    assert found["ap"] == pytest.approx(skm.average_precision_score(labels, values), abs=1e-12)
    said = values >= found["f1_threshold"]
    assert found["mcc"] == pytest.approx(skm.matthews_corrcoef(labels, said), abs=1e-12)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_thresholds_are_the_peers_also_of_distances(kind, seed, sign, peers) -> None:
    values, labels = rows(seed, kind)
    theirs = peers.BinaryClassificationEvaluator
    found = Cuts.of(values, labels)
    one = theirs.find_best_acc_and_threshold(sign * values, labels.astype(int), sign > 0)
    other = theirs.find_best_f1_and_threshold(sign * values, labels.astype(int), sign > 0)
    assert found.best_accuracy() == pytest.approx((one[0], sign * one[1]), abs=1e-9)
    assert found.best_f1() == pytest.approx((*other[:3], sign * other[3]), abs=1e-9)


def test_one_row_and_one_class() -> None:
    assert classification_metrics(np.array([0.5]), np.array([True])) == {
        "accuracy": 1.0,
        "accuracy_threshold": 0.5,
        "f1": 1.0,
        "f1_threshold": 0.5,
        "precision": 1.0,
        "recall": 1.0,
        "ap": 1.0,
        "mcc": 0.0,
    }
    none = classification_metrics(np.array([0.5, 0.7]), np.array([False, False]))
    assert none.pop("accuracy") == 1.0
    assert none.pop("accuracy_threshold") > 0.7
    assert set(none.values()) == {0.0}


def test_matthews_holds_for_millions_of_rows() -> None:
    labels = np.arange(2_000_000) % 2 == 0
    assert matthews(labels, labels) == pytest.approx(1)
    assert matthews(labels, ~labels) == pytest.approx(-1)
