"""Search with faiss and usearch among embeddings of full or lower precision.

An index over quantized embeddings returns more documents than requested; the full queries then reorder them.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from ray_st.util.packages import load_extra
from ray_st.util.search.quantize import as_array, find_ranges, quantize_embeddings, restore
from ray_st.util.value_checks import check_at_least_one

if TYPE_CHECKING:
    import faiss
    from usearch.index import Index

    from ray_st.util.tensors import Embeddings

logger = logging.getLogger(__name__)

Hits: TypeAlias = list[list[dict[str, Any]]]
"""For each query the documents found, best first: ``corpus_id`` (document number) and ``score``."""

NativeIndex: TypeAlias = "faiss.Index | faiss.IndexBinary | Index"
"""An index of one of the libraries."""

_QUERIES_AT_ONCE = 1024
_USEARCH_KINDS = {  # metric and scalar type by precision
    "float32": ("cos", "f32"),
    "int8": ("ip", "i8"),
    "ubinary": ("hamming", "b1"),
    "binary": ("hamming", "b1"),
}
_NEIGHBOURS = 16  # links of each document in faiss's approximate index


class Matches(NamedTuple):
    """What an index finds.

    Attributes:
        scores: (q, k), best first.
        documents: Their numbers (q, k).
        there: Whether there is a document (q, k); False marks padding of queries with fewer documents.
    """

    scores: np.ndarray
    documents: np.ndarray
    there: np.ndarray

    def hits(self) -> Hits:
        """The matches as lists of dicts."""
        return [
            [
                {"corpus_id": document, "score": score}
                for document, score, there in zip(*row, strict=True)
                if there
            ]
            for row in zip(self.documents.tolist(), self.scores.tolist(), self.there.tolist(), strict=True)
        ]


class _Index:
    """A wrapper around a library's index; subclasses create or open ``native``, and search it."""

    library: str
    module: str
    precisions: tuple[str, ...]

    def __init__(self, precision: str, exact: bool) -> None:
        self.lib: Any = load_extra(self.module, self.library, f"semantic_search_{self.library}")
        self.precision, self.exact = precision, exact
        self.native: Any = None


