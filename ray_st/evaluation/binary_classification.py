"""How well a threshold on the similarity separates pairs that belong together from others."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_st.evaluation.built_in import BuiltInEvaluator, Measured, with_max
from ray_st.evaluation.checked_inputs import (
    Example,
    check_equal_lengths,
    check_texts,
    choose_similarities,
    columns_of,
)
from ray_st.evaluation.evaluated_model import EvaluatedModel, similarities_of
from ray_st.evaluation.metrics.thresholds import classification_metrics
from ray_st.similarity_functions import SimilarityFunction

logger = logging.getLogger(__name__)

DISTANCES = ("euclidean", "manhattan")
"""Similarities whose thresholds are reported as distances: pairs at or below them are positive."""

CSV_ORDER = ("accuracy", "accuracy_threshold", "f1", "precision", "recall", "f1_threshold", "ap", "mcc")


class BinaryClassificationEvaluator(BuiltInEvaluator):
    """Separates similar pairs of texts from dissimilar ones by a threshold on their similarity.

    Metrics, each prefixed with the name of its similarity (``cosine_accuracy``): ``accuracy`` and
    ``accuracy_threshold``, the best possible; likewise ``f1`` and ``f1_threshold``, with the ``precision``
    and ``recall`` there; the average precision ``ap``; and ``mcc``, Matthews' correlation at
    ``f1_threshold``. Thresholds of euclidean and manhattan are distances. Several similarities add
    ``max_{metric}``. The primary metric is the average precision of the only similarity, else ``max_ap``. CSV
    file: ``binary_classification_evaluation[_{name}]_results.csv``.

    A text that occurs several times is encoded once. Labels of a single class give a warning: ``ap``, ``f1``
    and ``mcc`` are 0 without positives, and meaningless without negatives.

    Further options are those of :class:`ray_st.evaluation.SentenceEvaluator`.

    Args:
        sentences1: The first texts (n).
        sentences2: The second texts (n).
        labels: 1 for similar pairs, 0 for others (n).
        similarity_fn_names: The similarities to measure: cosine, dot, euclidean, manhattan; by default the
            model's own.

    Raises:
        ValueError: If the lists are empty or of unequal lengths, a text is None, a label is neither 0 nor 1,
            or a similarity is unknown; when called, if the similarity of a pair is nan or infinite.
    """

    def __init__(
        self,
        sentences1: Sequence[str],
        sentences2: Sequence[str],
        labels: Sequence[int],
        name: str = "",
        batch_size: int = 32,
        show_progress_bar: bool | None = False,
        write_csv: bool = True,
        truncate_dim: int | None = None,
        similarity_fn_names: Sequence[str] | None = None,
    ) -> None:
        who = type(self).__name__
        check_equal_lengths(who, sentences1=sentences1, sentences2=sentences2, labels=labels)
        self.sentences1 = check_texts(who, "sentences1", sentences1)
        self.sentences2 = check_texts(who, "sentences2", sentences2)
        self.labels = _zero_or_one(who, labels)
        self.similarity_fn_names = choose_similarities(who, None, similarity_fn_names)[1]
        self._set_options(
            "binary_classification_evaluation", name, write_csv, batch_size, show_progress_bar, truncate_dim
        )

    @classmethod
    def from_input_examples(
        cls, examples: Sequence[Example], **options: Any
    ) -> BinaryClassificationEvaluator:
        """Makes an evaluator from examples.

        Args:
            examples: Each with two ``texts`` and a ``label``.
            options: As for the class.
        """
        first, second = columns_of(examples, 2)
        return cls(first, second, [example.label for example in examples], **options)

    def measure(self, model: EvaluatedModel) -> Measured:
        """Measures a model; see the class for the metrics."""
        sides = (self.sentences1, self.sentences2)
        first, second = self._encode_columns(model, sides, convert_to_numpy=True)
        found = {
            name: self._metrics(name, first, second)
            for name in similarities_of(self.similarity_fn_names, model)
        }
        row = {f"{name}_{key}": metrics[key] for name, metrics in found.items() for key in CSV_ORDER}
        if len(found) > 1:
            found["max"] = {key: max(metrics[key] for metrics in found.values()) for key in CSV_ORDER}
        metrics = {f"{name}_{key}": value for name, of in found.items() for key, value in of.items()}
        return Measured(metrics, row, f"{list(found)[-1]}_ap")

    def _metrics(self, name: str, first: NDArray[Any], second: NDArray[Any]) -> dict[str, float]:
        similarities = SimilarityFunction.to_similarity_pairwise_fn(name)(first, second).cpu().numpy()
        wrong = np.flatnonzero(~np.isfinite(similarities))
        if len(wrong):
            raise ValueError(
                f"{type(self).__name__} needs finite similarities; {len(wrong)} of {len(similarities)} "
                f"pairs have none, the first is pair {wrong[0]} ({name}: {similarities[wrong[0]]}). Look "
                "for nan in the model's weights."
            )
        metrics = classification_metrics(similarities, self.labels)
        if name in DISTANCES:
            metrics |= {key: 0.0 - metrics[key] for key in ("accuracy_threshold", "f1_threshold")}
        return metrics

    def metric_names(self, model: EvaluatedModel) -> list[str]:
        """The names of the metrics that a call returns."""
        groups = with_max(similarities_of(self.similarity_fn_names, model))
        return self._prefixed(f"{group}_{key}" for group in groups for key in CSV_ORDER)


def _zero_or_one(evaluator: str, labels: Sequence[int]) -> NDArray[np.bool_]:
    wrong = next(((row, label) for row, label in enumerate(labels) if label not in (0, 1)), None)
    if wrong is not None:
        raise ValueError(f"{evaluator} needs labels of 0 and 1; row {wrong[0]} is {wrong[1]!r}.")
    array = np.asarray(labels, dtype=bool)
    if array.all() or not array.any():
        logger.warning("%s: all labels are %d, so the metrics are meaningless.", evaluator, array[0])
    return array
