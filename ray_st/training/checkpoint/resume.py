"""Where a run starts: which checkpoint it resumes from, and what happens to an earlier run's files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from ray_st.training.checkpoint.sample_log import LEDGER
from ray_st.training.checkpoint.store import (
    MANIFEST,
    PREFIX,
    CheckpointError,
    CheckpointStore,
    place_of,
)
from ray_st.util.events import notes
from ray_st.util.filesystems import is_uri

TRAINER_STATE = "trainer_state.json"

FIRST_EPOCH = "batches of the first epoch"
"""Name, among the facts of a manifest, of a hash of the rows of each batch."""

NOTED_EVER = (
    "seed",
    "drop_last",
    "rows",
    "columns",
    "texts and labels",
    "global batch size",
    "blocks of a window",
)
"""Facts in the manifests of all versions; for facts of a dataset, the part after its name."""

EARLIER = "earlier-"
"""Name prefix of the numbered folders, in a run's folder, to which earlier runs' checkpoints are moved."""


@dataclass(frozen=True)
class Start:
    """The checkpoint from which a run starts.

    Args:
        name: Its name, if it is in the run's folder; each worker fetches it from there.
        path: Its folder or URI, if it is elsewhere; every worker must be able to read it.
        manifest: Its manifest; empty without one.
        only_model: Whether only its weights are used.
    """

    name: str | None = None
    path: str | None = None
    manifest: Mapping[str, Any] = field(default_factory=dict)
    only_model: bool = False

    @property
    def begins_anew(self) -> bool:
        """Whether the run's first step is step 1."""
        return self.only_model or not (self.name or self.path)


NEW_RUN = Start()
"""Without a checkpoint."""


def find_checkpoint(
    store: CheckpointStore,
    wanted: str | bool | None,
    only_model: bool = False,
    optional: bool = False,
) -> Start:
    """The checkpoint from which a run starts.

    A run can only resume from a checkpoint that is complete, undamaged, and holds the states of optimizer,
    schedule and random generators: otherwise the samples or the learning rate would silently differ. Hashes
    of files in an object store are compared where these are fetched, by one process of each node.

    Args:
        store: The run's folder.
        wanted: True for the newest such checkpoint in the run's folder, or a checkpoint's path or URI.
        only_model: Whether to start a new run with the checkpoint's weights; then any model folder is
            accepted.
        optional: Whether ``wanted=True`` starts a new run if the folder has no checkpoints, instead of
            raising.

    Raises:
        CheckpointError: If there is none, or the run cannot resume from it.
    """
    if not wanted or (optional and wanted is True and not store.steps()):
        return NEW_RUN
    if wanted is True:
        return _newest(store, only_model)
    around, name = place_of(wanted)
    if only_model:
        return _model_folder(store, wanted, around, name)
    if not _has(around, name, TRAINER_STATE):
        raise CheckpointError(f"resume_from_checkpoint={wanted!r}: no checkpoint there (no {TRAINER_STATE}).")
    if not _has(around, name, MANIFEST):
        raise CheckpointError(
            f"resume_from_checkpoint={wanted!r} has no {MANIFEST}, which is written last: it is incomplete, "
            "or another program wrote it, and nothing says that it is whole. Choose another checkpoint, or "
            "set resume_only_model=True to begin a new run, at step 0, with its weights."
        )
    found = around.check(name, resumable=True, hashes=around.is_local)
    return _start_at(store, wanted, around, name, found.manifest)


def _newest(store: CheckpointStore, only_model: bool) -> Start:
    skipped: list[str] = []
    newest = store.newest(skipped=skipped, resumable=not only_model, hashes=store.is_local)
    if newest is None:
        reasons = skipped or ["It holds no checkpoint."]
        if earlier := store.numbered(EARLIER):
            reasons.append(
                f"{store.location(f'{EARLIER}{earlier[-1]}')} holds what an earlier run left: to go on with "
                "that, name one of its checkpoints by path."
            )
        raise CheckpointError(
            f"resume_from_checkpoint=True found no complete checkpoint in {store.path}. {' '.join(reasons)}"
        )
    return Start(name=newest.name, manifest=newest.manifest, only_model=only_model)


def _has(around: CheckpointStore, name: str, file: str) -> bool:
    return bool(around.filesystem.get_file_info(f"{around.location(name)}/{file}").is_file)


def _model_folder(store: CheckpointStore, wanted: str, around: CheckpointStore, name: str) -> Start:
    if around.filesystem.get_file_info(around.location(name)).type != pafs.FileType.Directory:
        raise CheckpointError(f"resume_from_checkpoint={wanted!r}: no folder there.")
    manifest: Mapping[str, Any] = {}
    if _has(around, name, MANIFEST):
        manifest = around.check(name, hashes=around.is_local).manifest
    return _start_at(store, wanted, around, name, manifest, only_model=True)


def _start_at(
    store: CheckpointStore,
    wanted: str,
    around: CheckpointStore,
    name: str,
    manifest: Mapping[str, Any],
    only_model: bool = False,
) -> Start:
    if name.startswith(PREFIX) and _are_same(store, around):
        return Start(name=name, manifest=manifest, only_model=only_model)
    path = wanted if is_uri(wanted) else around.location(name)
    return Start(path=path, manifest=manifest, only_model=only_model)


def _are_same(one: CheckpointStore, other: CheckpointStore) -> bool:
    if one.is_local and other.is_local:
        return Path(one.path).resolve() == Path(other.path).resolve()
    return bool(one.filesystem.equals(other.filesystem)) and one.path.rstrip("/") == other.path.rstrip("/")


