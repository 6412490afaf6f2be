"""The processes that share a task, passed in as a value: evaluation and encoding never query a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

Item = TypeVar("Item")
Result = TypeVar("Result")


class Team(Protocol):
    """Processes that run the same program; each does a share of the work and all get the results."""

    @property
    def rank(self) -> int:
        """Index of this process, ``0 <= rank < size``."""

    @property
    def size(self) -> int:
        """Number of processes."""

    def gather(self, value: Result) -> list[Result]:
        """The values of all processes, in rank order; every process must call it.

        Args:
            value: Anything that can be pickled. Tensors, including those in lists and dicts, arrive on the
                receiver's device.
        """


@dataclass(frozen=True)
class Alone:
    """A team of one process."""

    rank: int = 0
    size: int = 1

    def gather(self, value: Result) -> list[Result]:
        """The value itself, as a list of one."""
        return [value]


@runtime_checkable
class HasTeam(Protocol):
    """A model whose work a team can share."""

    team: Team


def team_of(model: object) -> Team:
    """The team that shares a model's work: its ``team``, or ``Alone()`` if it has none.

    Args:
        model: Any model.
    """
    return model.team if isinstance(model, HasTeam) else Alone()


@contextmanager
def in_team(model: object, team: Team) -> Iterator[None]:
    """Makes a team share a model's work while the context is open.

    Args:
        model: A model with a ``team``; other models are left unchanged.
        team: The team that shares the work; ``Alone()`` for none.
    """
    if not isinstance(model, HasTeam):
        yield
        return
    before = model.team
    model.team = team
    try:
        yield
    finally:
        model.team = before


def share_out(team: Team, items: Sequence[Item], work: Callable[[Item], Result]) -> list[Result]:
    """The results of applying a function to all items, in item order, on every process.

    Items are dealt back and forth: if they are sorted by cost, no process always gets the most expensive one
    of a round.

    Args:
        team: The team that shares the work; all must call this with the same items.
        items: Items, ordered so that neighbours cost about the same.
        work: The function to apply; its results are transferred as described in :meth:`Team.gather`.
    """
    shares_of = [dealt_indices(rank, team.size, len(items)) for rank in range(team.size)]
    shares = team.gather([work(items[place]) for place in shares_of[team.rank]])
    results: list[Any] = [None] * len(items)
    for places, share in zip(shares_of, shares, strict=True):
        for place, result in zip(places, share, strict=True):
            results[place] = result
    return results


def dealt_indices(rank: int, size: int, items: int) -> list[int]:
    """The indices of the items that a process works on, dealt back and forth.

    Args:
        rank: Index of the process.
        size: Number of processes.
        items: Number of items.
    """
    rounds = ((start, rank if start // size % 2 == 0 else size - 1 - rank) for start in range(0, items, size))
    return [start + place for start, place in rounds if start + place < items]
