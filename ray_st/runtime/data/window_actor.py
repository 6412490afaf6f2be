"""Plans windows and has their segments encoded ahead of training: one restartable actor of a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import ray

from ray_st.data.plan import Piece
from ray_st.data.stream_planner import StreamPlanner
from ray_st.runtime.cluster.handles import result_of, start_actor
from ray_st.runtime.data.encoded_segments import EncodedSegments, Seen, chosen_of

Planned = tuple[StreamPlanner, Mapping[str, EncodedSegments]]
"""A planner and each dataset's rows, by name; one value, so that also in another process these are the rows
that the planner asks for."""


class WindowActor:
    """Plans pieces, and has the segments encoded that they are made of.

    If it is lost, its replacement makes the same plans from the start of the epoch; the token cache saves it
    from encoding segments again. What it plans comes with each request, by reference: Ray does not promise to
    keep what a constructor was given until a restart.
    """

    def __init__(self) -> None:
        self._planned: Planned | None = None

    def piece(self, planned: list[ray.ObjectRef[Any]], epoch: int, step: int) -> Piece:
        """The global batches around a step of an epoch, with the blocks that hold their rows."""
        planner, rows = self._opened(planned)
        return with_blocks(planner.piece(epoch, step), planner, rows)

    def seen(self, planned: list[ray.ObjectRef[Any]]) -> dict[str, Seen]:
        """What became known of each dataset's rows so far."""
        _, rows = self._opened(planned)
        return {name: dataset.seen() for name, dataset in rows.items()}

    def _opened(self, planned: list[ray.ObjectRef[Any]]) -> Planned:
        if self._planned is None:
            self._planned = ray.get(planned[0])
        return self._planned


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
        self._planned = [ray.put((planner, rows))]
        self._actor = start_actor(WindowActor, num_cpus=0, max_restarts=-1, max_task_retries=-1)

    def piece(self, epoch: int, step: int) -> Piece:
        """The global batches around a step of an epoch, with the blocks that hold their rows.

        Raises:
            ValueError: If rows are unusable.
        """
        first: Piece = ray.get(self._first)
        if epoch == 0 and step in first:
            return first
        found: Piece = result_of(self._actor.piece.remote(self._planned, epoch, step))
        return found

    def seen(self) -> dict[str, Seen]:
        """What became known of each dataset's rows so far."""
        found: dict[str, Seen] = result_of(self._actor.seen.remote(self._planned))
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