class _Faiss(_Index):
    library = module = "faiss"
    precisions = ("float32", "uint8", "ubinary")

    def build(self, corpus: np.ndarray) -> None:
        if (corpus.dtype == np.uint8) != (self.precision != "float32"):
            raise ValueError(
                f"corpus_precision is {self.precision!r}, but corpus_embeddings are {corpus.dtype}."
            )
        width, faiss = corpus.shape[1], self.lib
        if self.precision == "ubinary":
            bits = 8 * width
            self.native = (
                faiss.IndexBinaryFlat(bits) if self.exact else faiss.IndexBinaryHNSW(bits, _NEIGHBOURS)
            )
        elif self.exact:
            self.native = faiss.IndexFlatIP(width)
        else:
            self.native = faiss.IndexHNSWFlat(width, _NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
        self.native.add(corpus)

    def open(self, index: NativeIndex) -> None:
        if isinstance(index, self.lib.IndexBinary) != (self.precision == "ubinary"):
            raise ValueError(
                f"corpus_precision is {self.precision!r}, but corpus_index is a {type(index).__name__}."
            )
        self.native = index

    @property
    def size(self) -> int:
        return int(self.native.ntotal)

    @property
    def width(self) -> int:
        return self.native.d // 8 if self.precision == "ubinary" else self.native.d

    def search(self, codes: np.ndarray, k: int) -> Matches:
        scores, documents = self.native.search(codes, k)
        return Matches(scores, documents, documents != -1)

    def codes(self, documents: np.ndarray) -> np.ndarray:
        return np.stack([self.native.reconstruct(int(document)) for document in documents])


class _Usearch(_Index):
    library, module = "usearch", "usearch.index"
    precisions = tuple(_USEARCH_KINDS)

    @property
    def kind(self) -> str:
        return _USEARCH_KINDS[self.precision][1]

    def build(self, corpus: np.ndarray) -> None:
        allowed = {"int8": ("int8", "binary"), "uint8": ("ubinary",)}.get(corpus.dtype.name, ("float32",))
        if self.precision not in allowed:
            raise ValueError(
                f"corpus_precision is {self.precision!r}, but corpus_embeddings are {corpus.dtype}."
            )
        metric, bits = _USEARCH_KINDS[self.precision][0], self.kind == "b1"
        dimensions = corpus.shape[1] * (8 if bits else 1)
        self.native = self.lib.Index(ndim=dimensions, metric=metric, dtype=self.kind)
        self.native.add(np.arange(len(corpus)), _unsigned_bits(corpus) if bits else corpus)

    def open(self, index: NativeIndex) -> None:
        found = index.dtype if isinstance(index, self.lib.Index) else type(index).__name__
        if found != self.lib.ScalarKind[self.kind.upper()]:
            raise ValueError(f"corpus_precision is {self.precision!r}, but corpus_index holds {found}.")
        self.native = index

    @property
    def size(self) -> int:
        return len(self.native)

    @property
    def width(self) -> int:
        return self.native.ndim // 8 if self.kind == "b1" else self.native.ndim

    def search(self, codes: np.ndarray, k: int) -> Matches:
        found = self.native.search(codes, count=k, exact=self.exact)
        scores, documents = np.atleast_2d(found.distances), np.atleast_2d(found.keys)
        places = np.arange(documents.shape[1])
        match found:
            case object(counts=counts):
                there = places < np.atleast_1d(counts)[:, None]
            case _:  # the results of a single query come without counts
                there = np.ones_like(documents, dtype=bool)
        return Matches(scores, documents.astype(np.int64), there)

    def codes(self, documents: np.ndarray) -> np.ndarray:
        return np.asarray(self.native.get(documents))


@dataclass(frozen=True)
class _Request:
    """How to search; attributes match the arguments of :func:`semantic_search_faiss`."""

    precision: str
    top_k: int
    ranges: np.ndarray | None
    calibration_embeddings: Embeddings | None
    rescore: bool
    rescore_multiplier: int

    def __post_init__(self) -> None:
        check_at_least_one(top_k=self.top_k, rescore_multiplier=self.rescore_multiplier)

    @property
    def stored(self) -> str:
        """The precision as an index stores it, where binary codes are unsigned."""
        return "ubinary" if self.precision == "binary" else self.precision


def semantic_search_faiss(
    query_embeddings: Embeddings,
    corpus_embeddings: np.ndarray | None = None,
    corpus_index: faiss.Index | faiss.IndexBinary | None = None,
    corpus_precision: str = "float32",
    top_k: int = 10,
    ranges: np.ndarray | None = None,
    calibration_embeddings: np.ndarray | None = None,
    rescore: bool = True,
    rescore_multiplier: int = 2,
    exact: bool = True,
    output_index: bool = False,
) -> tuple[Hits, float] | tuple[Hits, float, Any]:
    """The nearest documents of each query, found with faiss (the extra "faiss").

    With full-precision queries and a quantized corpus, ``top_k * rescore_multiplier`` documents are found by
    quantized embeddings, then reordered by the dot product of the query with the values that the documents'
    codes represent.

    Args:
        query_embeddings: (q, d) or (d,), in full precision or quantized like the corpus.
        corpus_embeddings: (n, d), or its codes as :func:`quantize_embeddings` returns them.
        corpus_index: An existing index of them instead, such as one returned by an earlier call.
        corpus_precision: "float32", "uint8" or "ubinary".
        top_k: Number of documents to find for each query.
        ranges: (2, d), the ranges with which the corpus was quantized to bytes.
        calibration_embeddings: Embeddings from which the ranges were taken. Without both, the queries' ranges
            are used, which differ from the corpus's.
        rescore: Whether to reorder; warns if that is impossible.
        rescore_multiplier: Multiple of ``top_k`` documents to find before reordering.
        exact: Whether a new index compares every document instead of following a graph (HNSW).
        output_index: Whether to return the index as well.

    Returns:
        For each query a list of dicts with ``corpus_id`` and ``score``, best first, shorter if there are
        fewer documents; the seconds that the search took; and the index if requested. Scores are dot products
        (higher is better), except for a ubinary corpus without rescoring: the number of differing bits (lower
        is better).

    Raises:
        ValueError: If arguments contradict each other or the index, or dimensions differ.
        ImportError: If faiss is not installed.
    """
    request = _Request(corpus_precision, top_k, ranges, calibration_embeddings, rescore, rescore_multiplier)
    return _searched(_Faiss, query_embeddings, corpus_embeddings, corpus_index, request, exact, output_index)


def semantic_search_usearch(
    query_embeddings: Embeddings,
    corpus_embeddings: np.ndarray | None = None,
    corpus_index: Index | None = None,
    corpus_precision: str = "float32",
    top_k: int = 10,
    ranges: np.ndarray | None = None,
    calibration_embeddings: np.ndarray | None = None,
    rescore: bool = True,
    rescore_multiplier: int = 2,
    exact: bool = True,
    output_index: bool = False,
) -> tuple[Hits, float] | tuple[Hits, float, Any]:
    """The nearest documents of each query, found with usearch (the extra "usearch").

    Arguments and errors are those of :func:`semantic_search_faiss`, except that ``corpus_precision`` is
    "float32", "int8", "ubinary" or "binary", and ``exact`` applies to any index: compare every document, or
    follow its graph.

    Returns:
        As for :func:`semantic_search_faiss`. Scores are dot products (higher is better) if rescored,
        otherwise usearch's distances (lower is better): 1 - cosine, 1 - dot product, or the number of
        differing bits.
    """
    request = _Request(corpus_precision, top_k, ranges, calibration_embeddings, rescore, rescore_multiplier)
    return _searched(
        _Usearch, query_embeddings, corpus_embeddings, corpus_index, request, exact, output_index
    )


def _searched(
    kind: type[_Faiss] | type[_Usearch],
    query_embeddings: Embeddings,
    corpus_embeddings: np.ndarray | None,
    corpus_index: NativeIndex | None,
    request: _Request,
    exact: bool,
    output_index: bool,
) -> tuple[Hits, float] | tuple[Hits, float, Any]:
    if request.precision not in kind.precisions:
        raise ValueError(
            f"corpus_precision must be one of {', '.join(kind.precisions)}; got {request.precision!r}."
        )
    if (corpus_embeddings is None) == (corpus_index is None):
        found = "neither" if corpus_index is None else "both"
        raise ValueError(f"Give either corpus_embeddings or corpus_index; got {found}.")
    index = kind(request.precision, exact)
    if corpus_embeddings is not None and len(corpus_embeddings):
        index.build(as_array(corpus_embeddings))
    elif corpus_index is not None:
        index.open(corpus_index)
    if index.native is None or not index.size:
        raise ValueError("There is nothing to search: the corpus is empty.")
    hits, seconds = _find(index, query_embeddings, request)
    return (hits, seconds, index.native) if output_index else (hits, seconds)


def _unsigned_bits(codes: np.ndarray) -> np.ndarray:
    """The bytes of "ubinary" from those of "binary", which are lower by 128."""
    return codes.view(np.uint8) ^ 0x80 if codes.dtype == np.int8 else codes


def _find(index: _Faiss | _Usearch, query_embeddings: Embeddings, request: _Request) -> tuple[Hits, float]:
    """Searches an index and rescores the results; also returns the seconds taken."""
    queries = np.atleast_2d(as_array(query_embeddings))
    full = queries.dtype not in (np.int8, np.uint8)
    if full and not np.isfinite(queries).all():
        raise ValueError("query_embeddings must be finite; found NaN or infinity.")
    rescore = _may_rescore(index, full, request)
    if rescore and request.precision in ("int8", "uint8") and request.ranges is None:
        ranges = find_ranges(queries, request.precision, request.calibration_embeddings)
        request = replace(request, ranges=ranges)
    codes = queries
    if full:
        codes = quantize_embeddings(
            queries, request.precision, request.ranges, request.calibration_embeddings
        )
    codes = _unsigned_bits(codes) if request.precision == "binary" else codes
    if codes.shape[1] != index.width:
        raise ValueError(
            f"Queries and corpus must have the same dimension; as {request.precision} they hold "
            f"{codes.shape[1]} and {index.width} numbers."
        )
    start = time.perf_counter()
    found = index.search(codes, request.top_k * (request.rescore_multiplier if rescore else 1))
    found = _rescored(index, queries, found, request) if rescore else found
    return found.hits(), time.perf_counter() - start


def _may_rescore(index: _Faiss | _Usearch, full: bool, request: _Request) -> bool:
    if request.rescore and (not full or request.precision == "float32"):
        reason = "the corpus is not quantized" if full else "the queries are quantized"
        logger.warning("semantic_search_%s cannot rescore, as %s; set rescore=False.", index.library, reason)
    return request.rescore and full and request.precision != "float32"


def _rescored(index: _Faiss | _Usearch, queries: np.ndarray, found: Matches, request: _Request) -> Matches:
    """Rescores a few queries at a time, because the values of all their documents are held at once."""
    starts = range(0, len(queries), _QUERIES_AT_ONCE)
    blocks = [slice(start, start + _QUERIES_AT_ONCE) for start in starts]
    parts = [
        _rescored_block(index, queries[block], Matches(*(values[block] for values in found)), request)
        for block in blocks
    ]
    return Matches(*map(np.concatenate, zip(*parts, strict=True)))


def _rescored_block(
    index: _Faiss | _Usearch, queries: np.ndarray, found: Matches, request: _Request
) -> Matches:
    if not found.there.any():
        return found
    # For padding, any document's values will do: its score is set to -inf below.
    documents = np.where(found.there, found.documents, found.documents[found.there][0])
    each, places = np.unique(documents, return_inverse=True)
    values = restore(index.codes(each), request.stored, request.ranges, queries.shape[1])
    scores = np.einsum("qd,qkd->qk", queries.astype(np.float64), values[places.reshape(documents.shape)])
    scores[~found.there] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, : request.top_k]
    return Matches(*(np.take_along_axis(rows, order, axis=1) for rows in (scores, documents, found.there)))
