"""Correlation of similarities with human scores."""

from __future__ import annotations

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
    finite_scores,
)
from ray_st.evaluation.evaluated_model import EvaluatedModel, similarities_of
from ray_st.evaluation.metrics.correlation import pearson, spearman
from ray_st.similarity_functions import SimilarityFunction

KINDS = {"pearson": pearson, "spearman": spearman}


class EmbeddingSimilarityEvaluator(BuiltInEvaluator):
    """Correlation of the similarities of pairs of texts with their scores, by Pearson and by Spearman.

    Metrics are ``pearson_{similarity}`` and ``spearman_{similarity}``, and with several similarities
    ``pearson_max`` and ``spearman_max``. The primary metric is Spearman's: of the main similarity, else of
    the only one, else the highest. CSV file: ``similarity_evaluation[_{name}][_{precision}]_results.csv``.

    Further options are those of :class:`ray_st.evaluation.SentenceEvaluator`.

    Args:
        sentences1: The first texts (n).
        sentences2: The second texts (n).
        scores: How similar the two are (n), in any unit.
        main_similarity: The similarity of the primary metric: cosine, dot, euclidean or manhattan.
        similarity_fn_names: The similarities to measure; by default the main one, else the model's own.
        precision: Precision of the embeddings: float32, int8, uint8, binary or ubinary. If given, embeddings
            are normalised first.

    Raises:
        ValueError: If the lists are empty or of unequal lengths, a text is None, a score is no finite number,
            or a similarity is unknown.
    """

    shown = ("truncate_dim", "precision")

    def __init__(
        self,
        sentences1: Sequence[str],
        sentences2: Sequence[str],
        scores: Sequence[float],
        batch_size: int = 16,
        main_similarity: str | SimilarityFunction | None = None,
        similarity_fn_names: Sequence[str] | None = None,
        name: str = "",
        show_progress_bar: bool | None = False,
        write_csv: bool = True,
        precision: str | None = None,
        truncate_dim: int | None = None,
    ) -> None:
        who = type(self).__name__
        check_equal_lengths(who, sentences1=sentences1, sentences2=sentences2, scores=scores)
        self.sentences1 = check_texts(who, "sentences1", sentences1)
        self.sentences2 = check_texts(who, "sentences2", sentences2)
        self.scores = finite_scores(who, scores)
        self.main_similarity, self.similarity_fn_names = choose_similarities(
            who, main_similarity, similarity_fn_names
        )
        self.precision = precision
        self._set_options(
            "similarity_evaluation",
            name,
            write_csv,
            batch_size,
            show_progress_bar,
            truncate_dim,
            csv_end="_".join(filter(None, [precision, "results.csv"])),
        )

    @classmethod
    def from_input_examples(cls, examples: Sequence[Example], **options: Any) -> EmbeddingSimilarityEvaluator:
        """Makes an evaluator from examples.

        Args:
            examples: Each with two ``texts`` and a ``label``.
            options: As for the class.
        """
        first, second = columns_of(examples, 2)
        return cls(first, second, [example.label for example in examples], **options)

    def measure(self, model: EvaluatedModel) -> Measured:
        """Measures a model; see the class for the metrics."""
        first, second = self._embeddings(model)
        names = similarities_of(self.similarity_fn_names, model)
        metrics: dict[str, float] = {}
        for name in names:
            found = SimilarityFunction.to_similarity_pairwise_fn(name)(first, second).cpu().numpy()
            metrics |= {f"{kind}_{name}": correlate(self.scores, found) for kind, correlate in KINDS.items()}
        row = {f"{name}_{kind}": metrics[f"{kind}_{name}"] for name in names for kind in KINDS}
        if len(names) > 1:
            metrics |= {f"{kind}_max": max(metrics[f"{kind}_{name}"] for name in names) for kind in KINDS}
        main = self.main_similarity.value if self.main_similarity else with_max(names)[-1]
        return Measured(metrics, row, f"spearman_{main}")

    def _embeddings(self, model: EvaluatedModel) -> tuple[NDArray[Any], NDArray[Any]]:
        # One call for both sides: integers are calibrated on both, and texts are sorted by length over both.
        embeddings = self._encode(
            model,
            [*self.sentences1, *self.sentences2],
            convert_to_numpy=True,
            precision=self.precision or "float32",
            normalize_embeddings=bool(self.precision),
        )
        first, second = np.split(_as_floats(embeddings, self.precision), 2)
        return first, second

    def metric_names(self, model: EvaluatedModel) -> list[str]:
        """The names of the metrics that a call returns."""
        groups = with_max(similarities_of(self.similarity_fn_names, model))
        return self._prefixed(f"{kind}_{group}" for group in groups for kind in KINDS)

    @property
    def description(self) -> str:
        """What is evaluated, for the model card."""
        return "Semantic Similarity"


def _as_floats(embeddings: NDArray[Any], precision: str | None) -> NDArray[Any]:
    """Similarities need floats; bits are packed eight to a byte, as unsigned bytes or shifted down by 128."""
    if precision == "binary":
        embeddings = (embeddings.astype(np.int16) + 128).astype(np.uint8)
    if precision in ("binary", "ubinary"):
        embeddings = np.unpackbits(embeddings, axis=1)
    return embeddings if np.issubdtype(embeddings.dtype, np.floating) else embeddings.astype(np.float32)
