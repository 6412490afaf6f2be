from __future__ import annotations

import pytest

from ray_st.training.loop.loss_so_far import LossSoFar

SO_FAR = LossSoFar(10.0, 4, [1.0, 3.0], [{"a": (1.0, 2)}, {"a": (3.0, 2), "b": (5.0, 1)}])


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_goes_on_with_its_own_sums(rank: int) -> None:
    assert SO_FAR.of_rank(rank, 2) == (SO_FAR.since[rank], SO_FAR.parts[rank])


def test_other_ranks_go_on_with_the_mean() -> None:
    assert SO_FAR.of_rank(2, 3) == (2.0, {"a": [2.0, 2.0], "b": [5.0, 1.0]})
