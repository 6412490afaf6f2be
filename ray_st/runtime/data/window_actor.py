"""Plans of windows whose segments are encoded ahead of training, by one restartable actor of a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import ray

from ray_st.data.plan import Piece
from ray_st.data.stream_planner import StreamPlanner
from ray_st.runtime.cluster.handles import start_actor
from ray_st.runtime.data.encoded_segments import EncodedSegments, Seen, chosen_of, result_of


class WindowActor:
    """Plans pieces, and has the segments encoded that they are made of.

    If it is lost, its replacement makes the same plans from the start of the epoch; the token cache saves it
    from encoding segments again.

    Args:
        planned: The planner and each dataset's rows, by name; one argument, so that in the actor, too, these
            are the rows that the planner asks for.
    """

    def __init__(self, planned: tuple[StreamPlanner, Mapping[str, EncodedSegments]]) -> None:
        self._planner, self._rows = planned

    def piece(self, epoch: int, step: int) -> Piece:
        """The global batches around a step of an epoch, with the blocks that hold their rows."""
        return with_blocks(self._planner.piece(epoch, step), self._planner, self._rows)

    def seen(self) -> dict[str, Seen]:
        """What became known of each dataset's rows so far."""
        return {name: rows.seen() for name, rows in self._rows.items()}


class WindowPlans:
    """The pieces of a run, planned by a :class:`WindowActor`, for the driver and all ranks.

    The driver plans the first one, so that nothing waits for the actor's process.

    Args:
        planner: Plans over the rows.
        rows: Each dataset's rows, by name.

    Raises:
        ValueError: If rows of the first window are unusable.
    """

    def __init__(self, planner: StreamPlanner, rows: Mapping[str, EncodedSegments]) -> None:
        self.steps = planner.steps
        self._first = ray.put(with_blocks(planner.piece(0, 0), planner, rows))
        self._actor = start_actor(
            WindowActor, (planner, rows), num_cpus=0, max_restarts=-1, max_task_retries=-1
        )

    def piece(self, epoch: int, step: int) -> Piece:
        """The global batches around a step of an epoch, with the blocks that hold their rows.

        Raises:
            ValueError: If rows are unusable.
        """
        first: Piece = ray.get(self._first)
        if epoch == 0 and step in first:
            return first
        found: Piece = result_of(self._actor.piece.remote(epoch, step))
        return found

    def seen(self) -> dict[str, Seen]:
        """What became known of each dataset's rows so far."""
        found: dict[str, Seen] = result_of(self._actor.seen.remote())
        return found


def with_blocks(piece: Piece, planner: StreamPlanner, rows: Mapping[str, EncodedSegments]) -> Piece:
    """A piece with the blocks that hold its rows.

    Args:
        piece: The piece.
        planner: Its planner.
        rows: Each dataset's rows, by name.
    """
    used, blocks = np.unique(piece.plan.rows), []
    for lane, dataset in zip(planner.lanes, rows.values(), strict=True):
        own = used[(used >= lane.start) & (used < lane.start + sum(dataset.segment_rows))] - lane.start
        blocks.append(dataset.references(chosen_of(own, dataset.segment_rows)))
    return replace(piece, blocks=tuple(blocks))
