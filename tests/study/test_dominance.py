"""Early stopping with several objectives, against a slow brute-force rule."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ray_st.study.dominance import DominanceRungs, best_first, epsilon_net, ranks
from ray_st.study.halving import Rungs


def dominates(one: Any, other: Any) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def brute_ranks(costs: Any) -> list[int]:
    left, found, rank = dict(enumerate(costs)), {}, 0
    while left:
        front = [n for n in left if not any(dominates(other, left[n]) for other in left.values())]
        found.update(dict.fromkeys(front, rank))
        left = {n: point for n, point in left.items() if n not in front}
        rank += 1
    return [found[n] for n in range(len(costs))]


def brute_net(costs: Any) -> list[int]:
    width = [max(column) - min(column) or 1 for column in zip(*costs, strict=True)]

    def distance(a: int, b: int) -> float:
        return math.dist(
            [x / w for x, w in zip(costs[a], width, strict=True)],
            [x / w for x, w in zip(costs[b], width, strict=True)],
        )

    order = [min(range(len(costs)), key=lambda n: (tuple(costs[n]), n))]
    while len(order) < len(costs):
        rest = [n for n in range(len(costs)) if n not in order]
        order.append(max(rest, key=lambda n: (round(min(distance(n, m) for m in order), 9), -n)))
    return order


@pytest.mark.parametrize("objectives", [1, 2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_ranks_and_nets_are_those_of_the_slow_rule(objectives: int, seed: int) -> None:
    random = np.random.default_rng([objectives, seed])
    for count in (1, 2, 7, 20):
        costs = random.integers(0, 6, (count, objectives)).astype(float)  # many ties
        assert ranks(costs).tolist() == brute_ranks(costs)
        fine = random.normal(size=(count, objectives))
        assert ranks(fine).tolist() == brute_ranks(fine)
        assert epsilon_net(fine) == brute_net(fine)
        assert sorted(epsilon_net(costs)) == list(range(count))


@pytest.mark.parametrize("seed", range(4))
def test_the_order_is_by_violation_then_rank_then_net(seed: int) -> None:
    random = np.random.default_rng(seed)
    costs = random.normal(size=(16, 2))
    violations = np.where(random.random(16) < 0.4, random.random(16), 0.0)
    order = best_first(costs, list(violations))
    feasible = [n for n in range(16) if not violations[n]]
    rank = dict(zip(feasible, brute_ranks(costs[feasible]), strict=True))
    keys = [(violations[n], rank.get(n, 0)) for n in order]
    assert keys == sorted(keys)
    front = [n for n in feasible if rank[n] == 0]
    assert order[: len(front)] == [front[place] for place in brute_net(costs[front])]


def test_a_net_covers_the_front_with_its_first_points() -> None:
    line = np.array([[x, 10.0 - x] for x in range(11)])
    assert epsilon_net(line)[:3] == [0, 10, 5]


def test_one_of_three_continues_and_dominated_ones_do_not() -> None:
    rule = DominanceRungs(Rungs(1, 3), ["maximize", "minimize"])
    assert rule.arrive("a", 1, [0.5, 5.0])  # the first
    assert not rule.arrive("b", 1, [0.4, 6.0])  # dominated
    assert rule.arrive("c", 1, [0.6, 4.0])  # dominates all
    assert rule.arrive("d", 1, [0.3, 1.0])  # as fast as nobody else: two of four continue
    assert not rule.arrive("e", 1, [0.29, 1.5])
    assert rule.arrive("e", 1, [0.99, 0.5])  # asked again, it has passed or been stopped before
    assert rule.arrive("a", 2, [0.1, 9.0])  # no rung
    assert rule.arrive("a", 3, [0.1, 9.0])  # the first there
    assert not rule.arrive("c", 4, [0.05, 10.0])  # it had no evaluation at 3


def test_no_rung_before_the_grace_period() -> None:
    rule = DominanceRungs(Rungs(2, 2), ["minimize", "minimize"])
    assert all(rule.arrive(name, 1, [value, value]) for name, value in zip("abc", (1, 2, 3), strict=True))
    assert [rule.arrive(name, 2, [value, value]) for name, value in zip("abc", (1, 2, 3), strict=True)] == [
        True,
        False,
        False,
    ]


def test_a_trial_that_violates_pushes_nobody_out() -> None:
    rule = DominanceRungs(Rungs(1, 2), ["maximize", "maximize"])
    assert rule.arrive("large", 1, [9, 9], 0.5)
    assert rule.arrive("small", 1, [1, 1], 0.0)
    assert not rule.arrive("larger", 1, [99, 99], 0.7)
    assert rule.arrive("weak", 1, [0.5, 0.5], 0.0)


@pytest.mark.parametrize("seed", range(3))
def test_decisions_are_those_of_the_slow_rule(seed: int) -> None:
    random = np.random.default_rng(seed)
    rule = DominanceRungs(Rungs(1, 3), ["minimize", "minimize", "minimize"])
    seen: list[Any] = []
    for number, point in enumerate(random.normal(size=(30, 3))):
        seen.append(point)
        rank = brute_ranks(seen)
        net = {level: [n for n in range(len(seen)) if rank[n] == level] for level in set(rank)}
        order = [
            members[place]
            for _, members in sorted(net.items())
            for place in brute_net(np.array([seen[n] for n in members]))
        ]
        expected = order.index(number) < -(-len(seen) // 3)
        assert rule.arrive(str(number), 1, list(point)) == expected
