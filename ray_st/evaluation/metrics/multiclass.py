"""Metrics of the classes that a classifier predicts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def f1_metrics(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> dict[str, float]:
    """F1 over all classes, in three ways to average them.

    Args:
        labels: The true classes (n,), n at least 1, from 0.
        predicted: The predicted ones (n,), from 0.

    Returns:
        ``f1_macro``, the mean of the F1 of each class that occurs as a label or prediction; ``f1_micro``,
        the share of right predictions; and ``f1_weighted``, the mean weighted by the number of labels.
    """
    classes = int(max(labels.max(), predicted.max())) + 1
    wanted = np.bincount(labels, minlength=classes)
    given = np.bincount(predicted, minlength=classes)
    right = np.bincount(labels[labels == predicted], minlength=classes)
    there = wanted + given > 0
    f1 = 2 * right[there] / (wanted + given)[there]
    return {
        "f1_macro": float(f1.mean()),
        "f1_micro": float(right.sum() / len(labels)),
        "f1_weighted": float(f1 @ wanted[there] / len(labels)),
    }
