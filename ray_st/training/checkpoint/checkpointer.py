"""Writes a run's checkpoints from the first rank and sends the outcome to every rank."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ray_st.training.checkpoint.store import PREFIX, CheckpointStore, SavedCheckpoint
from ray_st.training.distributed import collectives
from ray_st.util.events import notes
from ray_st.world import World


class Checkpointer:
    """One run's checkpoints, as seen by a rank.

    Args:
        store: The run's folder.
        world: This rank and the number of ranks.

    Attributes:
        newest: Step of the newest checkpoint that was written; -1 before the first.
    """

    def __init__(self, store: CheckpointStore, world: World) -> None:
        self._store, self._world = store, world
        self.newest = -1

    def write(
        self, step: int, fill: Callable[[Path], None], manifest: Callable[[], Mapping[str, Any]]
    ) -> SavedCheckpoint | None:
        """Writes a checkpoint and seals it; every rank must call it.

        A checkpoint that cannot be written is discarded: training continues, and earlier ones are kept.

        Args:
            step: Global step.
            fill: Writes the checkpoint's files into a folder; called on the first rank.
            manifest: Returns further contents of the manifest; called on the first rank.

        Returns:
            The checkpoint, on every rank; None if it was discarded.
        """
        found: SavedCheckpoint | None = collectives.broadcast_object(
            self._try_to_write(step, fill, manifest) if self._world.is_first else None
        )
        if found is not None:
            self.newest = step
        return found

    def _try_to_write(
        self, step: int, fill: Callable[[Path], None], manifest: Callable[[], Mapping[str, Any]]
    ) -> SavedCheckpoint | None:
        store = self._store
        try:
            folder = store.begin(step)
            fill(folder)
            return store.seal(folder, **manifest())
        except (OSError, SafetensorError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "inline_container" not in str(error):  # torch's writer
                raise
            store.give_up(step)  # first: it may free the space needed to log the warning
            notes.warning(
                f"warning: the checkpoint of step {step} could not be written to {store.path} and is given "
                f"up; training goes on. Is the disk full? {type(error).__name__}: {error}"
            )
            return None

    def rotate(self, limit: int | None, best: str, in_use: Collection[int]) -> None:
        """Deletes old checkpoints, on the first rank.

        Args:
            limit: How many to keep; None for all.
            best: Name of the best one, which is kept; empty for none.
            in_use: Steps of checkpoints that are still being read.
        """
        if self._world.is_first:
            step = int(best.removeprefix(PREFIX)) if best else None
            self._store.rotate(limit, step, in_use=set(in_use))
