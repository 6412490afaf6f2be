"""Writes a run's checkpoints beside training and tells every rank the outcome.

A checkpoint is made in two parts. The *snapshot* is taken by the training thread, with whatever collectives
it needs: a copy in host memory of all that a rank writes. The *write* puts this copy into a folder. It runs
in a thread of each rank that has files of its own, without training's collectives, and is followed by hashing
and uploading; the first rank writes the manifest once the files of all ranks are there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from safetensors import SafetensorError
from transformers import TrainerState

from ray_st.training.callbacks.loop_callback import LoopCallback
from ray_st.training.checkpoint.host_copies import HostCopies
from ray_st.training.checkpoint.store import PREFIX, CheckpointStore, Files, SavedCheckpoint, Settled
from ray_st.training.distributed import collectives
from ray_st.training.distributed.collectives import ThreadGroup
from ray_st.training.strategies.sharding.weight_parts import WeightParts, join_parts
from ray_st.util.endings import LeaseLost
from ray_st.util.events import notes
from ray_st.world import World

T = TypeVar("T")

Write = Callable[[Path], WeightParts]
"""Writes a rank's files of a checkpoint into a folder, from the copies that it holds; returns the parts of
encoders among them."""


def no_files(folder: Path) -> WeightParts:
    """Writes nothing, for a rank that has no files."""
    return {}


@dataclass(frozen=True)
class Snapshot:
    """What a rank writes of a checkpoint, as it was at a step.

    Args:
        step: The step.
        write: Writes this rank's files; not called on ranks that have none.
        facts: Further contents of the manifest; those of the first rank are written.
        metrics: The newest metrics.
    """

    step: int
    write: Write
    facts: Mapping[str, Any]
    metrics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rotation:
    """Which checkpoints stay once a new one is complete.

    Args:
        limit: How many; None for all.
        best: Step of the best one, which stays; None if there is none.
        in_use: Steps of those that are still being read, which stay.
    """

    limit: int | None = None
    best: int | None = None
    in_use: frozenset[int] = frozenset()


class Unwritable(RuntimeError):
    """A checkpoint's files could not be written, for lack of space or because storage is unavailable."""


