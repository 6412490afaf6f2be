"""How often a classifier on top of embeddings predicts the class of a pair."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, SupportsIndex, runtime_checkable

import torch
from torch import Tensor

from ray_st.evaluation.built_in import BuiltInEvaluator, Measured
from ray_st.evaluation.checked_inputs import Example, check_equal_lengths, check_texts
from ray_st.evaluation.evaluated_model import EvaluatedModel
from ray_st.util.tensors import batch_to_device


@runtime_checkable
class FeatureModel(EvaluatedModel, Protocol):
    """What a classifier of features needs of a model."""

    training: bool
    device: torch.device

    def tokenize(self, texts: list[Any]) -> dict[str, Any]:
        """Features of texts."""

    def train(self, mode: bool = True) -> object:
        """Switches training mode."""

    def eval(self) -> object:
        """Switches training mode off."""


class LabelAccuracyEvaluator(BuiltInEvaluator):
    """Share of examples whose class is the highest output of a classifier, such as SoftmaxLoss's.

    The metric is ``accuracy``. CSV file: ``accuracy_evaluation[_{name}]_results.csv``.

    Examples are read once, when the evaluator is made, so that all workers see them in the same order. Texts
    are encoded with the model that is measured. A loss that is trained and evaluated in the same run is sent
    to the workers once, so that the classifier is the trained one.

    Further options are those of :class:`ray_st.evaluation.SentenceEvaluator`.

    Args:
        dataloader: Batches of examples, each with the ``texts`` of the classifier's columns and a class as
            ``label``; its ``batch_size`` (32 without one) is the number of texts encoded at once. A
            ``collate_fn`` is not used.
        softmax_model: The classifier; required. If it has a method ``classify`` that maps the columns'
            embeddings (n, d) to logits (n, classes), as SoftmaxLoss has, the texts are encoded together, and
            by all workers. Otherwise it is called with the features of each column and ``labels=None``, by
            every worker for itself, and must return a pair whose second part is the logits.

    Raises:
        ValueError: If there is no example or no such classifier, or an example lacks texts or a class; when
            called, if the classifier lacks a class, or its outputs are nan.
    """

    shown = ()
    primary_metric = "accuracy"

    def __init__(
        self,
        dataloader: Iterable[Iterable[Example]],
        name: str = "",
        softmax_model: Callable[..., Any] | None = None,
        write_csv: bool = True,
    ) -> None:
        who = type(self).__name__
        examples = _examples(dataloader)
        check_equal_lengths(who, examples=examples)
        self.columns = _columns(who, examples)
        self.labels = _classes(who, examples)
        if softmax_model is None or not callable(softmax_model):
            raise ValueError(f"{who} needs a softmax_model that can be called; found {softmax_model!r}.")
        self.softmax_model = softmax_model
        self._set_options("accuracy_evaluation", name, write_csv, batch_size=_batch_size(dataloader))

    def measure(self, model: EvaluatedModel) -> Measured:
        """Measures a model; see the class for the metric."""
        right = self._logits(model).argmax(dim=1) == self.labels
        metrics = {"accuracy": right.double().mean().item()}
        return Measured(metrics, metrics)

    def metric_names(self, model: EvaluatedModel) -> list[str]:
        """The names of the metrics that a call returns."""
        return self._prefixed(["accuracy"])

    @torch.no_grad()
    def _logits(self, model: EvaluatedModel) -> Tensor:
        logits = self._outputs(model).cpu()
        beyond = (self.labels >= logits.shape[1]).nonzero()
        if len(beyond):
            row = int(beyond[0])
            raise ValueError(
                f"{type(self).__name__}: the classifier has {logits.shape[1]} classes, from 0; example {row} "
                f"has class {self.labels[row]}."
            )
        if logits.isnan().any():
            row = int(logits.isnan().any(dim=1).nonzero()[0])
            raise ValueError(f"{type(self).__name__}: the classifier's outputs for example {row} are nan.")
        return logits

    def _outputs(self, model: EvaluatedModel) -> Tensor:
        match self.softmax_model:
            case object(classify=classify) if callable(classify):
                texts = [text for column in self.columns for text in column]
                embeddings: Tensor = self._encode(model, texts, convert_to_tensor=True)
                return classify(*embeddings.split(len(self.labels)))
        if not isinstance(model, FeatureModel):
            raise ValueError(
                f"{type(self).__name__}: a softmax_model without a method classify needs a model with "
                f"tokenize, train, eval and device; found {type(model).__name__}."
            )
        return self._from_features(model)

    def _from_features(self, model: FeatureModel) -> Tensor:
        was_training = model.training
        model.eval()
        parts = []
        for start in range(0, len(self.labels), self.batch_size):
            texts = [list(column[start : start + self.batch_size]) for column in self.columns]
            features = [batch_to_device(dict(model.tokenize(some)), model.device) for some in texts]
            parts.append(self.softmax_model(features, labels=None)[1])
        model.train(was_training)
        return torch.cat(parts)


def _examples(dataloader: Iterable[Iterable[Example]]) -> list[Example]:
    match dataloader:
        case object(collate_fn=collate) if collate is not _unchanged:
            loader: Any = copy.copy(dataloader)  # the user's own is left unchanged
            loader.collate_fn = _unchanged
            return _examples(loader)
    return [example for batch in dataloader for example in batch]


def _unchanged(batch: list[Example]) -> list[Example]:
    return batch


def _batch_size(dataloader: object) -> int:
    match dataloader:
        case object(batch_size=int(size)) if size:
            return size
    return 32


def _columns(evaluator: str, examples: Sequence[Example]) -> list[tuple[Any, ...]]:
    rows = [list(example.texts) for example in examples]
    for number, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise ValueError(
                f"{evaluator} needs as many texts in each example; the first has {len(rows[0])}, example "
                f"{number} has {len(row)}."
            )
    columns = list(zip(*rows, strict=True))
    for number, column in enumerate(columns):
        check_texts(evaluator, f"text {number} of the examples", column)
    return columns


def _classes(evaluator: str, examples: Sequence[Example]) -> Tensor:
    for number, example in enumerate(examples):
        label = example.label
        if isinstance(label, bool) or not isinstance(label, SupportsIndex) or int(label) < 0:
            raise ValueError(
                f"{evaluator} needs a class from 0 as label of each example; that of {number} is {label!r}."
            )
    return torch.tensor([int(example.label) for example in examples])
