"""Encoded datasets that all trials of a search share: blocks in the object store, plans made where they are used."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import xxhash
from ray import cloudpickle

from ray_st.data.batch_source import BatchSource, Planner
from ray_st.data.dataset_stats import DatasetStats
from ray_st.data.encoding import Encoding
from ray_st.runtime.data.block_source import BlockRefs, EpochPlans, RayBatchSource
from ray_st.runtime.data.ingest import default_window_bytes, ingest
from ray_st.training.data.arrangement import Arrangement, arrange, check_ingested, fingerprint
from ray_st.training.data.local_source import feed_with_facts
from ray_st.training.data.specs import LoaderSpec


@dataclass(frozen=True)
class SharedRows:
    """One dataset's encoded rows.

    Args:
        key: What they were encoded with.
        references: The blocks, in order.
        description: What is known of the rows.
    """

    key: str
    references: list[Any]
    description: DatasetStats


@dataclass(frozen=True)
class SharedData:
    """The encoded datasets of a search.

    Args:
        rows: By feed and dataset.
        window_bytes: Most bytes to shuffle at once where the arguments don't say.
    """

    rows: Mapping[tuple[str, str], SharedRows]
    window_bytes: int

    def facts(self) -> dict[str, str]:
        """Number of rows, and a hash of their texts and labels, by feed and dataset."""
        return {
            f"{feed.removesuffix(f':{name}')}.{name}".strip("."): (
                f"{one.description.rows:,} rows ({one.description.fingerprint})"
            )
            for (feed, name), one in self.rows.items()
        }


def share(parts: Mapping[str, LoaderSpec]) -> SharedData:
    """Encodes the datasets of a run once.

    Args:
        parts: The run's datasets, by feed.

    Raises:
        ValueError: If rows cannot be used, or there are too few.
    """
    rows = {}
    for feed, part in parts.items():
        for name, dataset in part.datasets.items():
            blocks = ingest(dataset.source, dataset.encoding, dataset.label)
            rows[feed, name] = SharedRows(
                encoding_key(dataset.encoding), blocks.references, blocks.description
            )
        check_ingested(part, {name: rows[feed, name].description for name in part.datasets})
    return SharedData(rows, default_window_bytes())


def encoding_key(encoding: Encoding) -> str:
    """A digest of what an encoding makes of rows; equal for equal tokenizers, in any process."""
    facts = [encoding.columns, encoding.keep_texts, sorted(encoding.prompts.items()), list(encoding.routes)]
    encoders = [encoding.encoder, *(route.encoder for route in encoding.routes.values())]
    return xxhash.xxh3_64_hexdigest(repr(facts).encode() + b"".join(map(_encoder_state, encoders)))


def _encoder_state(encoder: Any) -> bytes:
    backend = getattr(getattr(encoder, "tokenizer", None), "backend_tokenizer", None)
    if backend is None or not dataclasses.is_dataclass(encoder):
        return bytes(cloudpickle.dumps(encoder))
    # Pickles of equal tokenizers differ; what they were last asked to cut and pad is no part of them.
    state = {k: v for k, v in json.loads(backend.to_str()).items() if k not in ("truncation", "padding")}
    settings = {
        field.name: getattr(encoder, field.name)
        for field in dataclasses.fields(encoder)
        if field.name != "tokenizer"
    }
    return json.dumps([type(encoder).__qualname__, settings, state], sort_keys=True, default=repr).encode()


def feed_here(name: str, part: LoaderSpec, shared: SharedData) -> tuple[BatchSource, dict[str, Any]]:
    """The feed of a trial in this process, and what the order of its samples depends on.

    Args:
        name: The feed's name.
        part: Its datasets.
        shared: The search's rows; where a trial encodes otherwise, it encodes anew.
    """
    shelved = _shelved(name, part, shared)
    if shelved is None:
        return feed_with_facts(part)
    shelves, arrangement, facts = shelved
    planner = Planner(arrangement.sampler, arrangement.epochs, arrangement.usable)
    return RayBatchSource(shelves, planner.steps, planner), facts


def feed_for_workers(
    name: str, part: LoaderSpec, shared: SharedData
) -> tuple[RayBatchSource, dict[str, Any]]:
    """The feed of a trial on several workers: each epoch is planned once for all of them.

    Args:
        name: The feed's name.
        part: Its datasets.
        shared: The search's rows.
    """
    shelved = _shelved(name, part, shared)
    if shelved is None:
        from ray_st.runtime.train.launch import make_feed

        fed = make_feed(part)
        return fed.feed, fed.fingerprint
    shelves, arrangement, facts = shelved
    planner = Planner(arrangement.sampler, arrangement.epochs, arrangement.usable)
    return RayBatchSource(shelves, planner.steps, EpochPlans(planner)), facts


def _shelved(
    name: str, part: LoaderSpec, shared: SharedData
) -> tuple[dict[str, BlockRefs], Arrangement, dict[str, Any]] | None:
    """The shared rows of a feed and how a trial samples them; None where it encodes in another way."""
    found = {dataset: shared.rows.get((name, dataset)) for dataset in part.datasets}
    rows = {dataset: one for dataset, one in found.items() if one is not None}
    if any(
        dataset not in rows or rows[dataset].key != encoding_key(data.encoding)
        for dataset, data in part.datasets.items()
    ):
        return None
    part = dataclasses.replace(part, window_bytes=part.window_bytes or shared.window_bytes)
    ingested = {dataset: one.description for dataset, one in rows.items()}
    arrangement = arrange(part, ingested)
    shelves = {
        dataset: BlockRefs(
            one.references, one.description.block_rows, part.datasets[dataset].encoding.columns, resident
        )
        for (dataset, one), resident in zip(rows.items(), arrangement.resident, strict=True)
    }
    return shelves, arrangement, fingerprint(part, ingested)