class Checkpointer(LoopCallback):
    """One run's checkpoints, as seen by a rank.

    At most one checkpoint is being written at a time. Every rank must create it and call its methods alike.

    Args:
        store: The run's folder.
        world: This rank and the number of ranks.
        all_write: Whether each rank has files of its own; otherwise only the first one has.

    Attributes:
        newest: Step of the newest complete checkpoint; -1 before the first.
        copies: Makes the copies of snapshots; those of the checkpoint before are no longer needed once it is
            settled.
    """

    def __init__(self, store: CheckpointStore, world: World, all_write: bool = False) -> None:
        self._store, self._world = store, world
        self._writes = all_write or world.is_first
        self._ranks = ThreadGroup() if all_write else None
        self._begun: Snapshot | None = None
        self._written: Future[tuple[SavedCheckpoint | None, float]] | None = None
        self._best_before: str | None = None
        self.newest, self.copies = -1, HostCopies()

    @property
    def writing(self) -> int | None:
        """Step of the checkpoint that was begun and is not settled; None if there is none."""
        return None if self._begun is None else self._begun.step

    def begin(self, snapshot: Snapshot, rotation: Rotation, best_before: str | None = None) -> None:
        """Starts writing a checkpoint; the one before must be settled.

        Args:
            snapshot: What this rank writes.
            rotation: Which checkpoints stay once this one is complete.
            best_before: Path of the checkpoint that is the best if this one cannot be written.
        """
        assert self._begun is None, "the checkpoint before is settled"
        self._begun, self._best_before = snapshot, best_before
        if self._writes:
            thread = ThreadPoolExecutor(1, thread_name_prefix="ray_st-checkpoint")
            self._written = thread.submit(self._write, snapshot, rotation)
            thread.shutdown(wait=False)  # once it has written

    def is_written(self, step: int) -> bool:
        """Whether the checkpoint that was begun is written on all ranks.

        Ranks ask each other 1, 2, 4, 8, … steps after it was begun, which costs next to nothing and is at
        most as long again as writing takes.

        Args:
            step: The current step.
        """
        since = 0 if self._begun is None else step - self._begun.step
        if since < 1 or since & (since - 1):
            return False
        unfinished = self._written is not None and not self._written.done()
        return collectives.sum_of_numbers([int(unfinished)]) == [0]

    def settle(self, state: TrainerState) -> Settled | None:
        """Waits until the checkpoint that was begun is written, if there is one.

        A checkpoint that cannot be written is discarded: training continues, and earlier ones are kept.

        Args:
            state: The trainer's state; its best checkpoint becomes the one before, if this one is discarded.

        Returns:
            The outcome, on every rank; None if no checkpoint was begun.

        Raises:
            LeaseLost: If another driver has taken the run's folder.
        """
        if self._begun is None:
            return None
        result, error = (None, None) if self._written is None else _attempt(self._written.result)
        told, failed = collectives.broadcast_object((result, _sendable(error)))
        snapshot, self._begun, self._written = self._begun, None, None
        self.copies.release()
        if failed is not None:
            raise error or failed
        assert told is not None, "the first rank writes"
        settled = Settled(snapshot.step, snapshot.metrics, *told)
        if settled.checkpoint is not None:
            self.newest = snapshot.step
        elif best_name(state) == f"{PREFIX}{snapshot.step}":
            state.best_model_checkpoint = self._best_before
        return settled

    def on_close(self, state: TrainerState, failed: bool) -> None:
        """Waits for the checkpoint that is being written, also after an error, and frees the copies."""
        if self._written is not None:
            wait([self._written])
        self.copies = HostCopies()

    def name_best(self, state: TrainerState, *coming: int) -> None:
        """Sets the path of the best checkpoint; a best step without a checkpoint cannot be restored.

        Every rank must call it: the first one looks which checkpoints there are.

        Args:
            state: The trainer's state.
            coming: A step whose checkpoint is about to be written.
        """
        best = state.best_global_step
        steps = collectives.broadcast_object(self._store.steps() if best and self._world.is_first else [])
        if best and best in (*coming, *steps):
            state.best_model_checkpoint = self._store.location(f"{PREFIX}{best}")

    def _write(self, snapshot: Snapshot, rotation: Rotation) -> tuple[SavedCheckpoint | None, float]:
        """Writes a checkpoint; runs in a thread of each rank that has files."""
        store, rank, step, started = self._store, self._world.rank, snapshot.step, time.monotonic()
        try:
            # The first rank deletes an earlier checkpoint of this step before other ranks write.
            self._agree(lambda: store.begin(step) if rank == 0 else None)
            written = self._agree(lambda: self._write_part(snapshot))
            files = {name: entry for mine, _ in written for name, entry in mine.items()}
            told = [parts for _, parts in written]
            if any(told):
                files |= self._agree(lambda: self._join(step, told) if rank == 0 else {})[0]
            sealed = self._agree(lambda: store.declare(step, files, **snapshot.facts) if rank == 0 else None)
        except Unwritable as error:
            store.give_up(step, rank)  # first: it may free the space needed to log the warning
            if rank == 0:
                notes.warning(
                    f"warning: the checkpoint of step {step} could not be written to {store.path} and is "
                    f"given up; training goes on. Is the disk full? {error}"
                )
            return None, time.monotonic() - started
        seconds = time.monotonic() - started
        self.rotate(rotation)
        return sealed[0], seconds

    def _write_part(self, snapshot: Snapshot) -> tuple[Files, WeightParts]:
        folder = self._store.part(snapshot.step, self._world.rank)
        parts = snapshot.write(folder)
        return self._store.add(folder), parts

    def _join(self, step: int, told: list[WeightParts]) -> Files:
        folder = self._store.part(step, self._world.rank)
        join_parts(folder, told)
        return self._store.add(folder)

    def _agree(self, action: Callable[[], T]) -> list[T]:
        """What an action returns on each rank that writes; raises if it fails on any of them."""
        result, error = _attempt(action)
        if self._ranks is None:
            results, errors = [result], [error]
        else:
            told = self._ranks.gather_objects((result, _sendable(error)))
            results, errors = [one for one, _ in told], [error, *(one for _, one in told)]
        failed = next(filter(None, errors), None)
        if failed is not None:
            raise failed
        return cast("list[T]", results)

    def rotate(self, rotation: Rotation) -> None:
        """Deletes old checkpoints, on the first rank."""
        if self._world.is_first:
            self._store.rotate(rotation.limit, rotation.best, rotation.in_use)


def best_name(state: TrainerState) -> str:
    """The name of the best checkpoint; empty if there is none."""
    return Path(state.best_model_checkpoint or "").name


def best_step(state: TrainerState) -> int | None:
    """The step of the best checkpoint; None if there is none."""
    name = best_name(state)
    return int(name.removeprefix(PREFIX)) if name else None


def newest_metrics(state: TrainerState) -> dict[str, Any]:
    """The metrics that were logged last, with their step and epoch."""
    newest: dict[str, Any] = {"step": state.global_step, "epoch": state.epoch}
    for entry in state.log_history[-2:]:
        newest.update(entry)
    return newest


def _attempt(action: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """What an action returns, or the error that it raises, which every rank must learn of."""
    try:
        return action(), None
    except Exception as error:  # noqa: BLE001
        return None, Unwritable(_named(error)) if _is_of_storage(error) else error


def _is_of_storage(error: Exception) -> bool:
    """Whether an error comes from a full disk or from storage that is unavailable."""
    by_torch = isinstance(error, RuntimeError) and "inline_container" in str(error)  # torch's writer
    return by_torch or isinstance(error, (OSError, SafetensorError))


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _sendable(error: Exception | None) -> Exception | None:
    """An error as other ranks raise it; not all errors can be pickled."""
    if error is None or type(error) in (LeaseLost, Unwritable):
        return error
    return RuntimeError(f"another rank could not write its checkpoint. {_named(error)}")
