"""How well a threshold on the similarity tells pairs that belong together from others."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_st.evaluation import sentence_evaluator as base
from ray_st.evaluation.csv_log import append_row
from ray_st.evaluation.distinct import distinct
from ray_st.evaluation.metrics.thresholds import classification_figures
from ray_st.similarity_functions import SimilarityFunction

logger = logging.getLogger(__name__)

DISTANCES = ("euclidean", "manhattan")
"""Similarities whose thresholds are given as distances: the model says yes at or below them."""

CSV_ORDER = ("accuracy", "accuracy_threshold", "f1", "precision", "recall", "f1_threshold", "ap", "mcc")


class BinaryClassificationEvaluator(base.SentenceEvaluator):
    """Tells similar pairs of texts from dissimilar ones by a threshold on their similarity.

    Metrics, each after the name of its similarity (``cosine_accuracy``): ``accuracy`` and ``accuracy_threshold``, the
    best possible; ``f1`` and ``f1_threshold``, likewise, with the ``precision`` and ``recall`` there; the average
    precision ``ap``; and ``mcc``, Matthews' correlation at ``f1_threshold``. Thresholds of euclidean and manhattan are
    distances. Several similarities add ``max_{metric}``. The primary metric is the average precision of the only
    similarity, else ``max_ap``. CSV file: ``binary_classification_evaluation[_{name}]_results.csv``.

    A text that occurs several times is encoded once. Labels of one class only are warned of: ``ap``, ``f1`` and ``mcc``
    are then 0 without positives, and say nothing without negatives.

    Args:
        sentences1: The first texts (n).
        sentences2: The second texts (n).
        labels: 1 for similar pairs, 0 for others (n).
        name: Put before the metrics and into the file name.
        batch_size: Texts encoded at once.
        show_progress_bar: Whether to show one while encoding; None asks the logging level.
        write_csv: Whether to write the CSV file where an output folder is given.
        truncate_dim: Dimensions to keep; by default the model's.
        similarity_fn_names: The similarities to measure: cosine, dot, euclidean, manhattan; by default the model's own.

    Raises:
        ValueError: If the lists are empty or of unequal lengths, a text is None, a label is neither 0 nor 1, or a
            similarity is unknown; when called, if the similarity of a pair is nan or infinite.
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
        base.check_equal_lengths(who, sentences1=sentences1, sentences2=sentences2, labels=labels)
        self.sentences1 = base.check_texts(who, "sentences1", sentences1)
        self.sentences2 = base.check_texts(who, "sentences2", sentences2)
        self.labels = _yes_or_no(who, labels)
        self.similarity_fn_names = base.choose_similarities(who, None, similarity_fn_names)[1]
        self.name = name
        self.batch_size = batch_size
        self.show_progress_bar = base.progress(show_progress_bar, logger)
        self.write_csv = write_csv
        self.truncate_dim = truncate_dim
        self.csv_file = "_".join(filter(None, ["binary_classification_evaluation", name, "results.csv"]))

    @classmethod
    def from_input_examples(cls, examples: Sequence[Any], **options: Any) -> BinaryClassificationEvaluator:
        """Makes an evaluator from examples.

        Args:
            examples: Each with two ``texts`` and a ``label``.
            options: As for the class.
        """
        first, second = ([example.texts[i] for example in examples] for i in (0, 1))
        return cls(first, second, [example.label for example in examples], **options)

    def __call__(
        self, model: base.Model, output_path: str | None = None, epoch: float = -1, steps: int = -1
    ) -> dict[str, float]:
        """Measures a model; see the class for the metrics."""
        self._log_start(logger, epoch, steps, self.truncate_dim)
        first, second = self._embeddings(model)
        names = base.similarities_of(self.similarity_fn_names, model)
        figures = {name: self._figures(name, first, second) for name in names}
        if output_path is not None and self.write_csv:
            headers = [f"{name}_{key}" for name in names for key in CSV_ORDER]
            row = [figures[name][key] for name in names for key in CSV_ORDER]
            append_row(output_path, self.csv_file, ["epoch", "steps", *headers], [epoch, steps, *row])
        return self._finished(model, figures, epoch, steps)

    def _embeddings(self, model: base.Model) -> tuple[NDArray[Any], NDArray[Any]]:
        texts, places = distinct([*self.sentences1, *self.sentences2])
        embeddings = model.encode(
            texts,
            batch_size=self.batch_size,
            show_progress_bar=self.show_progress_bar,
            convert_to_numpy=True,
            truncate_dim=self.truncate_dim,
        )
        first, second = np.split(places, 2)
        return embeddings[first], embeddings[second]

    def _figures(self, name: str, first: NDArray[Any], second: NDArray[Any]) -> dict[str, float]:
        similarities = SimilarityFunction.to_similarity_pairwise_fn(name)(first, second).cpu().numpy()
        wrong = np.flatnonzero(~np.isfinite(similarities))
        if len(wrong):
            raise ValueError(
                f"{type(self).__name__} needs finite similarities; {len(wrong)} of {len(similarities)} pairs have none, "
                f"the first is pair {wrong[0]} ({name}: {similarities[wrong[0]]}). Look for nan in the model's weights."
            )
        figures = classification_figures(similarities, self.labels)
        if name in DISTANCES:
            figures |= {key: 0.0 - figures[key] for key in ("accuracy_threshold", "f1_threshold")}
        logger.info("%s: %s", name, ", ".join(f"{key} {value:.4f}" for key, value in figures.items()))
        return figures

    def _finished(
        self, model: base.Model, figures: dict[str, dict[str, float]], epoch: float, steps: int
    ) -> dict[str, float]:
        metrics = {f"{name}_{key}": value for name, found in figures.items() for key, value in found.items()}
        if len(figures) > 1:
            metrics |= {f"max_{key}": max(found[key] for found in figures.values()) for key in CSV_ORDER}
        self.primary_metric = f"{'max' if len(figures) > 1 else next(iter(figures))}_ap"
        metrics = self.prefix_name_to_metrics(metrics, self.name)
        self.store_metrics_in_model_card_data(model, metrics, epoch, steps)
        return metrics

    def metric_names(self, model: base.Model) -> list[str]:
        """The names of the metrics that a call returns."""
        names = base.similarities_of(self.similarity_fn_names, model)
        groups = [*names, "max"] if len(names) > 1 else names
        return self._prefixed(f"{group}_{key}" for group in groups for key in CSV_ORDER)

    def get_config_dict(self) -> dict[str, Any]:
        """The options worth showing in the model card."""
        return self._given("truncate_dim")


def _yes_or_no(evaluator: str, labels: Sequence[int]) -> NDArray[np.bool_]:
    wrong = next(((row, label) for row, label in enumerate(labels) if label not in (0, 1)), None)
    if wrong is not None:
        raise ValueError(f"{evaluator} needs labels of 0 and 1; row {wrong[0]} is {wrong[1]!r}.")
    array = np.asarray(labels, dtype=bool)
    if array.all() or not array.any():
        logger.warning("%s: all labels are %d, so that the figures say nothing.", evaluator, array[0])
    return array
