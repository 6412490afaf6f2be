"""Search with faiss among embeddings of full or fewer bits."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from ray_st.util.extras import load_extra
from ray_st.util.search.quantize import as_array
from ray_st.util.search.quantized import Hits, Index, Matches, Request, find, one_source

_PRECISIONS = ("float32", "uint8", "ubinary")
_NEIGHBOURS = 16  # links of each document in an approximate index


def semantic_search_faiss(
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
    """The nearest documents of each query, searched by faiss (the extra "faiss").

    With full queries and a corpus of fewer bits, ``top_k * rescore_multiplier`` documents are found by the coarse
    embeddings and ordered by the product of the query with what the documents' codes stand for.

    Args:
        query_embeddings: (q, d) or (d,), full or as the corpus.
        corpus_embeddings: (n, d), or its codes as :func:`quantize_embeddings` writes them.
        corpus_index: An index of them instead, such as one returned before.
        corpus_precision: "float32", "uint8" or "ubinary".
        top_k: Documents to find for each query.
        ranges: (2, d), the ranges with which a uint8 corpus was written.
        calibration_embeddings: Embeddings from which they were taken. Without both, the queries' own ranges are
            used, which are others than the corpus's.
        rescore: Whether to rescore as said above; a warning tells when it cannot be done.
        rescore_multiplier: How many times as many documents are found first.
        exact: Whether a new index looks at every document, or follows a graph (HNSW).
        output_index: Whether to return the index too.

    Returns:
        For each query a list of dicts with ``corpus_id`` and ``score``, best first, shorter if there are fewer
        documents; the seconds that the search took; and the index if asked for. Scores are products (more is
        better), but of a ubinary corpus without rescoring, numbers of different bits (less is better).

    Raises:
        ValueError: If arguments contradict each other or the index, or dimensions differ.
        ImportError: If faiss is not installed.
    """
    one_source(corpus_embeddings, corpus_index, corpus_precision, _PRECISIONS)
    request = Request(corpus_precision, top_k, ranges, calibration_embeddings, rescore, rescore_multiplier)
    faiss = load_extra("faiss", "faiss", "semantic_search_faiss")
    native = corpus_index
    if native is None:
        native = _build(faiss, as_array(corpus_embeddings), corpus_precision, exact)
    hits, seconds = find(_wrapped(faiss, native, corpus_precision), query_embeddings, request)
    return (hits, seconds, native) if output_index else (hits, seconds)


def _build(faiss: ModuleType, corpus: np.ndarray, precision: str, exact: bool) -> Any:
    if (corpus.dtype == np.uint8) != (precision != "float32"):
        raise ValueError(f"corpus_precision is {precision!r}, but corpus_embeddings are {corpus.dtype}.")
    width = corpus.shape[1]
    if precision == "ubinary":
        index = faiss.IndexBinaryFlat(width * 8) if exact else faiss.IndexBinaryHNSW(width * 8, _NEIGHBOURS)
    elif exact:
        index = faiss.IndexFlatIP(width)
    else:
        index = faiss.IndexHNSWFlat(width, _NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
    index.add(corpus)
    return index


def _wrapped(faiss: ModuleType, index: Any, precision: str) -> Index:
    binary = isinstance(index, faiss.IndexBinary)
    if binary != (precision == "ubinary"):
        raise ValueError(f"corpus_precision is {precision!r}, but corpus_index is a {type(index).__name__}.")

    def search(codes: np.ndarray, k: int) -> Matches:
        scores, documents = index.search(codes, k)
        return Matches(scores, documents, documents != -1)

    def codes(documents: np.ndarray) -> np.ndarray:
        return np.stack([index.reconstruct(int(document)) for document in documents])

    return Index("faiss", index, index.ntotal, index.d // 8 if binary else index.d, search, codes)
