"""Search with usearch among embeddings of full or fewer bits."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from ray_st.util.extras import load_extra
from ray_st.util.search.quantize import as_array
from ray_st.util.search.quantized import Hits, Index, Matches, Request, find, one_source, unsigned_bits

_KINDS = {
    "float32": ("cos", "f32"),
    "int8": ("ip", "i8"),
    "ubinary": ("hamming", "b1"),
    "binary": ("hamming", "b1"),
}


def semantic_search_usearch(
    query_embeddings: Any,
    corpus_embeddings: np.ndarray | None = None,
    corpus_index: Any = None,
    corpus_precision: str = "float32",
    top_k: int = 10,
    ranges: np.ndarray | None = None,
    calibration_embeddings: np.ndarray | None = None,
    rescore: bool = True,
    rescore_multiplier: int = 2,
    exact: bool = True,
    output_index: bool = False,
) -> tuple[Hits, float] | tuple[Hits, float, Any]:
    """The nearest documents of each query, searched by usearch (the extra "usearch").

    With full queries and a corpus of fewer bits, ``top_k * rescore_multiplier`` documents are found by the coarse
    embeddings and ordered by the product of the query with what the documents' codes stand for.

    Args:
        query_embeddings: (q, d) or (d,), full or as the corpus.
        corpus_embeddings: (n, d), or its codes as :func:`quantize_embeddings` writes them.
        corpus_index: An index of them instead, such as one returned before.
        corpus_precision: "float32", "int8", "ubinary" or "binary".
        top_k: Documents to find for each query.
        ranges: (2, d), the ranges with which an int8 corpus was written.
        calibration_embeddings: Embeddings from which they were taken. Without both, the queries' own ranges are
            used, which are others than the corpus's.
        rescore: Whether to rescore as said above; a warning tells when it cannot be done.
        rescore_multiplier: How many times as many documents are found first.
        exact: Whether to look at every document, or to follow the index's graph.
        output_index: Whether to return the index too.

    Returns:
        For each query a list of dicts with ``corpus_id`` and ``score``, best first, shorter if there are fewer
        documents; the seconds that the search took; and the index if asked for. Scores are products (more is
        better) where they were rescored, else usearch's distances (less is better): 1 - cosine, 1 - product, or
        the number of different bits.

    Raises:
        ValueError: If arguments contradict each other or the index, or dimensions differ.
        ImportError: If usearch is not installed.
    """
    one_source(corpus_embeddings, corpus_index, corpus_precision, tuple(_KINDS))
    request = Request(corpus_precision, top_k, ranges, calibration_embeddings, rescore, rescore_multiplier)
    usearch = load_extra("usearch.index", "usearch", "semantic_search_usearch")
    native = corpus_index
    if native is None:
        native = _build(usearch, as_array(corpus_embeddings), corpus_precision)
    hits, seconds = find(_wrapped(usearch, native, corpus_precision, exact), query_embeddings, request)
    return (hits, seconds, native) if output_index else (hits, seconds)


def _build(usearch: ModuleType, corpus: np.ndarray, precision: str) -> Any:
    found = {"int8": ("int8", "binary"), "uint8": ("ubinary",)}.get(corpus.dtype.name, ("float32",))
    if precision not in found:
        raise ValueError(f"corpus_precision is {precision!r}, but corpus_embeddings are {corpus.dtype}.")
    metric, kind = _KINDS[precision]
    bits = kind == "b1"
    index = usearch.Index(ndim=corpus.shape[1] * (8 if bits else 1), metric=metric, dtype=kind)
    index.add(np.arange(len(corpus)), unsigned_bits(corpus) if bits else corpus)
    return index


def _wrapped(usearch: ModuleType, index: Any, precision: str, exact: bool) -> Index:
    _, kind = _KINDS[precision]
    if index.dtype != getattr(usearch.ScalarKind, kind.upper()):
        raise ValueError(f"corpus_precision is {precision!r}, but corpus_index holds {index.dtype}.")

    def search(codes: np.ndarray, k: int) -> Matches:
        found = index.search(codes, count=k, exact=exact)
        scores, documents = np.atleast_2d(found.distances), np.atleast_2d(found.keys)
        counts: Any = getattr(found, "counts", documents.shape[1])  # what is found for one query has none
        return Matches(
            scores, documents.astype(np.int64), np.arange(documents.shape[1]) < np.atleast_1d(counts)[:, None]
        )

    def codes(documents: np.ndarray) -> np.ndarray:
        return np.asarray(index.get(documents))

    return Index("usearch", index, len(index), index.ndim // 8 if kind == "b1" else index.ndim, search, codes)
