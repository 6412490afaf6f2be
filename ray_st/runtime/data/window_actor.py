"""Plans of windows whose segments are encoded ahead of training, by one restartable actor of a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayTaskError

from ray_st.data.dataset_stats import DatasetStats
from ray_st.data.plan import Piece
from ray_st.data.stream_planner import StreamPlanner
from ray_st.runtime.cluster.handles import start_actor
from ray_st.runtime.data.encoded_segments import EncodedSegments, Seen, chosen_of


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

    def sample(self) -> dict[str, DatasetStats]:
        """Statistics of the first window of each dataset.

        Raises:
            ValueError: If rows are unusable.
        """
        return {
            name: rows.sample(self._planner.first_segments(number))
            for number, (name, rows) in enumerate(self._rows.items())
        }

    def piece(self, epoch: int, step: int) -> Piece:
        """The global batches around a step of an epoch, with the blocks that hold their rows."""
        piece = self._planner.piece(epoch, step)
        rows = np.unique(piece.plan.rows)
        blocks = []
        for lane, segments in zip(self._planner.lanes, self._rows.values(), strict=True):
            own = rows[(rows >= lane.start) & (rows < lane.start + sum(segments.segment_rows))] - lane.start
            blocks.append(segments.references(chosen_of(own, segments.segment_rows)))
        return replace(piece, blocks=tuple(blocks))

    def seen(self) -> dict[str, Seen]:
        """What became known of each dataset's rows so far."""
        return {name: rows.seen() for name, rows in self._rows.items()}


class WindowPlans:
    """The pieces of a :class:`WindowActor`, for the driver and all ranks.

    Args:
        planner: Plans over the rows; used in the actor only.
        rows: Each dataset's rows, by name.
    """

    def __init__(self, planner: StreamPlanner, rows: Mapping[str, EncodedSegments]) -> None:
        self.steps = planner.steps
        self._actor = start_actor(
            WindowActor, (planner, rows), num_cpus=0, max_restarts=-1, max_task_retries=-1
        )

    def sample(self) -> dict[str, DatasetStats]:
        """Statistics of the first window of each dataset."""
        found: dict[str, DatasetStats] = _result(self._actor.sample.remote())
        return found

    def piece(self, epoch: int, step: int) -> Piece:
        """The global batches around a step of an epoch, with the blocks that hold their rows.

        Raises:
            ValueError: If rows are unusable.
        """
        found: Piece = _result(self._actor.piece.remote(epoch, step))
        return found

    def seen(self) -> dict[str, Seen]:
        """What became known of each dataset's rows so far."""
        found: dict[str, Seen] = _result(self._actor.seen.remote())
        return found


def _result(reference: ray.ObjectRef[Any]) -> Any:
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise error.cause from error
