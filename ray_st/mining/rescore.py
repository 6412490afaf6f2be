"""Scores of pairs of texts by a second, slower model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeAlias

import numpy as np

from ray_st.mining.pairs import Pairs
from ray_st.util.tensors import Embeddings, to_numpy, to_tensor

Scorer: TypeAlias = Callable[[list[tuple[str, str]]], np.ndarray]
"""Scores n pairs of a query and a document: (n,) in float32."""

_PAIRS_AT_ONCE = 2**16  # enough to sort by length and to keep a cluster busy


class Predictor(Protocol):
    """A cross-encoder as an object."""

    def predict(self, *args: Any, **options: Any) -> Embeddings:
        """Maps n pairs of texts to scores (n,)."""


CrossEncoder: TypeAlias = Predictor | Callable[[list[tuple[str, str]]], Embeddings]
"""A cross-encoder: an object with ``predict``, or a function of n pairs of texts."""


def scorer_of(cross_encoder: CrossEncoder, **options: object) -> Scorer:
    """Makes a function of a cross-encoder.

    Args:
        cross_encoder: An object with ``predict(pairs, **options)``, or a function of the pairs alone.
        options: Options of ``predict``, such as ``batch_size`` or ``pool``.

    Raises:
        ValueError: If it is neither; when called, if it returns anything but one finite score per pair.
    """
    predict = _predict(cross_encoder, options)

    def score(pairs: list[tuple[str, str]]) -> np.ndarray:
        given = to_numpy(to_tensor(predict(pairs))).astype(np.float32)
        if given.size != len(pairs):
            raise ValueError(
                f"The cross-encoder must give one score a pair; got {given.shape} for {len(pairs)}."
            )
        scores = given.reshape(-1)
        bad = np.flatnonzero(~np.isfinite(scores))
        if len(bad):
            raise ValueError(f"The cross-encoder's score of {pairs[bad[0]]!r:.160} is {scores[bad[0]]}.")
        return scores

    return score


def _predict(cross_encoder: object, options: dict[str, object]) -> Callable[..., Embeddings]:
    match cross_encoder:
        case object(predict=predict) if callable(predict):
            return partial(predict, **options)
        case _ if callable(cross_encoder):
            return cross_encoder
    raise ValueError(
        "cross_encoder must have predict(pairs), or be a function of pairs; got "
        f"{type(cross_encoder).__name__}."
    )


def score_pairs(
    score: Scorer, pairs: Pairs, query_numbers: np.ndarray, document_numbers: np.ndarray
) -> np.ndarray:
    """Scores of some queries and documents, by their numbers.

    Args:
        score: Scores pairs of texts.
        pairs: The texts.
        query_numbers: (n,).
        document_numbers: (n,).

    Returns:
        (n,) in float32.
    """
    parts = [np.empty(0, dtype=np.float32)]
    for start in range(0, len(query_numbers), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        numbers = zip(query_numbers[part], document_numbers[part], strict=True)
        parts.append(score([(pairs.queries[query], pairs.corpus[document]) for query, document in numbers]))
    return np.concatenate(parts)
