"""Search in a corpus by a team: each rank encodes and searches its own blocks, and keeps only the best.

Blocks depend on the documents alone, not on who works on them. So embeddings, scores and ranks are the same
to the last bit for any number of ranks, and no rank holds more embeddings than one block's.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from ray_st.evaluation.evaluated_model import token_encoder
from ray_st.util.search.top_k import Ranking, ScoreFunction, merge, rank
from ray_st.util.team import Team, share_out

Numbers: TypeAlias = NDArray[np.int64]

BLOCKS = 64
"""How many blocks a corpus is cut into, so that several ranks get about equal shares."""

MOST_ROWS = 4096
"""Most documents in a block, so that memory does not grow with the corpus."""

_TEXTS = 8192  # texts whose tokens are counted at a time


def text_lengths(model: object, texts: Sequence[str], team: Team) -> Numbers:
    """Tokens of each text, counted by a team; characters if the model does not say how it splits texts.

    Args:
        model: May have ``token_encoder()``, which returns a function from texts to token ids.
        texts: n texts.
        team: Processes that count together; all must call this.

    Returns:
        (n,).
    """
    split = token_encoder(model)
    parts = [texts[first : first + _TEXTS] for first in range(0, len(texts), _TEXTS)]
    return np.concatenate(share_out(team, parts, lambda part: np.array([len(t) for t in split(part)])))


def own_blocks(lengths: Numbers, batch_size: int, most: int, team: Team) -> list[Numbers]:
    """The blocks of a corpus that this rank searches, about equal work for each rank; see :func:`cut`."""
    blocks = cut(lengths, batch_size, most)
    return [blocks[i] for i in deal([int(lengths[block].sum()) for block in blocks], team.size)[team.rank]]


def cut(lengths: Numbers, batch_size: int, most: int) -> list[Numbers]:
    """Documents in blocks of equal rows and similar length, the longest first.

    Args:
        lengths: Length of each document (n,).
        batch_size: Documents encoded at once; a block holds whole batches of them.
        most: Most documents in a block.

    Returns:
        The numbers of each block's documents, ascending.
    """
    wanted = min(-(-len(lengths) // BLOCKS), MOST_ROWS)
    rows = min(-(-wanted // batch_size) * batch_size, most)
    # Similar lengths share a block, for little padding; numbers ascend within it, so ties go to the lower.
    order = np.argsort(-lengths, kind="stable")
    return [np.sort(order[first : first + rows]) for first in range(0, len(order), rows)]


def deal(costs: Sequence[int], size: int) -> list[list[int]]:
    """Assigns blocks to ranks: each block goes to the rank with the least work so far.

    Args:
        costs: Cost of each block, in descending order.
        size: Number of ranks.
    """
    hands: list[list[int]] = [[] for _ in range(size)]
    loads = [(0, owner) for owner in range(size)]
    for block, cost in enumerate(costs):
        load, owner = loads[0]
        hands[owner].append(block)
        heapq.heapreplace(loads, (load + cost, owner))
    return hands


def search(
    queries: Tensor,
    blocks: Sequence[Numbers],
    embeddings_of: Callable[[Numbers], Tensor],
    functions: Mapping[str, ScoreFunction],
    k: int,
    show_progress_bar: bool = False,
) -> dict[str, Ranking]:
    """Searches some blocks of a corpus, one at a time.

    Args:
        queries: (q, d).
        blocks: Numbers of each block's documents, ascending.
        embeddings_of: Maps a block's numbers (m,) to the documents' embeddings (m, d).
        functions: Score functions by name.
        k: Documents to keep for each query.
        show_progress_bar: Whether to show one.

    Returns:
        The ranking of each score function.
    """
    found = dict.fromkeys(functions, Ranking.nothing(queries))
    for block in tqdm(blocks, desc="Corpus blocks", disable=not show_progress_bar):
        documents, numbers = embeddings_of(block), torch.from_numpy(block)
        for name, function in functions.items():
            new = rank(queries, documents, function, k, numbers)
            found[name] = merge([found[name], new], k)
    return found


def merge_found(team: Team, found: Mapping[str, Ranking], k: int) -> dict[str, Ranking]:
    """The merged rankings of all ranks of a team; nothing but rankings is exchanged.

    Args:
        team: All must call this.
        found: This rank's rankings by score function.
        k: Documents to keep for each query.
    """
    ranks = team.gather({name: [ranking.scores, ranking.documents] for name, ranking in found.items()})
    return {name: merge([Ranking(*of[name]) for of in ranks], k) for name in found}
