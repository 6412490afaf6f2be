"""Mining on the whole cluster: actors embed and search shards of the corpus, and their results are merged.

This process holds the texts, the query embeddings and the candidates found so far; corpus embeddings never
leave the actor that computed them, which holds one shard at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import ray
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ray_st.mining.candidates import Found, search_shard, shards
from ray_st.mining.embedder import Embedder
from ray_st.mining.pairs import Pairs
from ray_st.models.attention import of_packages
from ray_st.models.sentence_transformer import SentenceTransformer
from ray_st.runtime.cluster.actor_pool import ActorPool
from ray_st.runtime.cluster.connection import connected
from ray_st.runtime.cluster.granted_device import take_granted_device
from ray_st.runtime.cluster.handles import PickledRef
from ray_st.runtime.encode.encode_pool import default_devices, needs_of


class Miner:
    """Embeds and searches in a separate process.

    Args:
        model: The model.
        options: Options of the :class:`~ray_st.mining.embedder.Embedder`.
    """

    def __init__(self, model: PickledRef[SentenceTransformer], options: dict[str, Any]) -> None:
        self._embedder = Embedder(model.open().to(take_granted_device()), **options)

    def embed(self, queries: list[str]) -> Tensor:
        """Embeddings (n, d) of queries."""
        return self._embedder.queries(queries)

    def search(self, queries: Tensor, documents: list[str], first: int, pairs: Pairs, k: int) -> Found:
        """Searches one shard for all queries.

        Args:
            queries: Embeddings of all queries (q, d).
            documents: Texts of the shard.
            first: Index in the corpus of the shard's first text.
            pairs: The pairs; their texts may be missing.
            k: Number of documents to find per query.
        """
        numbers = range(first, first + len(documents))
        embeddings = self._embedder.documents(documents)
        return search_shard(self._embedder, queries, embeddings, numbers, pairs, k)


@dataclass(frozen=True)
class ClusterSearch:
    """A ``search`` for ``mine_hard_negatives`` that uses the Ray cluster, or a local Ray if there is none.

    The results equal those of a single process, except for rounding: embeddings are computed in different
    batches.

    Args:
        devices: One per actor: "cuda" requests a GPU, "cpu" a CPU. By default every GPU of the cluster;
            without GPUs, several CPUs.
        texts_at_once: Number of texts that an actor embeds, and documents that it searches, per task.
    """

    devices: Sequence[str] | None = None
    texts_at_once: int = 2**14

    def __call__(self, embedder: Embedder, pairs: Pairs, k: int) -> Found:
        """Embeds and searches, as defined by :data:`ray_st.mining.candidates.Search`.

        Raises:
            ValueError: If the cluster lacks the requested devices, a node lacks the model's attention, or an
                embedding is not finite.
        """
        options = {"query": embedder.query, "document": embedder.document, "batch_size": embedder.batch_size}
        model = cast("SentenceTransformer", embedder.model)  # one that can be moved between devices
        with connected():
            needs = needs_of(default_devices() if self.devices is None else list(self.devices))
            arguments = [PickledRef(model), options]
            with ActorPool(Miner, arguments, needs, attention=of_packages([model])) as pool:
                return self._searched(pool, pairs, k, embedder.show_progress_bar)

    def _searched(self, pool: ActorPool, pairs: Pairs, k: int, show_progress_bar: bool) -> Found:
        parts = list(shards(len(pairs.queries), self.texts_at_once))
        found = dict(pool.run("embed", ((pairs.queries[part.start : part.stop],) for part in parts)))
        queries = ray.put(torch.cat([found[number] for number in range(len(parts))]))
        numbers = ray.put(replace(pairs, queries=[], corpus=[]))
        parts = list(shards(len(pairs.corpus), self.texts_at_once))
        tasks = ((queries, pairs.corpus[part.start : part.stop], part.start, numbers, k) for part in parts)
        results = pool.run("search", tasks)
        _, merged = next(results)
        with tqdm(total=len(parts), initial=1, desc="Shards", disable=not show_progress_bar) as bar:
            for _, more in results:
                merged = merged.merged(more, k)
                bar.update()
        return merged
