"""A trainer inside a user's own ``train_loop_per_worker``.

Provides its context in that worker, with the data available there.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import datasets
import pyarrow as pa
import ray
import ray.train
from ray.data import DataIterator
from ray.train import ScalingConfig

from ray_st.data.token_cache import BlockEncoder
from ray_st.runtime.cluster.granted_device import take_granted_device
from ray_st.runtime.train.worker import CheckpointReport, world_of_worker
from ray_st.training.checkpoint.node_copy import fetched, own_start
from ray_st.training.checkpoint.resume import NEW_RUN, Start, check_fingerprint, check_model, find_checkpoint
from ray_st.training.checkpoint.store import CheckpointError, CheckpointStore
from ray_st.training.data.dataset_specs import RayDataset, is_mixture, prompt_lengths
from ray_st.training.data.local_source import rows_of
from ray_st.training.data.source_builder import build_in_memory, facts_of, sources_of
from ray_st.training.data.specs import TRAIN, DatasetSpec, LoaderSpec, eval_names
from ray_st.training.distributed.collectives import broadcast_object, current_world, gather_objects
from ray_st.training.worker_context import WorkerContext
from ray_st.world import World

_made = itertools.count()


def find_context() -> WorkerContext | None:
    """The context of this process, without data, if it is a Ray Train worker; else None.

    Checkpoints go to the run's folder. A restarted worker creates the same trainers in the same order, so
    the index of a trainer identifies its checkpoints.

    Raises:
        ValueError: If the workers have no process group.
    """
    try:
        storage = ray.train.get_context().get_storage()
    except RuntimeError:  # raised by Ray outside a worker; in local mode, its subclass NotImplementedError
        return None
    world = world_of_worker()
    if current_world().size != world.size:
        raise ValueError(
            f"This is one of {world.size} workers of Ray Train without a process group of torch: start them "
            "with a TorchTrainer."
        )
    take_granted_device()
    store = CheckpointStore(storage.experiment_fs_path, storage.storage_filesystem, f"in-place-{next(_made)}")
    return WorkerContext(world, store, report=CheckpointReport(store))


def scaling_of_local_mode() -> ScalingConfig | None:
    """``num_workers=0`` if Ray Train runs the user's loop in this process (local mode); else None."""
    try:
        ray.train.get_context().get_storage()
    except RuntimeError as error:
        return ScalingConfig(num_workers=0) if isinstance(error, NotImplementedError) else None
    return None


def start(
    context: WorkerContext,
    wanted: str | bool | None,
    weights: str,
    ignore_data_skip: bool = False,
    only_model: bool = False,
) -> Start:
    """The checkpoint that a trainer starts from, fetched to this machine.

    A worker restarted by Ray Train resumes from the newest checkpoint of this trainer, whatever the user
    requested.

    Args:
        context: The worker's context.
        wanted: The user's choice: a folder, or True for the run's newest checkpoint if there is one.
        weights: Description of the model's weights.
        ignore_data_skip: Whether the data may differ from the checkpoint's.
        only_model: Whether to start a new run from the checkpoint's weights.

    Raises:
        CheckpointError: If there is no checkpoint, or it is for a different model or different data.
    """
    store, world = context.store, context.world
    own = own_start(store, world) if ray.train.get_checkpoint() is not None else None
    found = own or _chosen(store, world, wanted, only_model)
    check_model(found, weights)
    if not ignore_data_skip:
        check_fingerprint(found, context.facts)
    return own or fetched(store, found, world)


def _chosen(store: CheckpointStore, world: World, wanted: str | bool | None, only_model: bool) -> Start:
    """The checkpoint that a user requested, as the first rank finds it; raises on every rank."""
    found: Start | CheckpointError = NEW_RUN
    if world.is_first:
        try:
            found = find_checkpoint(store, wanted, only_model, optional=True)
        except CheckpointError as error:
            found = error
    found = broadcast_object(found)
    if isinstance(found, CheckpointError):
        raise found
    return found


# ---- data ----


def gathered(dataset: Any) -> Any:
    """A dataset, or a dict of datasets, with each ``get_dataset_shard`` shard replaced by all ranks' rows.

    Every rank must call it. Ranks share the rows through the object store: the global batches are planned
    over all rows, as if the driver had been given the whole dataset.

    Args:
        dataset: What the user passed to the trainer.

    Raises:
        ValueError: If it is a Ray Dataset: each rank would read all of it separately.
    """
    if is_mixture(dataset):
        return {name: gathered(part) for name, part in dataset.items()}
    if isinstance(dataset, Mapping):  # a dict of columns; transformers would take it for several datasets
        return datasets.Dataset.from_dict(dict(dataset))
    if isinstance(dataset, DataIterator):
        whole: Any = None  # None keeps each block as it is
        batches = dataset.iter_batches(batch_size=whole, batch_format="pyarrow")
        return _concatenated([table for table in batches if len(table)])
    if isinstance(dataset, RayDataset):
        raise ValueError(
            "Inside a worker of Ray Train, a Ray Dataset comes as a shard: give it to the TorchTrainer, "
            'datasets={"train": ...}, and ray.train.get_dataset_shard("train") to this trainer.'
        )
    return dataset


def with_sources(context: WorkerContext, specs: Mapping[str, LoaderSpec]) -> WorkerContext:
    """A worker context with the batch sources of a run; every rank must call it.

    Args:
        context: The context.
        specs: The run's datasets, by the name of their batch source; their rows are identical on every rank.

    Raises:
        ValueError: If rows are unusable.
    """

    def encoded(dataset: DatasetSpec, encoder: BlockEncoder) -> list[pa.Table]:
        """All rows in one block; each rank encodes its share."""
        rows = rows_of(dataset)
        share = context.world.share(len(rows))
        mine = rows.slice(share.start, share.stop - share.start)
        return [_concatenated([encoder(mine)])]

    built = {name: build_in_memory(spec, encoded) for name, spec in specs.items()}
    sources = sources_of(built)
    return dataclasses.replace(
        context,
        train=sources.get(TRAIN, context.train),
        evals=eval_names(sources),
        prompt_lengths={**context.prompt_lengths, **prompt_lengths(specs)},
        facts=facts_of(built) or dict(context.facts),
    )


def _concatenated(mine: list[pa.Table]) -> pa.Table:
    """The rows of all ranks, in rank order, memory-mapped from the object store."""
    reference = ray.put(pa.concat_tables(mine) if mine else None)
    pickled = gather_objects(ray.cloudpickle.dumps(reference))
    tables = ray.get([ray.cloudpickle.loads(one) for one in pickled])
    return pa.concat_tables([table for table in tables if table is not None])
