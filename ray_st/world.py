"""The position of a process among the processes of a run."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class World:
    """The position of one process in a run; passed in as a value, never looked up.

    Args:
        rank: Index of this process, ``0 <= rank < size``.
        size: Number of processes in the run.
        local_rank: Index of this process on its node.
        node_rank: Index of its node.

    Raises:
        ValueError: If ``rank`` is outside ``[0, size)``.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    node_rank: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"World needs 0 <= rank < size; got rank={self.rank}, size={self.size}.")

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and reports to the user."""
        return self.rank == 0

    def share(self, rows: int) -> slice:
        """The slice of ``rows`` consecutive rows that belongs to this rank.

        The slices of all ranks are disjoint, cover ``range(rows)`` in rank order, and differ by at most one
        row.
        """
        return slice(rows * self.rank // self.size, rows * (self.rank + 1) // self.size)

    def shares(self, rows: int) -> list[int]:
        """Number of rows in each rank's :meth:`share`."""
        edges = [rows * rank // self.size for rank in range(self.size + 1)]
        return [end - start for start, end in pairwise(edges)]
