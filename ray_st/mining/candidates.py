"""The nearest documents of each query, and the scores of its positives, found shard by shard.

A shard is a range of consecutive documents. The results of shards merge to the result for the whole corpus,
so shards may be searched one after the other or on many machines. Scores of all queries with all documents
never exist at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ray_st.mining.embedder import Embedder, fingerprint, pooled, read_embeddings, write_embeddings
from ray_st.mining.pairs import Pairs
from ray_st.util.packages import load_extra
from ray_st.util.search.top_k import Ranking, merge, rank
from ray_st.util.value_checks import check_at_least_one

SHARD = 2**17
"""Documents searched at a time."""

_SCORES_AT_ONCE = 2**24  # 64 MiB in float32
_PAIRS_AT_ONCE = 2**14


@dataclass(frozen=True)
class Found:
    """The result of a search.

    Attributes:
        ranking: The nearest documents of each query: (q, k), fewer columns where there are fewer documents.
        positives: Score of each pair (p,); 0 for those whose positive was not among the documents searched.
    """

    ranking: Ranking
    positives: Tensor

    def merged(self, other: Found, k: int) -> Found:
        """The merged result of two searches of the same queries in different documents.

        Args:
            other: The other search.
            k: Documents to keep for each query.
        """
        return Found(merge([self.ranking, other.ranking], k), self.positives + other.positives)


Search: TypeAlias = Callable[[Embedder, Pairs, int], Found]
"""Embeds and finds the nearest k documents of each query; a cluster may do it."""


def shards(documents: int, size: int = SHARD) -> Iterator[range]:
    """Ranges of consecutive documents, at most ``size`` in each.

    Args:
        documents: Number of documents.
        size: Most documents in a shard.
    """
    return (range(start, min(start + size, documents)) for start in range(0, documents, size))


def search_shard(
    embedder: Embedder,
    queries: Tensor,
    documents: Tensor,
    numbers: range,
    pairs: Pairs,
    k: int,
    queries_at_once: int = 16384,
) -> Found:
    """Searches one shard for all queries.

    Args:
        embedder: Says how embeddings are compared, and on which device.
        queries: (q, d).
        documents: Embeddings of the shard's documents (m, d).
        numbers: Their m numbers in the corpus.
        pairs: Which documents are positives; texts are not used.
        k: Documents to find for each query.
        queries_at_once: Most queries compared at a time.
    """
    compare, device = embedder.similarity, embedder.device
    documents = documents.to(device)

    def score(some: Tensor, shard: Tensor) -> Tensor:
        return compare(some.to(device), shard)

    places = torch.arange(numbers.start, numbers.stop)
    at_once = min(_SCORES_AT_ONCE, queries_at_once * len(documents))
    found = rank(queries, documents, score, k, places, scores_at_once=at_once)
    positives = positive_scores(embedder, queries, documents, numbers, pairs)
    return Found(Ranking(found.scores.cpu(), found.documents.cpu()), positives)


def positive_scores(
    embedder: Embedder, queries: Tensor, documents: Tensor, numbers: range, pairs: Pairs
) -> Tensor:
    """Score of each pair (p,), 0 if its positive is not in the shard; see :func:`search_shard`."""
    inside = (pairs.positive_of >= numbers.start) & (pairs.positive_of < numbers.stop)
    scores = torch.zeros(len(inside), dtype=queries.dtype)
    for part in torch.from_numpy(np.flatnonzero(inside)).split(_PAIRS_AT_ONCE):
        mine = queries[pairs.query_of[part]].to(documents.device)
        theirs = documents[pairs.positive_of[part] - numbers.start]
        scores[part] = embedder.model.similarity_pairwise(mine, theirs).cpu()
    return scores


@dataclass(frozen=True)
class Here:
    """A search by this process.

    Args:
        use_multi_process: Whether to embed in several processes; see :func:`~ray_st.mining.embedder.pooled`.
        cache_folder: Folder that caches embeddings; None for no cache.
        use_faiss: Whether to search with faiss, which needs a similarity that is a product.
        queries_at_once: The most queries searched at a time.
        show_progress_bar: Whether to show progress over shards.
    """

    use_multi_process: bool | Sequence[str] = False
    cache_folder: str | None = None
    use_faiss: bool = False
    queries_at_once: int = 16384
    show_progress_bar: bool = False

    def __post_init__(self) -> None:
        check_at_least_one(faiss_batch_size=self.queries_at_once)

    def __call__(self, embedder: Embedder, pairs: Pairs, k: int) -> Found:
        """Embeds and searches, as :data:`Search` says.

        Raises:
            ValueError: If faiss is requested for a similarity that it does not compute.
            ImportError: If it is not installed.
        """
        faiss = _faiss(embedder) if self.use_faiss else None
        queries, documents = self.embeddings(embedder, pairs)
        if faiss is not None:
            ranking = faiss_ranking(faiss, queries, documents, k, self.queries_at_once)
            everything = range(len(documents))
            return Found(ranking, positive_scores(embedder, queries, documents, everything, pairs))
        parts = list(shards(len(documents)))
        found = (
            search_shard(
                embedder, queries, documents[part.start : part.stop], part, pairs, k, self.queries_at_once
            )
            for part in tqdm(parts, desc="Searching the corpus", disable=not self.show_progress_bar)
        )
        return reduce(lambda one, other: one.merged(other, k), found)

    def embeddings(self, embedder: Embedder, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Embeddings of all queries and all documents, computed or read from the cache."""
        query_file = self._file("query", embedder, embedder.query, pairs.queries)
        corpus_file = self._file("corpus", embedder, embedder.document, pairs.corpus)
        queries = read_embeddings(query_file, len(pairs.queries)) if query_file else None
        documents = read_embeddings(corpus_file, len(pairs.corpus)) if corpus_file else None
        if queries is not None and documents is not None:
            return queries, documents
        with pooled(embedder.model, self.use_multi_process) as options:
            if documents is None:
                documents = embedder.documents(pairs.corpus, **options)
                write_embeddings(corpus_file, documents)
            if queries is None:
                queries = embedder.queries(pairs.queries, **options)
                write_embeddings(query_file, queries)
        return queries, documents

    def _file(
        self, kind: str, embedder: Embedder, prompts: dict[str, str | None], texts: Sequence[str]
    ) -> Path | None:
        if self.cache_folder is None:
            return None
        name = f"{kind}_embeddings_{fingerprint(embedder.model, prompts, texts)}.npy"
        return Path(self.cache_folder) / name


def _faiss(embedder: Embedder) -> ModuleType:
    if not embedder.by_product:
        raise ValueError(
            "use_faiss=True searches by the product of embeddings of unit length; this model compares them "
            f"by {embedder.model.similarity_fn_name!r}. Use use_faiss=False."
        )
    return load_extra("faiss", "faiss", "use_faiss=True")


def faiss_ranking(
    faiss: ModuleType, queries: Tensor, documents: Tensor, k: int, queries_at_once: int
) -> Ranking:
    """The documents with the highest products, found by faiss on the CPU; ties keep faiss's order.

    Args:
        faiss: The module.
        queries: (q, d).
        documents: (m, d).
        k: Documents to find for each query; all if there are fewer.
        queries_at_once: Most queries searched at a time.
    """
    index = faiss.IndexFlatIP(documents.shape[1])
    index.add(documents.numpy())
    k = min(k, len(documents))
    parts = [index.search(some.numpy(), k) for some in queries.split(queries_at_once)]
    scores, places = (torch.from_numpy(np.concatenate(values)) for values in zip(*parts, strict=True))
    return Ranking(scores, places)
