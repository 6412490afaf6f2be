"""How often the positive is nearer than the negative."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ray_st.evaluation.built_in import BuiltInEvaluator, Measured, with_max
from ray_st.evaluation.checked_inputs import Example, check_columns, choose_similarities, columns_of
from ray_st.evaluation.evaluated_model import DOCUMENT_ROLES, EvaluatedModel, similarities_of
from ray_st.similarity_functions import SimilarityFunction


class TripletEvaluator(BuiltInEvaluator):
    """Share of triplets with ``similarity(anchor, positive) > similarity(anchor, negative) + margin``.

    Anchors are encoded with the model's prompt named "query", and the others with its "document", "passage"
    or "corpus" prompt, if it has them. Metrics are ``{similarity}_accuracy``, and with several similarities
    ``max_accuracy``. The primary metric is that of the main similarity, else of the only one, else the
    highest. CSV file: ``triplet_evaluation[_{name}]_results.csv``.

    Further options are those of :class:`ray_st.evaluation.SentenceEvaluator`.

    Args:
        anchors: Texts (n).
        positives: Texts that should be near (n).
        negatives: Texts that should be further away (n).
        main_similarity_function: The similarity of the primary metric: cosine, dot, euclidean or manhattan.
        margin: How much nearer the positive must be: one number, or one for each similarity by name; by
            default 0.
        similarity_fn_names: The similarities to measure; by default the main one, else the model's own.
        main_distance_function: Older name of ``main_similarity_function``.

    Raises:
        ValueError: If the lists are empty or of unequal lengths, a text is None, a similarity is unknown, or
            the margin is neither a number nor numbers by similarity.
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
        self.anchors, self.positives, self.negatives = check_columns(
            who, anchors=anchors, positives=positives, negatives=negatives
        )
        self.main_similarity_function, self.similarity_fn_names = choose_similarities(
            who, main_similarity_function or main_distance_function, similarity_fn_names
        )
        self.margin = _margins(margin)
        self._set_options("triplet_evaluation", name, write_csv, batch_size, show_progress_bar, truncate_dim)

    @classmethod
    def from_input_examples(cls, examples: Sequence[Example], **options: Any) -> TripletEvaluator:
        """Makes an evaluator from examples.

        Args:
            examples: Each with three ``texts``.
            options: As for the class.
        """
        anchors, positives, negatives = columns_of(examples, 3)
        return cls(anchors, positives, negatives, **options)

    def measure(self, model: EvaluatedModel) -> Measured:
        """Measures a model; see the class for the metrics."""
        (anchors,) = self._encode_columns(model, [self.anchors], ["query"], convert_to_tensor=True)
        others = (self.positives, self.negatives)
        positives, negatives = self._encode_columns(model, others, DOCUMENT_ROLES, convert_to_tensor=True)
        names = similarities_of(self.similarity_fn_names, model)
        found = {}
        for name in names:
            similarity = SimilarityFunction.to_similarity_pairwise_fn(name)
            near, far = similarity(anchors, positives), similarity(anchors, negatives)
            found[name] = (near > far + self.margin[name]).double().mean().item()
        row = {f"accuracy_{name}": accuracy for name, accuracy in found.items()}
        if len(names) > 1:
            found["max"] = max(found.values())
        main = self.main_similarity_function.value if self.main_similarity_function else list(found)[-1]
        metrics = {f"{name}_accuracy": accuracy for name, accuracy in found.items()}
        return Measured(metrics, row, f"{main}_accuracy")

    def metric_names(self, model: EvaluatedModel) -> list[str]:
        """The names of the metrics that a call returns."""
        groups = with_max(similarities_of(self.similarity_fn_names, model))
        return self._prefixed(f"{group}_accuracy" for group in groups)

    def get_config_dict(self) -> dict[str, Any]:
        """The options to show in the model card."""
        margin = {"margin": self.margin} if any(self.margin.values()) else {}
        return {**margin, **super().get_config_dict()}


def _margins(margin: float | Mapping[str, float] | None) -> dict[str, float]:
    names = SimilarityFunction.possible_values()
    given = margin if isinstance(margin, Mapping) else dict.fromkeys(names, 0 if margin is None else margin)
    for name, value in given.items():
        if name not in names or not isinstance(value, int | float):
            raise ValueError(f"margin must be a number, or numbers by similarity {names}; got {margin!r}.")
    return {**dict.fromkeys(names, 0), **given}
