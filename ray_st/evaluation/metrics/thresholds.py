"""Metrics of classification by a threshold on similarities: best threshold, average precision, MCC."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Cuts:
    """Every split of rows by a threshold, from none above to all; rows of equal similarity stay together.

    Attributes:
        above: Rows above each cut (c,), increasing from 0.
        found: How many of those are positive (c,).
        thresholds: A number in the middle of each cut (c,): rows above are at least as similar.
        rows: Rows altogether.
        positives: Positive rows altogether.
    """

    above: NDArray[np.int64]
    found: NDArray[np.int64]
    thresholds: NDArray[np.floating]
    rows: int
    positives: int

    @classmethod
    def of(cls, similarities: NDArray[np.floating], labels: NDArray[np.bool_]) -> Cuts:
        """All cuts of some rows.

        Args:
            similarities: (n,), n at least 1, finite.
            labels: Which rows are positive (n,).
        """
        order = np.argsort(-similarities, kind="stable")
        values, positive = similarities[order], labels[order]
        above = np.append(np.flatnonzero(values[1:] != values[:-1]) + 1, len(values))
        found = np.cumsum(positive)[above - 1]
        last = values[above - 1]
        middle = (last[:-1] + last[1:]) / 2
        middle = np.where(middle == last[1:], last[:-1], middle)  # rounding must not reach the row below
        nothing = np.nextafter(values[:1], np.inf, dtype=values.dtype)
        return cls(
            above=np.append(0, above),
            found=np.append(0, found),
            thresholds=np.concatenate([nothing, middle, last[-1:]]),
            rows=len(values),
            positives=int(positive.sum()),
        )

    @property
    def precisions(self) -> NDArray[np.float64]:
        """Share of positives above each cut (c,); 0 if nothing is above."""
        return self.found / np.maximum(self.above, 1)

    @property
    def recalls(self) -> NDArray[np.float64]:
        """Share of the positives that is above each cut (c,); 0 if there are none."""
        return self.found / max(self.positives, 1)

    def best_accuracy(self) -> tuple[float, float]:
        """The highest accuracy, and the highest threshold that reaches it."""
        right = 2 * self.found - self.above + self.rows - self.positives
        best = right.argmax()
        return right[best] / self.rows, float(self.thresholds[best])

    def best_f1(self) -> tuple[float, float, float, float]:
        """The highest F1, precision and recall there, and the highest threshold that reaches it.

        All are 0 if there are no positives.
        """
        precisions, recalls = self.precisions, self.recalls
        f1 = 2 * precisions * recalls / np.where(self.found > 0, precisions + recalls, 1)
        best = f1.argmax()
        if f1[best] == 0:
            return 0.0, 0.0, 0.0, 0.0
        return float(f1[best]), float(precisions[best]), float(recalls[best]), float(self.thresholds[best])

    def average_precision(self) -> float:
        """Sum of precision times gain in recall over the cuts, not interpolated; 0 without positives."""
        return float(np.diff(self.recalls) @ self.precisions[1:])


def matthews(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Matthews' correlation of a binary prediction; 0 if either side is constant (Matthews 1975).

    Args:
        labels: (n,), bool.
        predictions: (n,), bool.
    """
    wanted, given = np.asarray(labels, dtype=bool), np.asarray(predictions, dtype=bool)
    n, a, b = len(wanted), float(wanted.sum()), float(given.sum())
    both = float((wanted & given).sum())
    spread = np.sqrt(a * (n - a)) * np.sqrt(b * (n - b))
    return float((n * both - a * b) / spread) if spread else 0.0


def classification_metrics(similarities: NDArray[np.floating], labels: NDArray[np.bool_]) -> dict[str, float]:
    """All metrics of classifying by a threshold.

    Args:
        similarities: (n,), n at least 1, finite; more means more likely positive.
        labels: Which rows are positive (n,).

    Returns:
        ``accuracy`` and ``accuracy_threshold``, each the best possible; ``f1`` and ``f1_threshold`` likewise,
        with the ``precision`` and ``recall`` there; the average precision ``ap``; and ``mcc``, Matthews'
        correlation of the rows at or above ``f1_threshold``.
    """
    cuts = Cuts.of(similarities, labels)
    accuracy, accuracy_threshold = cuts.best_accuracy()
    f1, precision, recall, f1_threshold = cuts.best_f1()
    return {
        "accuracy": accuracy,
        "accuracy_threshold": accuracy_threshold,
        "f1": f1,
        "f1_threshold": f1_threshold,
        "precision": precision,
        "recall": recall,
        "ap": cuts.average_precision(),
        "mcc": matthews(labels, similarities >= f1_threshold),
    }
