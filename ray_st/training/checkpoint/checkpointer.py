"""Writes a run's checkpoints from the first rank and sends the outcome to every rank."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import TrainerState

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
        self, state: TrainerState, fill: Callable[[Path], None], manifest: Callable[[], Mapping[str, Any]]
    ) -> SavedCheckpoint | None:
        """Writes a checkpoint of the current step, with its manifest last; every rank must call it.

        A checkpoint that cannot be written is discarded: training continues, and earlier ones are kept.

        Args:
            state: The trainer's state, in which the best checkpoint may become this one.
            fill: Writes the checkpoint's files into a folder; called on the first rank.
            manifest: Returns further contents of the manifest; called on the first rank.

        Returns:
            The checkpoint, on every rank; None if it was discarded.
        """
        step, best = state.global_step, state.best_model_checkpoint
        self.name_best(state, step)
        found: SavedCheckpoint | None = collectives.broadcast_object(
            self._try_to_write(step, fill, manifest) if self._world.is_first else None
        )
        if found is None:
            state.best_model_checkpoint = best
        else:
            self.newest = step
        return found

    def name_best(self, state: TrainerState, *coming: int) -> None:
        """Sets the path of the best checkpoint; a best step without a checkpoint cannot be restored.

        Args:
            state: The trainer's state.
            coming: A step whose checkpoint is about to be written.
        """
        best = state.best_global_step
        if best and best in (*coming, *self._store.steps()):
            state.best_model_checkpoint = self._store.location(f"{PREFIX}{best}")

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

    def rotate(self, limit: int | None, state: TrainerState, in_use: Collection[int]) -> None:
        """Deletes old checkpoints, on the first rank.

        Args:
            limit: How many to keep; None for all.
            state: The trainer's state, which names the best one; that is kept.
            in_use: Steps of checkpoints that are still being read.
        """
        if self._world.is_first:
            best = best_name(state)
            step = int(best.removeprefix(PREFIX)) if best else None
            self._store.rotate(limit, step, in_use=set(in_use))


def best_name(state: TrainerState) -> str:
    """The name of the best checkpoint; empty if there is none."""
    return Path(state.best_model_checkpoint or "").name


def newest_metrics(state: TrainerState) -> dict[str, Any]:
    """The metrics that were logged last, with their step and epoch."""
    newest: dict[str, Any] = {"step": state.global_step, "epoch": state.epoch}
    for entry in state.log_history[-2:]:
        newest.update(entry)
    return newest
