"""What all evaluators share: the call, the primary metric, names of metrics, and checks of what they are given."""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from typing import Any, Protocol

from ray_st.similarity_functions import SimilarityFunction

DOCUMENT_PROMPTS = ("document", "passage", "corpus")
"""Names of the prompts for what is searched; the first that a model has is used."""

ONE_FIGURE = "evaluator"
"""The name under which training reports the figure of an evaluator that returns just one."""


class Model(Protocol):
    """What evaluators need of a model; training hands them one whose ``encode`` is shared by all workers."""

    @property
    def encode(self) -> Callable[..., Any]:
        """Maps texts to embeddings (n, d)."""

    @property
    def similarity(self) -> Callable[..., Any]:
        """Maps embeddings (n, d) and (m, d) to similarities (n, m)."""

    @property
    def similarity_fn_name(self) -> str | None:
        """Name of the similarity: cosine, dot, euclidean or manhattan."""


class SentenceEvaluator(ABC):
    """Base of all evaluators; a subclass defines the call.

    Attributes:
        name: Put before the name of each metric, with an underscore; empty for none.
        primary_metric: Key of the metric that stands for the rest, for choosing the best checkpoint; known after the
            first call.
        greater_is_better: Whether more of the primary metric is better.
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
            output_path: Folder for files with the figures; None writes none.
            epoch: When in training, for the files; -1 for outside of training.
            steps: Steps into the epoch; -1 for its end.

        Returns:
            The metrics by name, or one figure.
        """

    def metric_names(self, model: Any) -> list[str] | None:
        """The names of the metrics that a call returns, known without one; here None, as a subclass has to say.

        Training refuses a ``metric_for_best_model`` that no evaluation reports before it starts; it can do so if all
        evaluators say their names. An evaluator that returns one figure reports it as ``evaluator``.

        Args:
            model: What would be measured; names may depend on its similarity.
        """
        return None

    def _prefixed(self, names: Iterable[str]) -> list[str]:
        return [f"{self.name}_{name}" if self.name else name for name in names]

    def prefix_name_to_metrics(self, metrics: Mapping[str, Any], name: str) -> dict[str, float]:
        """Puts the evaluator's name before each metric and the primary metric.

        Args:
            metrics: Figures by name.
            name: The name; empty for none.

        Returns:
            The figures as floats, keyed ``{name}_{metric}``.
        """
        prefix = f"{name}_" if name else ""
        primary = self.primary_metric
        if primary is not None and not primary.startswith(prefix):
            self.primary_metric = prefix + primary
        return {prefix + key: float(value) for key, value in metrics.items()}

    def store_metrics_in_model_card_data(
        self, model: Any, metrics: Mapping[str, float], epoch: float = 0, step: int = 0
    ) -> None:
        """Notes the metrics in the model's card, if the model has one.

        Args:
            model: What was measured.
            metrics: The figures by their full names.
            epoch: When in training.
            step: Steps into training.
        """
        card = getattr(model, "model_card_data", None)
        if card is not None:
            card.set_evaluation_metrics(self, metrics, epoch, step)

    @property
    def description(self) -> str:
        """What is evaluated, in words for the model card: the class's name, spaced."""
        name = re.sub("^CE(?=[A-Z])", "CrossEncoder", type(self).__name__).split("Evaluator")[0]
        return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)

    def get_config_dict(self) -> dict[str, Any]:
        """The options worth showing in the model card."""
        return {}

    def _given(self, *options: str) -> dict[str, Any]:
        return {key: getattr(self, key) for key in options if getattr(self, key) is not None}

    def _log_start(self, logger: logging.Logger, epoch: float, steps: int, truncate_dim: int | None) -> None:
        when = "" if epoch == -1 else f" after epoch {epoch}"
        if epoch != -1 and steps != -1:
            when = f" in epoch {epoch} after {steps} steps"
        cut = "" if truncate_dim is None else f" (truncated to {truncate_dim})"
        logger.info("%s on the %s dataset%s%s:", self.description, self.name or "unnamed", when, cut)


