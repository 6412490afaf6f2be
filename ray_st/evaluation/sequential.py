"""Several evaluators as one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

from ray_st.evaluation.evaluated_model import EvaluatedModel
from ray_st.evaluation.sentence_evaluator import SINGLE_METRIC, SentenceEvaluator, metric_names_of

logger = logging.getLogger(__name__)


def last_score(scores: Sequence[float]) -> float:
    """The last of several scores.

    Args:
        scores: At least one.
    """
    return scores[-1]


class SequentialEvaluator(SentenceEvaluator):
    """Runs evaluators one after the other and joins their metrics.

    The primary metric is ``sequential_score``, computed from the evaluators' primary metrics. An evaluator
    that returns a single number adds it as ``evaluator_{i}``.

    Args:
        evaluators: The evaluators, at least one.
        main_score_function: Maps the list of primary metrics to one score; by default the last.

    Raises:
        ValueError: If there is no evaluator.
    """

    def __init__(
        self,
        evaluators: Iterable[SentenceEvaluator],
        main_score_function: Callable[[Sequence[float]], float] = last_score,
    ) -> None:
        self.evaluators = list(evaluators)
        if not self.evaluators:
            raise ValueError("SequentialEvaluator needs at least one evaluator; found none.")
        self.main_score_function = main_score_function
        self.primary_metric = "sequential_score"

    def __call__(
        self, model: EvaluatedModel, output_path: str | None = None, epoch: float = -1, steps: int = -1
    ) -> dict[str, float]:
        """Measures a model with each evaluator in turn.

        Returns:
            All metrics by name, and ``sequential_score``.
        """
        results: dict[str, float] = {}
        scores = []
        for i, evaluator in enumerate(self.evaluators):
            found = evaluator(model, output_path, epoch, steps)
            metrics = found if isinstance(found, dict) else {f"evaluator_{i}": found}
            scores.append(metrics[_primary(evaluator) or next(iter(metrics))])
            if hidden := sorted(results.keys() & metrics.keys()):
                logger.warning("Metrics %s are found twice, the last counts; give evaluators a name.", hidden)
            results |= metrics
        return {**results, "sequential_score": self.main_score_function(scores)}

    def metric_names(self, model: EvaluatedModel) -> list[str] | None:
        """The names of all metrics; None if any evaluator does not know its own."""
        names: list[str] = []
        for i, evaluator in enumerate(self.evaluators):
            found = metric_names_of(evaluator, model)
            if found is None:
                return None
            names += [f"evaluator_{i}"] if found == [SINGLE_METRIC] else found
        return [*dict.fromkeys(names), "sequential_score"]


def _primary(evaluator: object) -> str | None:
    """The primary metric of an evaluator; None for a function, which has none."""
    match evaluator:
        case object(primary_metric=str(name)):
            return name
    return None
