"""The nearest embedding of one side for each of the other, in both directions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ray_st.util.search.top_k import SCORES_AT_ONCE
from ray_st.util.similarity import cos_sim
from ray_st.util.team import Alone, Team, share_out

Places = NDArray[np.int64]

ALONE = Alone()


def nearest_both_ways(
    first: Tensor, second: Tensor, team: Team = ALONE, scores_at_once: int = SCORES_AT_ONCE
) -> tuple[Places, Places]:
    """The nearest embedding by cosine on the other side, for each embedding; the first of equally near ones.

    Args:
        first: (n, d), finite.
        second: (m, d), finite.
        team: Processes that share the work; all must call this with the same embeddings.
        scores_at_once: Most similarities held at a time; at least one row's.

    Returns:
        Places in ``second`` (n,), and places in ``first`` (m,).
    """
    rows = max(1, scores_at_once // len(second))
    blocks = share_out(team, first.split(rows), lambda some: _nearest(some, second))
    # The block with the highest score holds the nearest one; argmax takes the first of ties.
    to_second, heights, to_first = zip(*blocks, strict=True)
    block = np.stack(heights).argmax(axis=0)
    return np.concatenate(to_second), block * rows + np.stack(to_first)[block, np.arange(len(second))]


def _nearest(some: Tensor, second: Tensor) -> tuple[Places, NDArray[np.floating], Places]:
    scores = cos_sim(some, second).cpu().numpy()
    return scores.argmax(axis=1), scores.max(axis=0), scores.argmax(axis=0)
