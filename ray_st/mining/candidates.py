"""The nearest documents of each query, and the scores of its positives, shard by shard.

A shard is a run of consecutive documents. What is found in shards merges to what is found in the whole corpus, so the
shards may be searched one after the other or on as many machines; never are there scores of all queries with all
documents at once.
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
from ray_st.util.extras import load_extra
from ray_st.util.search.top_k import Ranking, merge, rank

SHARD = 2**17
"""Documents searched at a time."""

_SCORES_AT_ONCE = 2**24  # 64 MiB in float32
_PAIRS_AT_ONCE = 2**14


@dataclass(frozen=True)
class Found:
    """What a search tells.

    Attributes:
        ranking: The nearest documents of each query: (q, k), fewer columns where there are fewer documents.
        positives: Score of each pair (p,); 0 for those whose positive was not among the documents searched.
    """

    ranking: Ranking
    positives: Tensor

    def merged(self, other: Found, k: int) -> Found:
        """What two searches of the same queries in different documents tell together.

        Args:
            other: The other search.
            k: Documents to keep for each query.
        """
        return Found(merge([self.ranking, other.ranking], k), self.positives + other.positives)


Search: TypeAlias = Callable[[Embedder, Pairs, int], Found]
"""Embeds and finds the nearest k documents of each query; exchangeable, so that a cluster can do it."""


def shards(documents: int, size: int = SHARD) -> Iterator[range]:
    """The numbers of consecutive documents, up to ``size`` in each shard.

    Args:
        documents: How many there are.
        size: The most in one shard.
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
        embedder: Knows how embeddings are compared, and where.
        queries: (q, d).
        documents: Embeddings of the shard's documents (m, d).
        numbers: Their m numbers in the corpus.
        pairs: Which documents are positives; its texts are not looked at.
        k: Documents to find for each query.
        queries_at_once: The most queries compared at a time.
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
    """Score of each pair (p,); 0 for those whose positive is not in the shard. Arguments as in :func:`search_shard`."""
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
        use_multi_process: Whether several processes embed; see :func:`~ray_st.mining.embedder.pooled`.
        cache_folder: Where embeddings are kept from call to call; None for nowhere.
        use_faiss: Whether faiss searches, which needs a similarity that is a product.
        queries_at_once: The most queries searched at a time.
        show_progress_bar: Whether to show one for each shard searched.
    """

    use_multi_process: bool | Sequence[str] = False
    cache_folder: str | None = None
    use_faiss: bool = False
    queries_at_once: int = 16384
    show_progress_bar: bool = False

    def __post_init__(self) -> None:
        if self.queries_at_once < 1:
            raise ValueError(f"faiss_batch_size must be at least 1; got {self.queries_at_once}.")

    def __call__(self, embedder: Embedder, pairs: Pairs, k: int) -> Found:
        """Embeds and searches, as :data:`Search` says.

        Raises:
            ValueError: If faiss is asked for with a similarity that it does not compute.
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
        files = self._files(embedder, pairs)
        kept = [
            read_embeddings(file, rows) if file else None
            for file, rows in zip(files, (len(pairs.queries), len(pairs.corpus)), strict=True)
        ]
        if all(embeddings is not None for embeddings in kept):
            return kept[0], kept[1]  # type: ignore[return-value]
        with pooled(embedder.model, self.use_multi_process) as options:
            documents = kept[1] if kept[1] is not None else embedder.documents(pairs.corpus, **options)
            queries = kept[0] if kept[0] is not None else embedder.queries(pairs.queries, **options)
        for file, before, embeddings in zip(files, kept, (queries, documents), strict=True):
            if file and before is None:
                write_embeddings(file, embeddings)
        return queries, documents

    def _files(self, embedder: Embedder, pairs: Pairs) -> tuple[Path | None, Path | None]:
        if self.cache_folder is None:
            return None, None
        folder = Path(self.cache_folder)
        query = fingerprint(embedder.model, embedder.query, pairs.queries)
        corpus = fingerprint(embedder.model, embedder.document, pairs.corpus)
        return folder / f"query_embeddings_{query}.npy", folder / f"corpus_embeddings_{corpus}.npy"


def _faiss(embedder: Embedder) -> ModuleType:
    if not embedder.by_product:
        raise ValueError(
            "use_faiss=True searches by the product of embeddings of unit length; this model compares them by "
            f"{embedder.model.similarity_fn_name!r}. Use use_faiss=False."
        )
    return load_extra("faiss", "faiss", "use_faiss=True")


def faiss_ranking(
    faiss: ModuleType, queries: Tensor, documents: Tensor, k: int, queries_at_once: int
) -> Ranking:
    """The documents with the highest products, found by faiss on the CPU; ties are in faiss's order.

    Args:
        faiss: The module.
        queries: (q, d).
        documents: (m, d).
        k: Documents to find for each query; all if there are fewer.
        queries_at_once: The most queries searched at a time.
    """
    index = faiss.IndexFlatIP(documents.shape[1])
    index.add(documents.numpy())
    k = min(k, len(documents))
    parts = [index.search(some.numpy(), k) for some in queries.split(queries_at_once)]
    scores, places = (torch.from_numpy(np.concatenate(values)) for values in zip(*parts, strict=True))
    return Ranking(scores, places)