# ---- does the run fit its checkpoint? ----


def check_model(start: Start, weights: str) -> None:
    """Raises if a checkpoint is of another model, before workers start.

    Args:
        start: The checkpoint.
        weights: A description of the model's weights.

    Raises:
        CheckpointError: Naming both models' weights.
    """
    then = start.manifest.get("model", weights)
    if then != weights:
        raise CheckpointError(
            f"{start.name or start.path} is a checkpoint of another model: it holds {then}; this model has "
            f"{weights}. Resume with the model that the run began with."
        )


def check_settings(start: Start, settings: Mapping[str, Any]) -> None:
    """Like :func:`check_fingerprint`, for the facts known before any row is read."""
    then = start.manifest.get("data") or {}
    known = {name: value for name, value in settings.items() if name in then}
    _check_same(start, {name: then[name] for name in known}, known)


def check_fingerprint(start: Start, facts: Mapping[str, Any]) -> None:
    """Raises if a checkpoint is of a run with other data or settings, since the samples would differ.

    A checkpoint of an earlier version lacks some facts; these are assumed to be unchanged, which is logged.

    Args:
        start: The checkpoint.
        facts: Everything that the run's sample order depends on.

    Raises:
        CheckpointError: Naming what differs.
    """
    then = start.manifest.get("data") or {}
    if not then:
        return
    unsaid: list[str] = []
    if FIRST_EPOCH in facts and FIRST_EPOCH not in then:
        unsaid = [name for name in facts if name not in then and name.rpartition(": ")[2] not in NOTED_EVER]
    _check_same(start, then, {name: value for name, value in facts.items() if name not in unsaid})
    if unsaid and not start.only_model:
        notes.info(
            f"{start.name or start.path} was written by an earlier version, which did not note "
            f"{', '.join(unsaid)}: taken to be as they were"
        )


def _check_same(start: Start, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    found = [] if start.only_model else differences(then, now)
    if found:
        raise CheckpointError(
            f"{start.name or start.path} was written with other data or settings, so the order of samples "
            f"would differ. {'; '.join(found)}. Resume with the same data and settings, or set "
            "ignore_data_skip=True to begin the epoch anew with these."
        )


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Descriptions of the differences between two fingerprints."""
    names = [name for name in dict.fromkeys([*then, *now]) if then.get(name) != now.get(name)]
    if names == [FIRST_EPOCH]:
        return [
            f"{FIRST_EPOCH}: others than then, although all settings are alike: has the code of a sampler "
            "changed?"
        ]
    return [f"{name}: {then.get(name)} then, {now.get(name)} now" for name in names if name != FIRST_EPOCH]


# ---- what an earlier run left ----


def set_aside(store: CheckpointStore, start: Start) -> Start:
    """Moves files of an earlier run in the run's folder out of the way and logs it; deletes nothing.

    A run that resumes from the folder's newest checkpoint leaves everything in place. One that resumes from
    an earlier checkpoint moves the later ones, and one that starts anew, or resumes from another folder,
    moves all checkpoints and the ledger. So the remaining files belong together: the newest checkpoint is
    this run's, or the one that it resumed from.

    Args:
        store: The run's folder, held by this process.
        start: Where the run starts.

    Returns:
        Where the run starts, if that has been moved.
    """
    at = 0 if start.begins_anew or start.name is None else int(start.manifest["step"])
    steps = [step for step in store.steps() if step > at]
    if at and not any(store.has_manifest(step) for step in steps):
        return start  # a killed run's incomplete checkpoint does no harm
    ledger = bool(store.filesystem.get_file_info(store.location(LEDGER)).is_file)
    if not steps and not ledger:
        return start
    store.check_fence()
    aside = f"{EARLIER}{max(store.numbered(EARLIER), default=0) + 1}"
    store.filesystem.create_dir(store.location(aside), recursive=True)
    for step in steps:
        _move(store, step, aside)
    if ledger:
        take = store.filesystem.copy_file if at else store.filesystem.move
        take(store.location(LEDGER), store.location(f"{aside}/{LEDGER}"))
    what = f"{len(steps)} checkpoint(s), the newest of step {steps[-1]}, are" if steps else f"{LEDGER} is"
    why = "begins anew" if start.begins_anew else f"goes on from {start.name or start.path}"
    notes.info(f"{what} set aside in {store.location(aside)}: an earlier run left them, and this one {why}")
    moved = start.only_model and start.name is not None
    return replace(start, name=f"{aside}/{start.name}") if moved else start


def bring_ledger(store: CheckpointStore, start: Start) -> None:
    """Copies the ledger next to another folder's checkpoint to the run's folder, where it is continued.

    Args:
        store: The run's folder, on a local disk.
        start: Where the run starts.
    """
    if start.begins_anew or start.path is None:
        return
    around, _ = place_of(start.path)
    beside = around.location(LEDGER)
    if around.filesystem.get_file_info(beside).is_file:
        with around.filesystem.open_input_stream(beside) as stream:
            Path(store.location(LEDGER)).write_bytes(stream.read())


def _move(store: CheckpointStore, step: int, folder: str) -> None:
    """Moves a checkpoint; an object store can only copy and delete."""
    name = f"{PREFIX}{step}"
    target = store.location(f"{folder}/{name}")
    if store.is_local:
        store.filesystem.move(store.location(name), target)
        return
    files = store.filesystem
    files.create_dir(target, recursive=True)
    pafs.copy_files(store.location(name), target, source_filesystem=files, destination_filesystem=files)
    store.delete(step)
