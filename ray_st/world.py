"""The position of a process among the processes of a run, and how many there may be."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from ray_st.util.value_checks import is_whole


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


@dataclass(frozen=True)
class WorkerRange:
    """The number of workers that a run may have.

    Args:
        least: The smallest number; 0 for a run in the driver's process, which has no workers.
        most: The greatest number; the same as ``least`` if it is fixed.
    """

    least: int
    most: int

    @classmethod
    def of(cls, num_workers: object) -> WorkerRange:
        """The range that ``num_workers`` of Ray Train's ``ScalingConfig`` stands for.

        Args:
            num_workers: A number, or the least and the greatest number.

        Raises:
            ValueError: If it is neither, or the range is empty or begins with 0.
        """
        match num_workers:
            case int() if is_whole(num_workers, least=0):
                return cls(num_workers, num_workers)
            case (least, most) if is_whole(least, least=0) and is_whole(most, least=0):
                if least > most:
                    raise ValueError(
                        f"num_workers: the least number of workers comes first; found ({least}, {most})"
                    )
                if least == 0:
                    raise ValueError(
                        f"num_workers: a run needs one worker at least; found (0, {most}). Begin the range "
                        "with 1, or use the number 0 to train in the driver's process"
                    )
                return cls(least, most)
        raise ValueError(
            f"num_workers: expected a whole number of at least 0, found {num_workers!r}; a number that may "
            "change is given by the least and the greatest of at least 1, such as (1, 4)"
        )

    @property
    def is_fixed(self) -> bool:
        """Whether there is one number only."""
        return self.least == self.most

    def __str__(self) -> str:
        return str(self.most) if self.is_fixed else f"{self.least} to {self.most}"
