"""Base of the losses of rerankers: scores pairs of texts together, and checks inputs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ray_st.losses.helpers import at_least_float32
from ray_st.losses.loss import Loss
from ray_st.losses.model_facts import number_of_labels
from ray_st.losses.parts import Value
from ray_st.losses.scores.pairing import Pairing, paired
from ray_st.losses.scores.scores import Scores
from ray_st.util.host_facts import PAIR_COUNTS, host_copy, remember
from ray_st.util.tensors import batch_to_device

Texts: TypeAlias = Sequence[str] | Sequence[Sequence[str]]
"""A text column: a text a row, or a list of documents a row."""
Activation: TypeAlias = Callable[[Tensor], Tensor]
Counts: TypeAlias = NDArray[np.int64]


class ScoreLoss(Loss):
    """A loss over the scores of pairs of texts. Users call it; authors define :meth:`compute`.

    What :class:`ray_st.losses.loss.Loss` says of ranks holds: the mean of their losses, weighted by their
    rows, is the loss of the whole batch, in value and gradient. A loss whose rows do not count alike, such as
    one that averages over documents, defines :meth:`row_weights` and takes its mean with
    :meth:`ray_st.losses.scores.scores.Scores.mean`.

    Args:
        model: Maps features of pairs to a dict with ``scores`` (n, num_labels); has ``num_labels``, and
            ``tokenize(pairs)`` for calls with texts.
        activation_fn: Applied to the logits; None for none.
        mini_batch_size: If more than 0, the model runs on this many pairs at a time and recomputes
            activations in the backward pass, so that memory does not grow with the batch or its lists;
            otherwise it keeps the activations of all pairs.

    Attributes:
        lists: Whether the loss takes one column of queries and one of lists of documents, with as long a list
            of labels for each.
        model_labels: Number of labels that the model must have; None for any.

    Raises:
        ValueError: If the model does not score pairs, or has another number of labels.
    """

    text_columns: tuple[int, int | None] = (2, 2)
    lists: bool = False
    model_labels: int | None = 1
    shown: tuple[str, ...] = ("activation_fn",)

    def __init__(
        self, model: nn.Module, activation_fn: Activation | None = None, mini_batch_size: int | None = None
    ) -> None:
        super().__init__(model)
        self._check_model(number_of_labels(model))
        self.activation_fn = activation_fn or nn.Identity()
        if mini_batch_size is not None and mini_batch_size > 0:
            self.cache(mini_batch_size)

    def forward(self, sentence_features: Iterable[Mapping[str, Any] | Texts], labels: Any = None) -> Value:
        """Scores the pairs and computes the loss.

        Args:
            sentence_features: The features of all pairs of the rows, row by row, as one dict, with
                ``pair_counts`` (n,), how many pairs each row has; it may be missing if each has one. Or the
                text columns: queries and one or more columns of documents, or queries and lists of documents.
            labels: (n,) or (n, c), as the loss needs them; for lists of documents (n, m), where shorter lists
                end in NaN, or a list of tensors.

        Returns:
            The loss, a scalar or named scalars to be summed. On an idle rank it is zero, but still connected
            to the scores.

        Raises:
            ValueError: If columns, documents or labels are not what the loss needs.
        """
        scores = self.scores(list(sentence_features), labels)
        return self.unless_idle(lambda: self.compute(scores), [scores.logits])

    def scores(self, inputs: Sequence[Mapping[str, Any] | Texts], labels: Any = None) -> Scores:
        """Scores this rank's pairs; arguments and errors as in :meth:`forward`."""
        features = self._features(inputs)
        counts = self._counts(features)
        labels = self._checked(labels, counts)
        (logits,) = self.run(self.model, [features])
        if len(logits) != counts.sum():
            raise ValueError(
                f"{type(self).__name__} needs as many pairs as {PAIR_COUNTS} says, {counts.sum()}; found "
                f"{len(logits)}."
            )
        logits = self.activate(at_least_float32(logits.reshape(len(logits), -1)))
        return self._weighed(Scores(logits, counts, labels))

    @abstractmethod
    def compute(self, scores: Scores) -> Value:
        """Computes the loss from scores; the one method that a loss must define.

        Args:
            scores: Logits and labels, already checked.

        Returns:
            The loss of this rank's rows, a scalar or named scalars to be summed.
        """

    def pairing(self, rows: int, columns: int, rng: np.random.Generator) -> Pairing | None:
        """Chooses the pairs of a batch; called where batches are made.

        Args:
            rows: Number of rows n of the batch.
            columns: Number of columns of documents.
            rng: Source of random choices.

        Returns:
            The pairs; None for each query with each document of its own row, in the order of the columns.
        """
        return None

    def row_weights(self, scores: Scores) -> Tensor | None:
        """What each row counts in the mean (n,), without gradient; None if rows count alike.

        Every rank is asked, an idle one for its filler row, and the cluster's sum becomes ``scores.total``.

        Args:
            scores: Logits and labels, already checked.
        """
        return None

    def activate(self, logits: Tensor) -> Tensor:
        """The logits (P, k) after the activation function, which gets single ones as (P,).

        Args:
            logits: (P, k), at least float32.
        """
        if logits.shape[1] != 1:
            return self.activation_fn(logits)
        return self.activation_fn(logits[:, 0])[:, None]

    def compute_loss_from_embeddings(
        self, embeddings: Sequence[Tensor], labels: Tensor | None = None
    ) -> Value:
        """There are no embeddings of single texts here.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            f"{type(self).__name__} takes scores of pairs, so that no loss over embeddings can be made of it."
        )

    def _check_model(self, found: int | None) -> None:
        name = type(self).__name__
        if found is None:
            raise ValueError(
                f"{name} needs a model that scores pairs, with num_labels, such as a CrossEncoder; found "
                f"{type(self.model).__name__}."
            )
        if self.model_labels is not None and found != self.model_labels:
            raise ValueError(
                f"{name} needs a model with num_labels={self.model_labels}; found num_labels={found}. Load "
                f"it with CrossEncoder(..., num_labels={self.model_labels})."
            )

    def _features(self, inputs: Sequence[Mapping[str, Any] | Texts]) -> Mapping[str, Any]:
        """The features of all pairs: those given, or those of the texts."""
        columns = [column for column in inputs if not isinstance(column, Mapping)]
        if columns and len(columns) == len(inputs):
            return self._tokenized(columns)
        features = [column for column in inputs if isinstance(column, Mapping)]
        if len(features) != 1 or columns:
            raise ValueError(
                f"{type(self).__name__} needs the features of all pairs as one dict, or text columns; found "
                f"{len(inputs)} inputs, {len(features)} of them dicts."
            )
        return features[0]

    def _tokenized(self, columns: Sequence[Texts]) -> dict[str, Any]:
        pairs, counts = self._pairs(columns)
        self._check_counts(counts)
        device = next((weight.device for weight in self.model.parameters()), torch.device("cpu"))
        features = batch_to_device(dict(self.model.tokenize(pairs)), device)  # type: ignore[operator]
        return {**features, PAIR_COUNTS: torch.from_numpy(counts)}

    def _pairs(self, columns: Sequence[Texts]) -> tuple[list[tuple[str, str]], Counts]:
        """The pairs of texts, row by row, and their number in each row."""
        self._check_columns(len(columns))
        self._check_texts(columns)
        queries: Sequence[Any] = columns[0]
        documents: list[Sequence[Any]] = list(columns[1:])
        if self.lists:
            return paired(queries, documents, None)
        rng = np.random.default_rng(int(torch.randint(2**31, ())))  # torch.manual_seed rules it
        chosen = self.pairing(len(queries), len(documents), rng)
        return paired(queries, [[[text] for text in column] for column in documents], chosen)

    def _check_texts(self, columns: Sequence[Texts]) -> None:
        name = type(self).__name__
        if len({len(column) for column in columns}) != 1:
            raise ValueError(
                f"{name} needs the same number of rows in each text column; found "
                f"{[len(column) for column in columns]}."
            )
        for place, column in enumerate(columns):
            kind = (list, tuple) if self.lists and place == 1 else str
            wrong = next((row for row, each in enumerate(column) if not isinstance(each, kind)), None)
            if wrong is not None:
                need = "a text" if kind is str else "a list of documents"
                raise ValueError(
                    f"{name} needs {need} in each row of text column {place + 1}; found "
                    f"{type(column[wrong]).__name__} in row {wrong}."
                )

    def _counts(self, features: Mapping[str, Any]) -> Counts:
        counts = features.get(PAIR_COUNTS)
        if isinstance(counts, Tensor):
            found: Counts = host_copy(counts).numpy()
            self._check_counts(found)
            return found
        if self.lists or self.text_columns != (2, 2):
            raise ValueError(
                f"{type(self).__name__} needs {PAIR_COUNTS} among the features: a tensor (n,) of the number "
                f"of pairs of each row; found {sorted(features)}."
            )
        first = next(value for value in features.values() if isinstance(value, Tensor))
        return np.ones(len(first), dtype=np.int64)

    def _check_counts(self, counts: Counts) -> None:
        name = type(self).__name__
        empty = np.flatnonzero(counts < 1)
        if len(empty) or not len(counts):
            raise ValueError(
                f"{name} needs at least one document for each query; found none in row(s) "
                f"{empty.tolist()[:8]} of the {len(counts)} in the batch."
            )
        if self.lists:
            return
        uneven = np.flatnonzero(counts != counts[0])
        if len(uneven):
            raise ValueError(
                f"{name} needs as many pairs in each row; found {counts[0]} in row 0 and {counts[uneven[0]]} "
                f"in row {uneven[0]}."
            )
        if type(self).pairing is ScoreLoss.pairing:
            self._check_columns(1 + int(counts[0]))

    def _checked(self, labels: Any, counts: Counts) -> Tensor | None:
        checked = self.check_labels(_stacked(labels), len(counts))
        if not self.lists or checked is None:
            return checked
        host = host_copy(checked)
        found = (~host.isnan()).sum(1).numpy()
        wrong = np.flatnonzero(found != counts)
        if len(wrong):
            row = wrong[0]
            raise ValueError(
                f"{type(self).__name__} needs one label for each document; found {found[row]} label(s) for "
                f"{counts[row]} document(s) in row {row} of the batch, and {len(wrong)} such row(s)."
            )
        width = int(counts.max())
        return remember(checked[:, :width], host[:, :width])

    def _weighed(self, scores: Scores) -> Scores:
        weights, gather = self.row_weights(scores), self._gather
        if weights is None and (gather is None or not self.sums):
            return scores
        mine = scores.logits.new_ones(scores.rows) if weights is None else weights
        pool = mine if gather is None else gather(mine)[0]
        return replace(scores, total=None if weights is None else pool.sum(), cluster_rows=len(pool))


def _stacked(labels: Any) -> Any:
    """Lists of numbers, one a row, as a tensor (n, m) that is padded with NaN; anything else unchanged."""
    if not isinstance(labels, (list, tuple)):
        return labels
    rows = [torch.tensor(row) if isinstance(row, (list, tuple)) else row for row in labels]
    if not rows or not all(isinstance(row, Tensor) and row.ndim == 1 for row in rows):
        return labels
    wide = [row if row.is_floating_point() else row.float() for row in rows]
    return nn.utils.rnn.pad_sequence(wide, batch_first=True, padding_value=torch.nan)
