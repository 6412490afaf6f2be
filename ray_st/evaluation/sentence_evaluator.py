"""Base of all evaluators, users' own included."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

SINGLE_METRIC = "evaluator"
"""Name under which training reports the metric of an evaluator that returns a single number."""


class SentenceEvaluator(ABC):
    """Base of all evaluators; a subclass defines the call.

    The evaluators of this package share these options:

    - ``name``: Prefix of the metrics' names, and part of the names of files.
    - ``batch_size``: Texts encoded at once.
    - ``show_progress_bar``: Whether to show progress while encoding; None follows the logging level.
    - ``write_csv``: Whether to append a row to the CSV file, if an output folder is given.
    - ``truncate_dim``: Dimensions of embeddings to keep; by default the model's.

    Attributes:
        name: Prefix of each metric's name, joined by an underscore; empty for none.
        primary_metric: Key of the metric that stands for the rest, for choosing the best checkpoint; known
            after the first call.
        greater_is_better: Whether higher values of the primary metric are better.
    """

    name: str = ""
    primary_metric: str | None = None
    greater_is_better: bool = True

    @abstractmethod
    def __call__(
        self, model: Any, output_path: str | None = None, epoch: float = -1, steps: int = -1
    ) -> dict[str, float] | float:
        """Measures a model.

        Args:
            model: What to measure.
            output_path: Folder for files with the metrics; None writes none.
            epoch: Epoch of training, for the files; -1 outside training.
            steps: Steps into the epoch; -1 for its end.

        Returns:
            The metrics by name, or a single number.
        """

    def metric_names(self, model: Any) -> list[str] | None:
        """The names of the metrics that a call returns; None, as here, if they are not known.

        Before a run starts, training raises for a ``metric_for_best_model`` that no evaluation reports, if
        every evaluator knows its names. A single number is reported as ``evaluator``.

        Args:
            model: What would be measured; names may depend on its similarity.
        """
        return None

    def _prefixed(self, names: Iterable[str]) -> list[str]:
        return [f"{self.name}_{name}" if self.name else name for name in names]

    def prefix_name_to_metrics(self, metrics: Mapping[str, Any], name: str) -> dict[str, float]:
        """Prefixes each metric, and the primary metric, with the evaluator's name.

        Args:
            metrics: Metrics by name.
            name: The evaluator's name; empty for none.

        Returns:
            The metrics as floats, keyed ``{name}_{metric}``.
        """
        prefix = f"{name}_" if name else ""
        primary = self.primary_metric
        if primary is not None and not primary.startswith(prefix):
            self.primary_metric = prefix + primary
        return {prefix + key: float(value) for key, value in metrics.items()}

    def store_metrics_in_model_card_data(
        self, model: object, metrics: Mapping[str, float | str], epoch: float = 0, step: int = 0
    ) -> None:
        """Records the metrics in the model's card, if the model has one.

        Args:
            model: What was measured.
            metrics: The metrics by their full names; a text, which begins with the number, is shown as it is.
            epoch: Epoch of training.
            step: Steps into training.
        """
        match model:
            case object(model_card_data=card) if card is not None:
                card.set_evaluation_metrics(self, metrics, epoch, step)

    @property
    def description(self) -> str:
        """What is evaluated, for the model card: the words of the class's name."""
        name = re.sub("^CE(?=[A-Z])", "CrossEncoder", type(self).__name__).split("Evaluator")[0]
        return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)

    def get_config_dict(self) -> dict[str, Any]:
        """The options to show in the model card."""
        return {}


def metric_names_of(evaluator: object, model: object) -> list[str] | None:
    """The names of the metrics that an evaluator returns, if they can be relied on.

    Args:
        evaluator: Any evaluator, not necessarily a :class:`SentenceEvaluator`.
        model: What would be measured.

    Returns:
        The names; None if the evaluator does not state them, or if a subclass overrides the call without
        them.
    """
    for cls in type(evaluator).__mro__:
        if "metric_names" in vars(cls):
            match evaluator:
                case object(metric_names=ask) if callable(ask):
                    return ask(model)
        # The names that a base class states are not those of an overridden call.
        if "__call__" in vars(cls) or "prefix_name_to_metrics" in vars(cls):
            return None
    return None
