"""Search among embeddings with fewer bits: what all libraries that do it share.

The index finds more documents than asked for by the coarse embeddings; the full query then orders what was found.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from ray_st.util.search.quantize import as_array, find_ranges, quantize_embeddings, restore

logger = logging.getLogger(__name__)

Hits: TypeAlias = list[list[dict[str, Any]]]
"""For each query the documents found, best first: ``corpus_id``, its number, and ``score``."""

_QUERIES_AT_ONCE = 1024


@dataclass(frozen=True)
class Matches:
    """What an index finds.

    Attributes:
        scores: (q, k), best first.
        documents: Their numbers (q, k).
        there: Whether there is a document (q, k); False fills up queries that have fewer.
    """

    scores: np.ndarray
    documents: np.ndarray
    there: np.ndarray

    def hits(self) -> Hits:
        """The same as lists of dicts."""
        return [
            [
                {"corpus_id": document, "score": score}
                for document, score, there in zip(*row, strict=True)
                if there
            ]
            for row in zip(self.documents.tolist(), self.scores.tolist(), self.there.tolist(), strict=True)
        ]


@dataclass(frozen=True)
class Index:
    """An index of any library.

    Args:
        library: Its name, for messages.
        native: The library's own index.
        size: Documents in it.
        width: Numbers of one embedding as it is stored: dimensions, or bytes if they are bits.
        search: Maps codes of queries and k to what is found.
        codes: Maps document numbers (n,) to their codes (n, width).
    """

    library: str
    native: Any
    size: int
    width: int
    search: Callable[[np.ndarray, int], Matches]
    codes: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Request:
    """How to search.

    Args:
        precision: Of the corpus.
        top_k: Documents to find for each query.
        ranges: (2, d), the ranges with which the corpus was written; for int8 and uint8.
        calibration_embeddings: Embeddings from which to take them.
        rescore: Whether to order what is found by the full queries.
        rescore_multiplier: How many times ``top_k`` to find first, in that case.

    Raises:
        ValueError: If a number is less than 1.
    """

    precision: str
    top_k: int = 10
    ranges: np.ndarray | None = None
    calibration_embeddings: Any = None
    rescore: bool = True
    rescore_multiplier: int = 2

    def __post_init__(self) -> None:
        for name in ("top_k", "rescore_multiplier"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}.")

    @property
    def stored(self) -> str:
        """The precision as an index stores it: bits have no sign there."""
        return "ubinary" if self.precision == "binary" else self.precision


def one_source(corpus_embeddings: Any, corpus_index: Any, precision: str, known: tuple[str, ...]) -> None:
    """Refuses arguments that don't say what to search.

    Args:
        corpus_embeddings: The corpus, or None.
        corpus_index: An index of it, or None.
        precision: Of either.
        known: The precisions that the library can search.

    Raises:
        ValueError: If both or neither are given, the corpus is empty, or the precision is unknown.
    """
    if precision not in known:
        raise ValueError(f"corpus_precision must be one of {', '.join(known)}; got {precision!r}.")
    if (corpus_embeddings is None) == (corpus_index is None):
        found = "neither" if corpus_index is None else "both"
        raise ValueError(f"Give either corpus_embeddings or corpus_index; got {found}.")
    if not len(corpus_embeddings if corpus_index is None else range(_size(corpus_index))):
        raise ValueError("There is nothing to search: the corpus is empty.")


def _size(index: Any) -> int:
    return int(index.ntotal) if hasattr(index, "ntotal") else len(index)


def unsigned_bits(codes: np.ndarray) -> np.ndarray:
    """The bytes of "ubinary" from those of "binary", which are less by 128."""
    return codes.view(np.uint8) ^ 0x80 if codes.dtype == np.int8 else codes


def find(index: Index, query_embeddings: Any, request: Request) -> tuple[Hits, float]:
    """Searches an index and rescores what it finds.

    Args:
        index: Of the corpus.
        query_embeddings: (q, d), or one (d,): full, or of the corpus's precision.
        request: How to search.

    Returns:
        What is found, and the seconds that it took.

    Raises:
        ValueError: If the queries have other dimensions than the corpus, or hold NaN.
    """
    queries = np.atleast_2d(as_array(query_embeddings))
    full = queries.dtype not in (np.int8, np.uint8)
    if full and not np.isfinite(queries).all():
        raise ValueError("query_embeddings must be finite; found NaN or infinity.")
    rescore = _may_rescore(index, full, request)
    if rescore and request.precision in ("int8", "uint8") and request.ranges is None:
        ranges = find_ranges(queries, request.precision, request.calibration_embeddings)
        request = replace(request, ranges=ranges)
    codes = _codes(queries, request) if full else queries
    codes = unsigned_bits(codes) if request.precision == "binary" else codes
    if codes.shape[1] != index.width:
        raise ValueError(
            f"Queries and corpus must have the same dimension; as {request.precision} they hold {codes.shape[1]} "
            f"and {index.width} numbers."
        )
    start = time.perf_counter()
    found = index.search(codes, request.top_k * (request.rescore_multiplier if rescore else 1))
    found = _rescored(index, queries, found, request) if rescore else found
    return found.hits(), time.perf_counter() - start


def _may_rescore(index: Index, full: bool, request: Request) -> bool:
    if request.rescore and (not full or request.precision == "float32"):
        reason = "the corpus is not quantized" if full else "the queries are quantized"
        logger.warning("semantic_search_%s cannot rescore, as %s; set rescore=False.", index.library, reason)
    return request.rescore and full and request.precision != "float32"


def _codes(queries: np.ndarray, request: Request) -> np.ndarray:
    return quantize_embeddings(queries, request.precision, request.ranges, request.calibration_embeddings)


def _rescored(index: Index, queries: np.ndarray, found: Matches, request: Request) -> Matches:
    blocks = range(0, len(queries), _QUERIES_AT_ONCE)
    parts = [
        _rescored_block(
            index, queries[block], Matches(*(values[block] for values in vars(found).values())), request
        )
        for block in (slice(start, start + _QUERIES_AT_ONCE) for start in blocks)
    ]
    return Matches(
        *(np.concatenate(values) for values in zip(*(vars(part).values() for part in parts), strict=True))
    )


def _rescored_block(index: Index, queries: np.ndarray, found: Matches, request: Request) -> Matches:
    if not found.there.any():
        return found
    documents = np.where(found.there, found.documents, found.documents[found.there][0])
    each, places = np.unique(documents, return_inverse=True)
    values = restore(index.codes(each), request.stored, request.ranges, queries.shape[1])
    scores = np.einsum("qd,qkd->qk", queries.astype(np.float64), values[places.reshape(documents.shape)])
    scores[~found.there] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, : request.top_k]
    return Matches(*(np.take_along_axis(rows, order, axis=1) for rows in (scores, documents, found.there)))
