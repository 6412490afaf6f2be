"""Successive halving with several objectives: a trial continues if few others are better in all of them.

The method is that of Schmucker et al., 2021 (arXiv:2106.12639): at a rung, trials are sorted by non-dominated
rank, and within a rank by an epsilon-net, so that those that continue cover the whole front.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ray_st.study.halving import Rungs


def ranks(costs: np.ndarray) -> np.ndarray:
    """The non-dominated rank of each point: 0 for the front, 1 for the front of the rest, and so on.

    Args:
        costs: (n, k), less is better. A point dominates another if it is at most equal in all objectives and
            less in one.

    Returns:
        (n,) of integers.
    """
    no_worse: np.ndarray = np.all(costs[:, None, :] <= costs[None, :, :], axis=2)
    dominates = no_worse & ~no_worse.T  # [i, j]: point i dominates point j
    found = np.full(len(costs), -1)
    rank = 0
    while (found < 0).any():
        left = found < 0
        found[left & ~dominates[left].any(axis=0)] = rank
        rank += 1
    return found


def epsilon_net(costs: np.ndarray) -> list[int]:
    """Indices of points in an order whose beginnings cover them: the next is the farthest from all before.

    The first is the best in the first objective. Distances are Euclidean, with each objective scaled to its
    range; of equal distances the earlier point counts.

    Args:
        costs: (n, k), less is better; n is at least 1.
    """
    spread = np.ptp(costs, axis=0)
    scaled = costs / np.where(spread > 0, spread, 1)
    order = [int(np.lexsort(costs.T[::-1])[0])]
    nearest = np.linalg.norm(scaled - scaled[order[0]], axis=1)
    while len(order) < len(costs):
        nearest[order] = -1
        order.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, np.linalg.norm(scaled - scaled[order[-1]], axis=1))
    return order


def best_first(costs: np.ndarray, violations: Sequence[float]) -> list[int]:
    """Indices of points from the best to the worst.

    Points that violate a constraint come after all others, the least violation first.

    Args:
        costs: (n, k), less is better.
        violations: n total violations, 0 for none.
    """
    beyond = np.asarray(violations, float)
    feasible = np.flatnonzero(beyond == 0)
    order: list[int] = []
    if len(feasible):
        rank = ranks(costs[feasible])
        for level in range(int(rank.max()) + 1):
            front = feasible[rank == level]
            order += [int(front[place]) for place in epsilon_net(costs[front])]
    rest = np.flatnonzero(beyond > 0)
    return order + [int(place) for place in rest[np.argsort(beyond[rest], kind="stable")]]


@dataclass(frozen=True)
class _Arrival:
    costs: tuple[float, ...]
    violation: float


class DominanceRungs:
    """Decides, as soon as a trial reaches a rung, whether it continues.

    Args:
        rungs: The rungs; one in ``rungs.factor`` trials of each continues, rounded up.
        directions: ``"minimize"`` or ``"maximize"`` for each objective.
    """

    def __init__(self, rungs: Rungs, directions: Sequence[str]) -> None:
        self._rungs = rungs
        self._signs = tuple(-1.0 if way == "maximize" else 1.0 for way in directions)
        self._arrived: dict[int, dict[str, _Arrival]] = {}

    def arrive(self, trial: str, evaluation: int, values: Sequence[float], violation: float = 0.0) -> bool:
        """Whether a trial continues after an evaluation; the first call at a rung counts.

        A trial that reports no evaluation at a rung is compared there by its first one after it.

        Args:
            trial: Identifies the trial.
            evaluation: 1-based index of its evaluation.
            values: Its objectives.
            violation: How far it violates constraints, 0 for not at all.
        """
        rung = max(self._rungs.up_to(evaluation), default=0)
        here = self._arrived.setdefault(rung, {})
        if not rung or trial in here:
            return True
        costs = tuple(sign * value for sign, value in zip(self._signs, values, strict=True))
        here[trial] = _Arrival(costs, violation)
        order = best_first(
            np.array([one.costs for one in here.values()]), [o.violation for o in here.values()]
        )
        return order.index(len(here) - 1) < math.ceil(len(here) / self._rungs.factor)
