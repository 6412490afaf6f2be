"""The features of pairs of texts: the first column of a row joined with each of the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ray_st.data.encoded_dataset import EncodedDataset
from ray_st.data.plan import Indices
from ray_st.losses.scores.pairing import paired
from ray_st.losses.scores.score_loss import ScoreLoss
from ray_st.training.strategies.step_module import LossOrLosses, loss_for
from ray_st.util.host_facts import PAIR_COUNTS, with_host_facts

PAIR = "pair"
"""Name of the only input of a model that takes pairs."""
TEXTS = "texts"
"""Feature of that input: the text columns themselves, for losses that make pairs of them."""


def takes_texts(loss: object) -> bool:
    """Whether a loss, called with ``(columns of texts, labels)``, makes and tokenizes the pairs by itself.

    Losses that scripts define for other trainers of rerankers do so; those of this library get features.
    """
    return not isinstance(loss, ScoreLoss)


def text_arguments(features: Mapping[str, Any], labels: Tensor | None) -> tuple[list[Any], Any]:
    """The arguments of a loss that takes texts.

    Args:
        features: Those of the pairs.
        labels: (n, ...), or padded with NaN for lists of texts.

    Returns:
        The text columns, and the labels: a tensor, or one for each row if a column holds lists.
    """
    columns: list[Any] = features[TEXTS]
    if labels is None or not any(isinstance(column[0], list) for column in columns):
        return columns, labels
    counts = features[PAIR_COUNTS].tolist()
    return columns, [row[:count] for row, count in zip(labels, counts, strict=True)]


class JoinsPairs(Protocol):
    """An encoder whose token ids of two texts can be joined."""

    def join(self, queries: Sequence[Any], documents: Sequence[Any]) -> Mapping[str, Tensor]:
        """Padded features of the pairs."""


@dataclass(frozen=True)
class PairFeatures:
    """Makes the pairs of rows.

    Args:
        encoder: Joins token ids to pairs; None if rows stay texts.
        tokenize: Converts pairs of texts to padded features; used for rows of texts.
        loss: The loss, or one for each dataset; it may choose pairs.
        seed: Seed of pairs that are drawn at random. The draw of a batch depends on this and on its rows
            only, so a resumed run draws the same.
    """

    encoder: JoinsPairs | None
    tokenize: Callable[[list[tuple[str, str]]], Mapping[str, Tensor]]
    loss: LossOrLosses
    seed: int = 0

    def __call__(self, window: EncodedDataset, rows: Indices, dataset: str = "") -> dict[str, Any]:
        """Features of all pairs of the rows, row by row, and the number of pairs of each row.

        Args:
            window: The rows' dataset.
            rows: Their numbers.
            dataset: Its name.
        """
        query, *columns = window.columns.texts
        loss: Any = loss_for(self.loss, dataset, dataset)
        has_tokens = self.encoder is not None and window.has_tokens(query, rows)
        queries: Sequence[Any] = window.ids(query, rows) if has_tokens else window.texts(query, rows)
        documents = [_lists(window, rows, name, has_tokens) for name in columns]
        chosen = None
        if not takes_texts(loss):
            rng = np.random.default_rng([self.seed, *rows.tolist()])
            chosen = loss.pairing(len(rows), len(columns), rng)
        pairs, counts = paired(queries, documents, chosen)
        if has_tokens and self.encoder is not None:
            features = self.encoder.join([one for one, _ in pairs], [text for _, text in pairs])
        else:
            features = self.tokenize(pairs)
        made = {**with_host_facts(features), PAIR_COUNTS: torch.from_numpy(counts)}
        if takes_texts(loss):
            made[TEXTS] = [window.texts(name, rows) for name in window.columns.texts]
        return made


def _lists(window: EncodedDataset, rows: Indices, name: str, has_tokens: bool) -> list[list[Any]]:
    """The texts, or token ids, of a document column as a list for each row."""
    if name in window.columns.lists:
        lists: Sequence[Any] = window.lists_of_ids(name, rows) if has_tokens else window.texts(name, rows)
        return list(lists)
    single: Sequence[Any] = window.ids(name, rows) if has_tokens else window.texts(name, rows)
    return [[one] for one in single]
