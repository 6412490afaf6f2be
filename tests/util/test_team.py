from __future__ import annotations

from typing import Any

import pytest

from ray_st.util.team import Alone, dealt_indices, in_team, share_out, team_of
from simulated_team import together


class Worker:
    team: Any = Alone()


@pytest.mark.parametrize("size", range(1, 6))
@pytest.mark.parametrize("count", [0, 1, 4, 11])
def test_each_item_is_worked_on_once_and_all_get_all(size: int, count: int) -> None:
    worked: list[int] = []

    def work(item: int) -> int:
        worked.append(item)
        return item**2

    found = together(size, lambda team: share_out(team, range(count), work))
    assert found == [[item**2 for item in range(count)]] * size
    assert sorted(worked) == [*range(count)]


def test_alone_all_work_is_ones_own() -> None:
    assert share_out(Alone(), "abc", str.upper) == ["A", "B", "C"]
    assert Alone().gather(5) == [5]


def test_a_team_lasts_as_long_as_the_context() -> None:
    worker, team = Worker(), Alone(1, 3)
    with in_team(worker, team):
        assert team_of(worker) is team
        with in_team(worker, Alone()):
            assert team_of(worker) == Alone()
        assert team_of(worker) is team
    assert team_of(worker) == Alone()


def test_a_team_is_left_after_an_error() -> None:
    worker = Worker()

    def fail() -> None:
        with in_team(worker, Alone(1, 3)):
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    assert team_of(worker) == Alone()


def test_what_has_no_team_works_alone() -> None:
    other = object()
    with in_team(other, Alone(1, 3)):
        assert team_of(other) == Alone()


def test_work_sorted_by_cost_is_dealt_evenly() -> None:
    costs = range(100, 0, -1)
    sums = [sum(costs[place] for place in dealt_indices(rank, 3, 100)) for rank in range(3)]
    assert max(sums) / min(sums) < 1.04
    assert sorted(place for rank in range(3) for place in dealt_indices(rank, 3, 100)) == list(range(100))
