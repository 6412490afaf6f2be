"""What a model predicts for the rows of a dataset: the embedding of each text column."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from transformers import EvalPrediction

from ray_st.training import collectives

Preprocess = Callable[[Any, Tensor | None], Any]


class Predictions:
    """Collects the embeddings and labels of all ranks, in order of rows.

    Args:
        preprocess: Called with a step's tuple of embeddings and its labels; gives the tensor, or the tuple of tensors,
            that is kept instead. Its rows must be those of the step.
    """

    def __init__(self, preprocess: Preprocess | None = None) -> None:
        self._preprocess = preprocess
        self._kept: list[Any] = []
        self._labels: list[np.ndarray] = []

    def add(
        self, model: Any, features: Sequence[Mapping[str, Any]], labels: Tensor | None, shares: Sequence[int]
    ) -> None:
        """Takes in one step; every rank must call it.

        Args:
            model: The model.
            features: Of each text column.
            labels: (rows,) or None.
            shares: Number of rows of each rank; more than that are fillers.
        """
        found: Any = tuple(model(dict(column))["sentence_embedding"] for column in features)
        if self._preprocess is not None:
            found = self._preprocess(found, labels)
        if isinstance(found, Tensor):
            self._kept.append(_gathered(found, shares))
        else:
            self._kept.append(tuple(_gathered(part, shares) for part in found))
        if labels is not None:
            self._labels.append(_gathered(labels, shares))

    def result(self) -> EvalPrediction:
        """Predictions (an array, or a tuple of arrays, one for each column) and labels of all rows."""
        labels: Any = np.concatenate(self._labels) if self._labels else None
        if isinstance(self._kept[0], tuple):
            columns: Any = tuple(map(np.concatenate, zip(*self._kept, strict=True)))
            return EvalPrediction(columns, labels)
        return EvalPrediction(np.concatenate(self._kept), labels)


def _gathered(rows: Tensor, shares: Sequence[int]) -> np.ndarray:
    kept: np.ndarray = collectives.gather_rows(rows.detach(), shares).float().cpu().numpy()
    return kept if rows.is_floating_point() else kept.astype(np.int64)
