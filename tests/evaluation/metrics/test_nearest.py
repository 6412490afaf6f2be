from __future__ import annotations

import numpy as np
import pytest
import torch

from ray_st.evaluation.metrics.nearest import nearest_both_ways
from ray_st.util import cos_sim
from simulated_team import together


def sides(levels: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(levels)
    first, second = (torch.randint(0, levels, (n, 4), generator=generator).float() for n in (23, 17))
    return first, second


@pytest.mark.parametrize("levels", [2, 3, 1000])
@pytest.mark.parametrize("scores_at_once", [1, 40, 10**6])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_blocks_and_teams_find_the_same(levels, scores_at_once, size) -> None:
    first, second = sides(levels)
    scores = np.round(cos_sim(first, second).numpy(), 5)
    found = together(size, lambda team: nearest_both_ways(first, second, team, scores_at_once))
    for to_second, to_first in found:
        np.testing.assert_array_equal(scores[np.arange(23), to_second], scores.max(axis=1))
        np.testing.assert_array_equal(scores[to_first, np.arange(17)], scores.max(axis=0))
        np.testing.assert_array_equal(to_second, found[0][0])
        np.testing.assert_array_equal(to_first, found[0][1])


def test_of_equally_near_ones_the_first_is_taken() -> None:
    rows = torch.ones(5, 2)
    for scores_at_once in (1, 10, 100):
        to_second, to_first = nearest_both_ways(rows, rows, scores_at_once=scores_at_once)
        assert not to_second.any()
        assert not to_first.any()
