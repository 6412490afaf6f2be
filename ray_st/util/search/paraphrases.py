"""Paraphrase mining: the most similar pairs in a set of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ray_st.util.search.top_k import Ranking, ScoreFunction, merge, rank
from ray_st.util.similarity import cos_sim
from ray_st.util.team import Alone, Team, team_of
from ray_st.util.tensors import Embeddings, to_rows
from ray_st.util.value_checks import check_at_least_one

Pair = list[float | int]
"""The score of two texts and their numbers, the lower number first."""


class Encoder(Protocol):
    """The part of a model's interface that paraphrase mining uses."""

    def encode(self, *args: Any, **options: Any) -> Any:
        """Maps texts to embeddings (n, d)."""


def paraphrase_mining(
    model: Encoder,
    sentences: Sequence[str],
    show_progress_bar: bool = False,
    batch_size: int = 32,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100_000,
    max_pairs: int = 500_000,
    top_k: int = 100,
    score_function: ScoreFunction = cos_sim,
    truncate_dim: int | None = None,
    prompt_name: str | None = None,
    prompt: str | None = None,
) -> list[Pair]:
    """The most similar pairs among some texts; see :func:`paraphrase_mining_embeddings`.

    A team that shares the model's work also shares the search; every process gets all pairs.

    Args:
        model: Encodes the texts.
        sentences: n texts.
        show_progress_bar: Whether to show a progress bar while encoding.
        batch_size: Number of texts encoded at a time.
        query_chunk_size: Number of texts compared at a time.
        corpus_chunk_size: Number of texts that they are compared with at a time.
        max_pairs: Maximum number of pairs to return.
        top_k: Maximum number of neighbours of each text that become pairs.
        score_function: Maps (q, d) and (m, d) to scores (q, m); must be symmetric.
        truncate_dim: Dimensions to keep; by default the model's.
        prompt_name: Name of the model's prompt to prepend to each text.
        prompt: The prompt text. Overrides ``prompt_name``.

    Returns:
        Lists of a score and two text numbers, best first.

    Raises:
        ValueError: As for :func:`paraphrase_mining_embeddings`.
    """
    embeddings = model.encode(
        sentences,
        show_progress_bar=show_progress_bar,
        batch_size=batch_size,
        convert_to_tensor=True,
        truncate_dim=truncate_dim,
        prompt_name=prompt_name,
        prompt=prompt,
    )
    sizes = (query_chunk_size, corpus_chunk_size, max_pairs, top_k)
    return paraphrase_mining_embeddings(embeddings, *sizes, score_function, team_of(model))


def paraphrase_mining_embeddings(
    embeddings: Embeddings,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100_000,
    max_pairs: int = 500_000,
    top_k: int = 100,
    score_function: ScoreFunction = cos_sim,
    team: Team | None = None,
) -> list[Pair]:
    """The most similar pairs among some embeddings.

    Each embedding forms pairs with its ``top_k`` nearest neighbours, and the ``max_pairs`` best pairs are
    returned; ties go to the lower numbers. Memory grows with the chunk sizes, with ``max_pairs``, and with
    ``query_chunk_size`` times ``top_k``, never with the square of the number of embeddings.

    Args:
        embeddings: (n, d): a tensor, an array, or a list.
        query_chunk_size: Number of embeddings compared at a time.
        corpus_chunk_size: Number of embeddings that they are compared with at a time.
        max_pairs: Maximum number of pairs to return.
        top_k: Maximum number of neighbours of each embedding that become pairs.
        score_function: Maps (q, d) and (m, d) to scores (q, m); must be symmetric.
        team: Processes that hold the same embeddings and share the search; by default only this one.

    Returns:
        Lists of a score and the numbers i < j, best first.

    Raises:
        ValueError: If there are no embeddings, a size is less than 1, or a score is NaN.
    """
    check_at_least_one(query_chunk_size=query_chunk_size, corpus_chunk_size=corpus_chunk_size)
    check_at_least_one(max_pairs=max_pairs, top_k=top_k)
    if not len(embeddings):
        raise ValueError("Paraphrase mining needs at least one embedding; found none.")
    rows, team = to_rows(embeddings), team or Alone()
    best = _Pairs(rows.new_empty(0), torch.empty(0, dtype=torch.int64, device=rows.device))
    for own in torch.arange(len(rows), device=rows.device).split(query_chunk_size)[team.rank :: team.size]:
        near = _neighbours(rows, own, score_function, top_k + 1, corpus_chunk_size)
        best = _best([best, _pairs(near, own, top_k, len(rows))], max_pairs)
    best = _best([_Pairs(*share) for share in team.gather([best.scores, best.keys])], max_pairs)
    triples = zip(best.scores.tolist(), best.keys.tolist(), strict=True)
    pairs: list[Pair] = [[score, *divmod(key, len(rows))] for score, key in triples]
    if pairs and pairs[0][0] != pairs[0][0]:  # NaN sorts first
        raise ValueError(
            f"The score of texts {pairs[0][1]} and {pairs[0][2]} is no number: look for NaN there."
        )
    return pairs


@dataclass(frozen=True)
class _Pairs:
    """Scores of pairs i < j of n texts, in descending order, and their keys i * n + j (p,)."""

    scores: Tensor
    keys: Tensor


def _neighbours(rows: Tensor, own: Tensor, function: ScoreFunction, k: int, chunk: int) -> Ranking:
    queries = rows[own]
    found = Ranking.nothing(queries)
    for others in torch.arange(len(rows), device=rows.device).split(chunk):
        found = merge([found, rank(queries, rows[others], function, k, others)], k)
    return found


def _pairs(near: Ranking, own: Tensor, top_k: int, count: int) -> _Pairs:
    """Each text paired with its neighbours, except itself."""
    other = near.documents != own[:, None]
    other &= other.cumsum(dim=1) <= top_k  # among many copies of a text, it may not be its own neighbour
    left, right = own[:, None].expand_as(other)[other], near.documents[other]
    return _Pairs(near.scores[other], torch.minimum(left, right) * count + torch.maximum(left, right))


def _best(parts: Sequence[_Pairs], most: int) -> _Pairs:
    """The best of several lists, each pair once with its higher score; ties go to the lower numbers."""
    scores, order = torch.cat([part.scores for part in parts]).sort(descending=True, stable=True)
    # Stable sorts: by score, then by key, so that of a pair found twice the higher score comes first.
    keys, by_key = torch.cat([part.keys for part in parts])[order].sort(stable=True)
    scores, new = scores[by_key], torch.ones_like(keys, dtype=torch.bool)
    new[1:] = keys[1:] != keys[:-1]
    scores, order = scores[new].sort(descending=True, stable=True)
    return _Pairs(scores[:most], keys[new][order[:most]])
