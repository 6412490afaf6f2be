"""Where a search is: in a folder of this machine and, found by its name from any machine, in the storage."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ray.train import RunConfig

from ray_st.runtime.train.ray_configs import given_name, given_storage
from ray_st.runtime.train.storage import open_store
from ray_st.study.mirror import Home, Mirror, fetch
from ray_st.training.checkpoint.lease import Lease, held
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.util.events import notes

_UNNAMED = "searches"
"""Ray names a configuration without a name after the time: a continued search would not be found."""

RUN = "run-"
"""Prefix of the folder of a trial."""


def search_home(run_config: RunConfig | None, folder: Path) -> CheckpointStore | None:
    """A search's folder in the user's storage; None without a storage.

    Args:
        run_config: The user's, or None.
        folder: The search's folder on this machine.
    """
    if run_config is None or given_storage(run_config) is None:
        return None
    name = f"{given_name(run_config) or _UNNAMED}/{folder.name}"
    return open_store(dataclasses.replace(run_config, name=name), folder.name)


def search_store(run_config: RunConfig | None, folder: Path, search_id: str) -> CheckpointStore:
    """Where the trials of a search keep their checkpoints: in its folder, or in the user's storage.

    There each search has a folder of its own: the storage may hold the trials of an earlier search of the
    same name whose records are lost.

    Args:
        run_config: The user's, or None.
        folder: The search's folder on this machine.
        search_id: The search's unique identifier; empty for searches of versions without one.
    """
    home = search_home(run_config, folder)
    if home is None:
        return CheckpointStore(str(folder))
    return dataclasses.replace(home, path=home.location(search_id) if search_id else home.path)


@dataclass(frozen=True)
class SearchFolder:
    """A search's folder, which this driver holds, here and in the storage.

    Args:
        path: The folder on this machine.
        here: Its lease.
        lease: The lease that fences the trials: of the folder in the storage, if there is one.
        mirrors: Copy the folder to the storage, and folders in it that have a journal of their own, by name
            (the folder's own is ""); none without a storage.
    """

    path: Path
    here: Lease
    lease: Lease
    mirrors: Mapping[str, Mirror] = field(default_factory=dict)

    def check(self) -> None:
        """Checks that this driver still holds the search; cheap, as it is called before each event.

        Raises:
            LeaseLost: If it does not.
        """
        self.here.fence.check()
        for mirror in self.mirrors.values():
            mirror.check()

    def copying(self) -> AbstractContextManager[object]:
        """Copies the folder to the storage while the context is open.

        Raises:
            ValueError: If the storage cannot be written.
        """
        return _writable([*self.mirrors.values()], self.lease.fence.path)


@contextmanager
def _writable(mirrors: Sequence[Mirror], path: str) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            for mirror in mirrors:
                stack.enter_context(mirror)
        except OSError as error:
            raise _no_storage(path, error) from error
        try:
            yield
        finally:
            for mirror in mirrors:  # they wait for the storage at the same time
                mirror.finish()


@contextmanager
def taken(folder: Path, run_config: RunConfig | None, parts: Sequence[str] = ()) -> Iterator[SearchFolder]:
    """Holds a search's folder while the context is open, brought up to its copy in the storage.

    Args:
        folder: The folder on this machine.
        run_config: The user's, or None.
        parts: Folders in it that have a journal of their own.

    Raises:
        RunInUse: If another driver holds it, here or in the storage.
        RecordError: If what lies in the storage is not this search.
        ValueError: If the storage cannot be read or written.
    """
    home = search_home(run_config, folder)
    with ExitStack() as stack:
        here = stack.enter_context(held(CheckpointStore(str(folder))))
        if home is None or (home.is_local and Path(home.path) == folder):
            yield SearchFolder(folder, here, here)
            return
        copy = Home(home.filesystem, home.path)
        try:
            lease = stack.enter_context(held(home))
            fetch(folder, copy, parts)
        except OSError as error:
            raise _no_storage(home.path, error) from error
        homes = {"": copy, **{part: copy.part(part) for part in parts}}
        mirrors = {part: Mirror(folder / part, home, lease.fence.check) for part, home in homes.items()}
        yield SearchFolder(folder, here, lease, mirrors)


def _no_storage(path: str, error: OSError) -> ValueError:
    return ValueError(
        f"The search's folder {path} in the storage cannot be used ({error}). Start the search again when it "
        "can, or choose another storage_path in run_config."
    )


def forget_unknown(store: CheckpointStore, known: int) -> None:
    """Deletes the folders of trials that the search does not know.

    A driver that was lost may have begun trials after what the storage holds of its journal. The next trials
    of these numbers have other hyperparameters and must not continue from their checkpoints.

    Args:
        store: Where the trials keep their checkpoints, with the right to write there.
        known: How many trials the search knows.
    """
    for number in store.numbered(RUN):
        if number >= known:
            store.check_fence()
            store.filesystem.delete_dir(store.location(f"{RUN}{number}"))
            notes.info(f"trial {number} was begun after the last event in the storage: it starts over")
