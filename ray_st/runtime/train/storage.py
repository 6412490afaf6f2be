"""A run's checkpoint storage, as seen from the driver."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ray.train import RunConfig

from ray_st.data.token_cache import FOLDER, TokenCache
from ray_st.training.checkpoint.lease import Lease, held
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.training_args import SentenceTransformerTrainingArguments
from ray_st.util.events import notes
from ray_st.util.filesystems import open_location, upload

_SNAPSHOT = "checkpoint_manager_snapshot.json"


def open_store(run_config: RunConfig, run_id: str, scratch_dir: str | None = None) -> CheckpointStore:
    """The folder of a run.

    Args:
        run_config: A configuration with name and storage path.
        run_id: Name of the run in manifests.
        scratch_dir: As for :class:`~ray_st.training.checkpoint.store.CheckpointStore`.
    """
    filesystem, path = run_config.storage_filesystem, str(run_config.storage_path)
    if filesystem is None:
        filesystem, path = open_location(path)
    return CheckpointStore(
        f"{path.rstrip('/')}/{run_config.name}", filesystem, run_id, scratch_dir=scratch_dir
    )


def open_token_cache(
    args: SentenceTransformerTrainingArguments, store: CheckpointStore | None
) -> TokenCache | None:
    """Where a run keeps its encoded rows for others; None for nowhere.

    Logs if the folder cannot be created; the run goes on without it.

    Args:
        args: The run's arguments.
        store: The run's folder, where the cache is by default; None for a run that keeps nothing.

    Raises:
        ValueError: If ``token_cache`` is the URI of no known file system.
    """
    if args.token_cache is False or (args.token_cache is None and store is None):
        return None
    if store is not None and args.token_cache is None:
        cache = TokenCache(store.location(FOLDER), args.token_cache_bytes, store.filesystem)
    else:
        try:
            filesystem, path = open_location(str(args.token_cache))
        except (ValueError, ImportError) as error:
            raise ValueError(f"token_cache {args.token_cache!r} cannot be opened: {error}") from error
        cache = TokenCache(path.rstrip("/"), args.token_cache_bytes, filesystem)
    try:
        cache.make()
    except OSError as error:
        notes.warning(f"warning: the token cache is not used: {cache.path} cannot be written ({error})")
        return None
    return cache


@contextmanager
def taken(store: CheckpointStore) -> Iterator[tuple[CheckpointStore, Lease]]:
    """Holds the lease on a run's folder while the context is open; yields a store only the holder can write.

    The lease is acquired before anything else, so that if two runs want the folder, the second fails at once.
    Then Ray Train's snapshot of an earlier run is deleted: Ray would resume from it on its own, and crash if
    it is corrupt. Our manifests alone determine where a run resumes.

    Args:
        store: The run's folder.

    Raises:
        ValueError: If the folder cannot be written, or another run is writing into it.
    """
    with ExitStack() as stack:
        try:
            lease = stack.enter_context(held(store))
            snapshot = f"{store.path}/{_SNAPSHOT}"
            if store.filesystem.get_file_info(snapshot).is_file:
                store.filesystem.delete_file(snapshot)
        except OSError as error:
            raise ValueError(
                f"The run's folder {store.path} cannot be written ({error}). "
                "Choose another output_dir, or another storage_path in run_config."
            ) from error
        yield dataclasses.replace(store, fence=lease.fence), lease


def publish(folder: Path, run_config: RunConfig) -> str:
    """Copies a folder next to a run's checkpoints if they are in an object store.

    Args:
        folder: A local folder.
        run_config: A configuration with name and storage path.

    Returns:
        The folder's location.
    """
    store = open_store(run_config, "")
    if store.is_local:
        return str(folder)
    upload(folder, store.filesystem, f"{store.path}/{folder.name}")
    return f"{str(run_config.storage_path).rstrip('/')}/{run_config.name}/{folder.name}"
