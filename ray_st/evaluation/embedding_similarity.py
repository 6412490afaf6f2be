"""Correlation of similarities with scores that people gave."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_st.evaluation import sentence_evaluator as base
from ray_st.evaluation.csv_log import append_row
from ray_st.evaluation.metrics.correlation import pearson, spearman
from ray_st.similarity_functions import SimilarityFunction

logger = logging.getLogger(__name__)


class EmbeddingSimilarityEvaluator(base.SentenceEvaluator):
    """Measures how well the similarities of pairs of texts correlate with their scores, by Pearson and by Spearman.

    Metrics are ``pearson_{similarity}`` and ``spearman_{similarity}``, and with several similarities ``pearson_max``
    and ``spearman_max``. The primary metric is Spearman's: of the main similarity, else of the only one, else the
    highest. CSV file: ``similarity_evaluation[_{name}][_{precision}]_results.csv``.

    Args:
        sentences1: The first texts (n).
        sentences2: The second texts (n).
        scores: How similar the two are (n), in any unit.
        batch_size: Texts encoded at once.
        main_similarity: The similarity of the primary metric: cosine, dot, euclidean or manhattan.
        similarity_fn_names: The similarities to measure; by default the main one, else the model's own.
        name: Put before the metrics and into the file name.
        show_progress_bar: Whether to show one while encoding; None asks the logging level.
        write_csv: Whether to write the CSV file where an output folder is given.
        precision: Kind of number of the embeddings: float32, int8, uint8, binary or ubinary; given, embeddings are
            normalised first.
        truncate_dim: Dimensions to keep; by default the model's.

    Raises:
        ValueError: If the lists are empty or of unequal lengths, a text is None, a score is no finite number, or a
            similarity is unknown.
    """

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
        base.check_equal_lengths(who, sentences1=sentences1, sentences2=sentences2, scores=scores)
        self.sentences1 = base.check_texts(who, "sentences1", sentences1)
        self.sentences2 = base.check_texts(who, "sentences2", sentences2)
        self.scores = _numbers(who, scores)
        self.main_similarity, self.similarity_fn_names = base.choose_similarities(
            who, main_similarity, similarity_fn_names
        )
        self.batch_size = batch_size
        self.name = name
        self.show_progress_bar = base.progress(show_progress_bar, logger)
        self.write_csv = write_csv
        self.precision = precision
        self.truncate_dim = truncate_dim
        self.csv_file = "_".join(filter(None, ["similarity_evaluation", name, precision, "results.csv"]))

    @classmethod
    def from_input_examples(cls, examples: Sequence[Any], **options: Any) -> EmbeddingSimilarityEvaluator:
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
        metrics = {}
        for name in names:
            found = SimilarityFunction.to_similarity_pairwise_fn(name)(first, second).cpu().numpy()
            metrics[f"pearson_{name}"] = pearson(self.scores, found)
            metrics[f"spearman_{name}"] = spearman(self.scores, found)
            logger.info(
                "%s: Pearson %.4f, Spearman %.4f",
                name,
                metrics[f"pearson_{name}"],
                metrics[f"spearman_{name}"],
            )
        if output_path is not None and self.write_csv:
            headers = [f"{name}_{kind}" for name in names for kind in ("pearson", "spearman")]
            append_row(
                output_path, self.csv_file, ["epoch", "steps", *headers], [epoch, steps, *metrics.values()]
            )
        return self._finished(model, metrics, names, epoch, steps)

    def _finished(
        self, model: base.Model, metrics: dict[str, float], names: list[str], epoch: float, steps: int
    ) -> dict[str, float]:
        if len(names) > 1:
            for kind in ("pearson", "spearman"):
                metrics[f"{kind}_max"] = max(metrics[f"{kind}_{name}"] for name in names)
        main = self.main_similarity.value if self.main_similarity else None
        self.primary_metric = f"spearman_{main or ('max' if len(names) > 1 else names[0])}"
        metrics = self.prefix_name_to_metrics(metrics, self.name)
        self.store_metrics_in_model_card_data(model, metrics, epoch, steps)
        return metrics

    def _embeddings(self, model: base.Model) -> tuple[NDArray[Any], NDArray[Any]]:
        # One call for both sides: integers are then calibrated on both, and rows sort by length over both.
        embeddings = model.encode(
            [*self.sentences1, *self.sentences2],
            batch_size=self.batch_size,
            show_progress_bar=self.show_progress_bar,
            convert_to_numpy=True,
            precision=self.precision or "float32",
            normalize_embeddings=bool(self.precision),
            truncate_dim=self.truncate_dim,
        )
        first, second = np.split(_as_floats(embeddings, self.precision), 2)
        return first, second

    def metric_names(self, model: base.Model) -> list[str]:
        """The names of the metrics that a call returns."""
        names = base.similarities_of(self.similarity_fn_names, model)
        groups = [*names, "max"] if len(names) > 1 else names
        return self._prefixed(f"{kind}_{group}" for group in groups for kind in ("pearson", "spearman"))

    @property
    def description(self) -> str:
        """What is evaluated, in words for the model card."""
        return "Semantic Similarity"

    def get_config_dict(self) -> dict[str, Any]:
        """The options worth showing in the model card."""
        return self._given("truncate_dim", "precision")


def _as_floats(embeddings: NDArray[Any], precision: str | None) -> NDArray[Any]:
    """Similarities need floats; bits come eight to a byte, as unsigned bytes or shifted down by 128."""
    if precision == "binary":
        embeddings = (embeddings.astype(np.int16) + 128).astype(np.uint8)
    if precision in ("binary", "ubinary"):
        embeddings = np.unpackbits(embeddings, axis=1)
    return embeddings if np.issubdtype(embeddings.dtype, np.floating) else embeddings.astype(np.float32)


def _numbers(evaluator: str, scores: Sequence[float]) -> NDArray[np.float64]:
    for row, score in enumerate(scores):
        if not isinstance(score, int | float | np.number) or not np.isfinite(score):
            raise ValueError(
                f"{evaluator} needs a finite number in each row of scores; row {row} is {score!r}."
            )
    numbers = np.asarray(scores, dtype=np.float64)
    if np.ptp(numbers) == 0:
        logger.warning("%s: all scores are %s, so that every correlation will be nan.", evaluator, numbers[0])
    return numbers