def metric_names_of(evaluator: Any, model: Any) -> list[str] | None:
    """The names of the metrics that an evaluator returns, as far as it can be trusted to know them.

    Args:
        evaluator: Any evaluator, also one that is no :class:`SentenceEvaluator`.
        model: What would be measured.

    Returns:
        The names; None if it does not say them, or if a subclass has a call of its own and says nothing of names.
    """
    for cls in type(evaluator).__mro__:
        if "metric_names" in vars(cls):
            names: list[str] | None = evaluator.metric_names(model)
            return names
        if "__call__" in vars(cls) or "prefix_name_to_metrics" in vars(cls):
            return None  # what the class above says is no longer what a call returns
    return None


def check_equal_lengths(evaluator: str, **columns: Sized) -> None:
    """Refuses columns that are empty or of unequal lengths.

    Args:
        evaluator: Who asks.
        columns: The columns by argument name.

    Raises:
        ValueError: Naming the lengths found.
    """
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{evaluator} needs lists of the same length; found {lengths}.")
    if not all(lengths.values()):
        raise ValueError(f"{evaluator} needs at least one row; {', '.join(lengths)} are empty.")


def check_texts(evaluator: str, name: str, texts: Sequence[Any]) -> list[Any]:
    """Refuses a single text in place of a list, and texts that are None.

    Args:
        evaluator: Who asks.
        name: The argument.
        texts: The texts; anything that the model can encode.

    Returns:
        The texts as a list.

    Raises:
        ValueError: Naming the first row without a text.
    """
    if isinstance(texts, str):
        raise ValueError(
            f"{evaluator} needs {name} as a list of texts; found the single text {texts[:40]!r}."
        )
    texts = list(texts)
    for row, text in enumerate(texts):
        if text is None:
            raise ValueError(f"{evaluator} needs a text in each row of {name}; row {row} is None.")
    return texts


def choose_similarities(
    evaluator: str,
    main: str | SimilarityFunction | None,
    names: Sequence[str] | None,
) -> tuple[SimilarityFunction | None, list[str]]:
    """Brings the two arguments that choose similarities together.

    Args:
        evaluator: Who asks.
        main: The similarity of the primary metric.
        names: The similarities to measure.

    Returns:
        The main similarity, and the names; without any the model's own is meant.

    Raises:
        ValueError: If a name is unknown, or the main similarity is not among the names.
    """
    chosen = [SimilarityFunction(name).value for name in names or []]
    if main is None or main == "":
        return None, chosen
    first = SimilarityFunction(main)
    if chosen and first.value not in chosen:
        raise ValueError(
            f"{evaluator}: the main similarity {first.value!r} must be among similarity_fn_names {chosen}."
        )
    return first, chosen or [first.value]


def similarities_of(names: Sequence[str], model: Model) -> list[str]:
    """The similarities to measure: those that were asked for, else the model's own.

    Args:
        names: Asked for; may be empty.
        model: What is measured.
    """
    return list(names) or [str(model.similarity_fn_name)]


def progress(show: bool | None, logger: logging.Logger) -> bool:
    """Whether to show a progress bar; None asks the logger, which wants one at INFO or DEBUG."""
    return logger.getEffectiveLevel() in (logging.INFO, logging.DEBUG) if show is None else show


def role_prompt(model: Any, roles: Sequence[str]) -> str | None:
    """Name of the prompt that a model has for a role, such as "query"; None without one.

    Args:
        model: May have ``prompts``, texts by name.
        roles: Names to look for, in order.
    """
    prompts = getattr(model, "prompts", None) or {}
    return next((name for name in roles if prompts.get(name)), next((n for n in roles if n in prompts), None))


def role_task(model: Any, roles: Sequence[str]) -> dict[str, str]:
    """The option of ``encode`` that names a role's task, for models of which a module takes one (a Router).

    Args:
        model: May have ``get_model_kwargs``, the names of the options that its modules take.
        roles: Names of the role, the task first.
    """
    known: list[str] = getattr(model, "get_model_kwargs", list)()
    return {"task": roles[0]} if "task" in known else {}
