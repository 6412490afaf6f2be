"""How often the positive is nearer than the negative."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ray_st.evaluation import sentence_evaluator as base
from ray_st.evaluation.csv_log import append_row
from ray_st.evaluation.distinct import distinct
from ray_st.similarity_functions import SimilarityFunction

logger = logging.getLogger(__name__)


class TripletEvaluator(base.SentenceEvaluator):
    """Share of triplets with ``similarity(anchor, positive) > similarity(anchor, negative) + margin``.

    Anchors are encoded with the model's prompt named "query" and the others with its "document", "passage" or
    "corpus" prompt, where it has them. Metrics are ``{similarity}_accuracy``, and with several similarities
    ``max_accuracy``. The primary metric is that of the main similarity, else of the only one, else the highest. CSV
    file: ``triplet_evaluation[_{name}]_results.csv``.

    Args:
        anchors: Texts (n).
        positives: Texts that should be near (n).
        negatives: Texts that should be further (n).
        main_similarity_function: The similarity of the primary metric: cosine, dot, euclidean or manhattan.
        margin: By how much the positive must be nearer: one number, or one for each similarity by name; by default 0.
        name: Put before the metrics and into the file name.
        batch_size: Texts encoded at once.
        show_progress_bar: Whether to show one while encoding; None asks the logging level.
        write_csv: Whether to write the CSV file where an output folder is given.
        truncate_dim: Dimensions to keep; by default the model's.
        similarity_fn_names: The similarities to measure; by default the main one, else the model's own.
        main_distance_function: Older name of ``main_similarity_function``.

    Raises:
        ValueError: If the lists are empty or of unequal lengths, a text is None, a similarity is unknown, or the margin
            is neither a number nor numbers by similarity.
    """

    def __init__(
        self,
        anchors: Sequence[str],
        positives: Sequence[str],
        negatives: Sequence[str],
        main_similarity_function: str | SimilarityFunction | None = None,
        margin: float | Mapping[str, float] | None = None,
        name: str = "",
        batch_size: int = 16,
        show_progress_bar: bool | None = False,
        write_csv: bool = True,
        truncate_dim: int | None = None,
        similarity_fn_names: Sequence[str] | None = None,
        main_distance_function: str | SimilarityFunction | None = None,
    ) -> None:
        who = type(self).__name__
        base.check_equal_lengths(who, anchors=anchors, positives=positives, negatives=negatives)
        self.anchors = base.check_texts(who, "anchors", anchors)
        self.positives = base.check_texts(who, "positives", positives)
        self.negatives = base.check_texts(who, "negatives", negatives)
        self.main_similarity_function, self.similarity_fn_names = base.choose_similarities(
            who, main_similarity_function or main_distance_function, similarity_fn_names
        )
        self.margin = _margins(margin)
        self.name = name
        self.batch_size = batch_size
        self.show_progress_bar = base.progress(show_progress_bar, logger)
        self.write_csv = write_csv
        self.truncate_dim = truncate_dim
        self.csv_file = "_".join(filter(None, ["triplet_evaluation", name, "results.csv"]))

    @classmethod
    def from_input_examples(cls, examples: Sequence[Any], **options: Any) -> TripletEvaluator:
        """Makes an evaluator from examples.

        Args:
            examples: Each with three ``texts``.
            options: As for the class.
        """
        anchors, positives, negatives = ([example.texts[i] for example in examples] for i in range(3))
        return cls(anchors, positives, negatives, **options)

    def __call__(
        self, model: base.Model, output_path: str | None = None, epoch: float = -1, steps: int = -1
    ) -> dict[str, float]:
        """Measures a model; see the class for the metrics."""
        self._log_start(logger, epoch, steps, self.truncate_dim)
        anchors = self._encode(model, self.anchors, ["query"])
        others = self._encode(model, [*self.positives, *self.negatives], base.DOCUMENT_PROMPTS)
        positives, negatives = others[: len(anchors)], others[len(anchors) :]
        names = base.similarities_of(self.similarity_fn_names, model)
        metrics = {}
        for name in names:
            similarity = SimilarityFunction.to_similarity_pairwise_fn(name)
            near, far = similarity(anchors, positives), similarity(anchors, negatives)
            metrics[f"{name}_accuracy"] = (near > far + self.margin[name]).double().mean().item()
            logger.info("%s: accuracy %.2f%%", name, 100 * metrics[f"{name}_accuracy"])
        if output_path is not None and self.write_csv:
            headers = ["epoch", "steps", *(f"accuracy_{name}" for name in names)]
            append_row(output_path, self.csv_file, headers, [epoch, steps, *metrics.values()])
        return self._finished(model, metrics, names, epoch, steps)

    def _finished(
        self, model: base.Model, metrics: dict[str, float], names: list[str], epoch: float, steps: int
    ) -> dict[str, float]:
        if len(names) > 1:
            metrics["max_accuracy"] = max(metrics.values())
        main = self.main_similarity_function.value if self.main_similarity_function else None
        self.primary_metric = f"{main or ('max' if len(names) > 1 else names[0])}_accuracy"
        metrics = self.prefix_name_to_metrics(metrics, self.name)
        self.store_metrics_in_model_card_data(model, metrics, epoch, steps)
        return metrics

    def _encode(self, model: base.Model, texts: Sequence[str], roles: Sequence[str]) -> Tensor:
        chosen, places = distinct(texts)
        vectors: Tensor = model.encode(
            chosen,
            prompt_name=base.role_prompt(model, roles),
            batch_size=self.batch_size,
            show_progress_bar=self.show_progress_bar,
            convert_to_tensor=True,
            truncate_dim=self.truncate_dim,
            **base.role_task(model, roles),
        )
        return vectors[places]

    def metric_names(self, model: base.Model) -> list[str]:
        """The names of the metrics that a call returns."""
        names = base.similarities_of(self.similarity_fn_names, model)
        groups = [*names, "max"] if len(names) > 1 else names
        return self._prefixed(f"{group}_accuracy" for group in groups)

    def get_config_dict(self) -> dict[str, Any]:
        """The options worth showing in the model card."""
        margin = {"margin": self.margin} if any(self.margin.values()) else {}
        return {**margin, **self._given("truncate_dim")}


def _margins(margin: float | Mapping[str, float] | None) -> dict[str, float]:
    names = SimilarityFunction.possible_values()
    given = margin if isinstance(margin, Mapping) else dict.fromkeys(names, 0 if margin is None else margin)
    for name, value in given.items():
        if name not in names or not isinstance(value, int | float):
            raise ValueError(f"margin must be a number, or numbers by similarity {names}; got {margin!r}.")
    return {**dict.fromkeys(names, 0), **given}
