"""How often a classifier on top of embeddings finds the class of a pair."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ray_st.evaluation import sentence_evaluator as base
from ray_st.evaluation.csv_log import append_row
from ray_st.util.tensors import batch_to_device

logger = logging.getLogger(__name__)


class LabelAccuracyEvaluator(base.SentenceEvaluator):
    """Share of examples whose class is the highest output of a classifier, such as the one that SoftmaxLoss trains.

    The metric is ``accuracy``. CSV file: ``accuracy_evaluation[_{name}]_results.csv``.

    Examples are read once, when the evaluator is made, so that all workers see them in one order. Texts are encoded with
    the model that is measured. A loss that is trained and evaluated in the same run travels to the workers as one, so
    that the classifier is the trained one.

    Args:
        dataloader: Batches of examples, each with the ``texts`` of the classifier's columns and a class as ``label``; its
            ``batch_size`` (32 without one) is the texts encoded at once. A ``collate_fn`` is not used.
        name: Put before the metric and into the file name.
        softmax_model: The classifier; needed. With a method ``classify`` that maps the columns' embeddings (n, d) to
            logits (n, classes), as SoftmaxLoss has, the texts are encoded together, and by all workers. Another is
            called with the features of each column and ``labels=None`` for a pair whose second part are the logits, on
            every worker for itself.
        write_csv: Whether to write the CSV file where an output folder is given.

    Raises:
        ValueError: If there is no example or no such classifier, an example lacks texts or a class; when called, if a
            class is none of the classifier's, or its outputs are nan.
    """

    primary_metric = "accuracy"

    def __init__(
        self, dataloader: Iterable[Any], name: str = "", softmax_model: Any = None, write_csv: bool = True
    ) -> None:
        who = type(self).__name__
        examples = _examples(dataloader)
        base.check_equal_lengths(who, examples=examples)
        self.columns = _columns(who, examples)
        self.labels = _classes(who, examples)
        if not callable(softmax_model):
            raise ValueError(f"{who} needs a softmax_model that can be called; found {softmax_model!r}.")
        self.softmax_model = softmax_model
        self.batch_size = getattr(dataloader, "batch_size", None) or 32
        self.name = name
        self.write_csv = write_csv
        self.csv_file = "_".join(filter(None, ["accuracy_evaluation", name, "results.csv"]))

    def __call__(
        self, model: base.Model, output_path: str | None = None, epoch: float = -1, steps: int = -1
    ) -> dict[str, float]:
        """Measures a model; see the class for the metric."""
        self._log_start(logger, epoch, steps, None)
        right = self._logits(model).argmax(dim=1) == self.labels
        metrics = {"accuracy": right.double().mean().item()}
        logger.info("Accuracy %.4f (%d of %d)", metrics["accuracy"], right.sum(), len(right))
        if output_path is not None and self.write_csv:
            headers = ["epoch", "steps", "accuracy"]
            append_row(output_path, self.csv_file, headers, [epoch, steps, *metrics.values()])
        metrics = self.prefix_name_to_metrics(metrics, self.name)
        self.store_metrics_in_model_card_data(model, metrics, epoch, steps)
        return metrics

    def metric_names(self, model: base.Model) -> list[str]:
        """The names of the metrics that a call returns."""
        return self._prefixed(["accuracy"])

    @torch.no_grad()
    def _logits(self, model: Any) -> Tensor:
        together = hasattr(self.softmax_model, "classify")
        logits = (self._from_embeddings(model) if together else self._from_features(model)).cpu()
        beyond = (self.labels >= logits.shape[1]).nonzero()
        if len(beyond):
            row = int(beyond[0])
            raise ValueError(
                f"{type(self).__name__}: the classifier has {logits.shape[1]} classes, from 0; example {row} has class "
                f"{self.labels[row]}."
            )
        if logits.isnan().any():
            row = int(logits.isnan().any(dim=1).nonzero()[0])
            raise ValueError(f"{type(self).__name__}: the classifier's outputs for example {row} are nan.")
        return logits

    def _from_embeddings(self, model: base.Model) -> Tensor:
        texts = [text for column in self.columns for text in column]
        embeddings: Tensor = model.encode(
            texts, batch_size=self.batch_size, show_progress_bar=False, convert_to_tensor=True
        )
        return self.softmax_model.classify(*embeddings.split(len(self.labels)))

    def _from_features(self, model: Any) -> Tensor:
        was_training = model.training
        model.eval()
        parts = []
        for start in range(0, len(self.labels), self.batch_size):
            texts = [list(column[start : start + self.batch_size]) for column in self.columns]
            features = [batch_to_device(dict(model.tokenize(some)), model.device) for some in texts]
            parts.append(self.softmax_model(features, labels=None)[1])
        model.train(was_training)
        return torch.cat(parts)


def _examples(dataloader: Iterable[Any]) -> list[Any]:
    if hasattr(dataloader, "collate_fn"):  # a copy that hands out examples; the user's own stays as it is
        dataloader = copy.copy(dataloader)
        dataloader.collate_fn = _as_it_is  # type: ignore[attr-defined]
    return [example for batch in dataloader for example in batch]


def _as_it_is(batch: Any) -> Any:
    return batch


def _columns(evaluator: str, examples: Sequence[Any]) -> list[tuple[Any, ...]]:
    rows = [list(example.texts) for example in examples]
    for number, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise ValueError(
                f"{evaluator} needs as many texts in each example; the first has {len(rows[0])}, example {number} has "
                f"{len(row)}."
            )
    columns = list(zip(*rows, strict=True))
    for number, column in enumerate(columns):
        base.check_texts(evaluator, f"text {number} of the examples", column)
    return columns


def _classes(evaluator: str, examples: Sequence[Any]) -> Tensor:
    for number, example in enumerate(examples):
        label = example.label
        if isinstance(label, bool) or not hasattr(label, "__index__") or int(label) < 0:
            raise ValueError(
                f"{evaluator} needs a class from 0 as label of each example; that of {number} is {label!r}."
            )
    return torch.tensor([int(example.label) for example in examples])
