"""Community detection: groups of embeddings close to a common centre."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import trange

from ray_st.util.tensors import Embeddings, normalize_embeddings, to_rows
from ray_st.util.value_checks import check_at_least_one


def community_detection(
    embeddings: Embeddings,
    threshold: float = 0.75,
    min_community_size: int = 10,
    batch_size: int = 1024,
    show_progress_bar: bool = False,
) -> list[list[int]]:
    """Groups of embeddings whose cosine similarity to the group's centre is at least a threshold.

    Centres are tried in descending order of the number of embeddings close to them, except those already in a
    community; a community takes only embeddings that are in none. Each row of similarities is computed at
    most twice and never kept, so memory is linear in the number of embeddings.

    Args:
        embeddings: (n, d): a tensor, an array, or a list.
        threshold: Minimum cosine similarity of a member to its centre.
        min_community_size: Minimum number of members, including the centre.
        batch_size: Number of embeddings compared with all others at a time.
        show_progress_bar: Whether to show a progress bar.

    Returns:
        Lists of row numbers, largest community first; in each, the centre comes first, then the others by
        descending cosine similarity.

    Raises:
        ValueError: If a size is less than 1, or an embedding holds NaN.
    """
    check_at_least_one(min_community_size=min_community_size, batch_size=batch_size)
    if not len(embeddings):
        return []
    rows = normalize_embeddings(to_rows(embeddings))
    if len(broken := rows.isnan().any(dim=1).nonzero()):
        raise ValueError(f"community_detection needs numbers; embedding {int(broken[0])} holds NaN.")
    starts = trange(0, len(rows), batch_size, desc="Finding clusters", disable=not show_progress_bar)
    close = [(rows[i : i + batch_size] @ rows.T >= threshold).sum(dim=1) for i in starts]
    counts = torch.cat(close).cpu().numpy()
    centres = np.argsort(-counts, kind="stable")
    centres = centres[counts[centres] >= min_community_size]
    return sorted(
        _communities(rows, centres, threshold, min_community_size, batch_size), key=len, reverse=True
    )


def _communities(
    rows: Tensor, centres: NDArray[np.int64], threshold: float, least: int, batch_size: int
) -> list[list[int]]:
    free = np.ones(len(rows), dtype=bool)
    found = []
    while len(centres := centres[free[centres]]):
        now, centres = centres[:batch_size], centres[batch_size:]
        scores = rows[torch.from_numpy(now).to(rows.device)] @ rows.T
        for centre, row in zip(now.tolist(), scores, strict=True):
            if not free[centre]:
                continue
            members = _members(row, threshold)
            members = members[free[members]]
            if len(members) >= least:
                community = [centre, *members[members != centre].tolist()]
                free[community] = False
                found.append(community)
    return found


def _members(row: Tensor, threshold: float) -> NDArray[np.int64]:
    """Indices of the scores that reach a threshold, in descending order of score."""
    places = (row >= threshold).nonzero()[:, 0]
    order = row[places].sort(descending=True, stable=True).indices
    return np.asarray(places[order].cpu())
