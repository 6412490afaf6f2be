"""Correlation of a reranker's scores with human ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray_st.evaluation.built_in import Measured
from ray_st.evaluation.checked_inputs import Example, check_equal_lengths, check_pairs, finite_scores
from ray_st.evaluation.evaluated_model import ScoringModel
from ray_st.evaluation.metrics.correlation import pearson, spearman
from ray_st.evaluation.reranker.pair_evaluator import PairEvaluator


class CrossEncoderCorrelationEvaluator(PairEvaluator):
    """Correlation of a reranker's scores of pairs with given ones.

    Metrics are ``pearson``, and ``spearman``, the primary one. CSV file:
    ``CrossEncoderCorrelationEvaluator[_{name}]_results.csv``.

    Further options are those of :class:`ray_st.evaluation.reranker.pair_evaluator.PairEvaluator`.

    Args:
        sentence_pairs: Pairs of texts (n).
        scores: The score of each (n), in any unit.

    Raises:
        ValueError: If there is no pair, the lengths differ, a row is no pair of texts, or a score is no
            finite number; when called, if the model has several labels, or a score of its is nan or
            infinite.
    """

    primary_metric = "spearman"

    def __init__(
        self,
        sentence_pairs: Sequence[Sequence[str]],
        scores: Sequence[float],
        name: str = "",
        prompt_name: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        write_csv: bool = True,
    ) -> None:
        who = type(self).__name__
        check_equal_lengths(who, sentence_pairs=sentence_pairs, scores=scores)
        self.sentence_pairs = check_pairs(who, sentence_pairs)
        self.scores = finite_scores(who, scores)
        self.prompt_name = prompt_name
        self._set_options("CrossEncoderCorrelationEvaluator", name, write_csv, batch_size, show_progress_bar)

    @classmethod
    def from_input_examples(
        cls, examples: Sequence[Example], **options: Any
    ) -> CrossEncoderCorrelationEvaluator:
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
        found = self._one_score(model, self.sentence_pairs)
        metrics = {"pearson": pearson(self.scores, found), "spearman": spearman(self.scores, found)}
        return Measured(metrics, {f"{key.title()}_Correlation": value for key, value in metrics.items()})

    def metric_names(self, model: ScoringModel) -> list[str]:
        """The names of the metrics that a call returns."""
        return self._prefixed(["pearson", "spearman"])
