"""Checkpoints on each node's disk: one process of a node fetches and verifies them, and all of them use them.

Every rank must call these functions. If a process is killed meanwhile, the others are restarted with it, and
fetch anew.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

from ray_st.training.checkpoint.resume import Start
from ray_st.training.checkpoint.store import CheckpointError, CheckpointStore, place_of
from ray_st.training.distributed import collectives
from ray_st.util.events import event
from ray_st.util.filesystems import is_uri
from ray_st.world import World


def fetch_on_node(store: CheckpointStore, name: str, world: World, verifies: bool = True) -> Path:
    """A folder on this machine with a checkpoint's files.

    Args:
        store: The folder around the checkpoint.
        name: The checkpoint's name.
        world: This rank, its node, and the number of ranks.
        verifies: Whether to compare sizes and hashes; False for a model folder without a manifest.

    Raises:
        CheckpointError: On every rank, if the checkpoint is incomplete or damaged.
    """
    place = fault = ""
    if world.local_rank == 0:
        try:
            place = str(store.fetch(name, verifies))
        except CheckpointError as error:
            fault = str(error)
    told = collectives.gather_objects((world.node_rank, place, fault))
    for _, _, fault in told:
        if fault:
            raise CheckpointError(fault)
    return Path(next(place for node, place, _ in told if place and node == world.node_rank))


def own_start(store: CheckpointStore, world: World) -> Start | None:
    """The newest undamaged checkpoint written by this run, from which a restart resumes; None if none.

    Args:
        store: The run's folder, with the run's id.
        world: As for :func:`fetch_on_node`.
    """
    skipped: list[str] = []
    complete = store.complete(store.run_id, skipped, resumable=True, hashes=False)
    found = None
    while found is None:
        candidate = collectives.broadcast_object(next(complete, None) if world.is_first else None)
        if candidate is None:
            break
        try:
            place = fetch_on_node(store, candidate.name, world)
            found = Start(candidate.name, str(place), candidate.manifest)
        except CheckpointError as error:
            skipped.append(str(error))
    if world.is_first:
        for reason in skipped:
            event("checkpoint.passed_over", f"passed over a checkpoint: {reason}", reason=reason)
    return found


def fetched(store: CheckpointStore, start: Start, world: World) -> Start:
    """A start with its checkpoint's folder on this machine.

    Args:
        store: The run's folder.
        start: Where the run starts.
        world: As for :func:`fetch_on_node`.

    Raises:
        CheckpointError: As for :func:`fetch_on_node`.
    """
    if start.name is not None:
        around, name = store, start.name
    elif start.path is not None and is_uri(start.path):
        around, name = _around(start.path, store.scratch_dir)
    else:
        return start
    return replace(start, path=str(fetch_on_node(around, name, world, bool(start.manifest))))


@cache
def _around(uri: str, scratch_dir: str | None) -> tuple[CheckpointStore, str]:
    """As :func:`place_of`; kept as long as the process, since a store's local copies are gone with it."""
    return place_of(uri, scratch_dir)
