"""How well a reranker tells classes of pairs from each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_st.evaluation.built_in import Measured
from ray_st.evaluation.checked_inputs import Example, check_equal_lengths, check_pairs, class_labels
from ray_st.evaluation.evaluated_model import ScoringModel
from ray_st.evaluation.metrics.multiclass import f1_metrics
from ray_st.evaluation.metrics.thresholds import classification_metrics
from ray_st.evaluation.reranker.pair_evaluator import PairEvaluator

BINARY = (
    "accuracy",
    "accuracy_threshold",
    "f1",
    "f1_threshold",
    "precision",
    "recall",
    "average_precision",
)
"""Metrics of a model with one label."""

MULTICLASS = {"f1_macro": "Macro_F1", "f1_micro": "Micro_F1", "f1_weighted": "Weighted_F1"}
"""Metrics of a model with several labels, and their headings in the CSV file."""


class CrossEncoderClassificationEvaluator(PairEvaluator):
    """Compares the classes that a reranker predicts for pairs of texts with the true ones.

    With one label, a pair is positive if its score reaches a threshold. Metrics are ``accuracy`` and
    ``accuracy_threshold``, the best possible; likewise ``f1`` and ``f1_threshold``, with the ``precision``
    and ``recall`` there; and ``average_precision``, the primary metric. With several labels, the highest
    score is the predicted class. Metrics are ``f1_macro``, the primary one, ``f1_micro`` and
    ``f1_weighted``. CSV file: ``CrossEncoderClassificationEvaluator[_{name}]_results.csv``.

    Further options are those of :class:`ray_st.evaluation.reranker.pair_evaluator.PairEvaluator`.

    Args:
        sentence_pairs: Pairs of texts (n).
        labels: The class of each (n): 0 or 1, or for a model with several labels a whole number from 0.

    Raises:
        ValueError: If there is no pair, the lengths differ, a row is no pair of texts, or a label is no
            class; when called, if the model has no such class, or a score is nan or infinite.
    """

    def __init__(
        self,
        sentence_pairs: Sequence[Sequence[str]],
        labels: Sequence[int],
        *,
        name: str = "",
        prompt_name: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        write_csv: bool = True,
    ) -> None:
        who = type(self).__name__
        check_equal_lengths(who, sentence_pairs=sentence_pairs, labels=labels)
        self.sentence_pairs = check_pairs(who, sentence_pairs)
        self.labels = class_labels(who, labels)
        self.prompt_name = prompt_name
        self._set_options(
            "CrossEncoderClassificationEvaluator", name, write_csv, batch_size, show_progress_bar
        )

    @classmethod
    def from_input_examples(
        cls, examples: Sequence[Example], **options: Any
    ) -> CrossEncoderClassificationEvaluator:
        """Makes an evaluator from examples.

        Args:
            examples: Each with two ``texts`` and a ``label``.
            options: As for the class.
        """
        return cls(
            [example.texts for example in examples], [example.label for example in examples], **options
        )

    def measure(self, model: ScoringModel) -> Measured:
        """Measures a model; see the class for the metrics."""
        classes = max(model.num_labels, 2)
        beyond = np.flatnonzero(self.labels >= classes)
        if len(beyond):
            raise ValueError(
                f"{type(self).__name__}: a model with num_labels={model.num_labels} has the classes 0 to "
                f"{classes - 1}; row {beyond[0]} of labels is {self.labels[beyond[0]]}."
            )
        scores = self._scores(model, self.sentence_pairs)
        return self._binary(scores) if model.num_labels == 1 else self._multiclass(scores)

    def _binary(self, scores: NDArray[np.floating]) -> Measured:
        found = classification_metrics(scores, self.labels == 1)
        found["average_precision"] = found["ap"]
        metrics = {key: found[key] for key in BINARY}
        return Measured(metrics, {key.title(): value for key, value in metrics.items()}, "average_precision")

    def _multiclass(self, scores: NDArray[np.floating]) -> Measured:
        metrics = f1_metrics(self.labels, scores.argmax(axis=1))
        return Measured(metrics, {MULTICLASS[key]: value for key, value in metrics.items()}, "f1_macro")

    def metric_names(self, model: ScoringModel) -> list[str]:
        """The names of the metrics that a call returns."""
        return self._prefixed(BINARY if model.num_labels == 1 else MULTICLASS)
