"""Encoded datasets that all trials of a search share: blocks in the object store, plans made where used."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import xxhash
from ray import cloudpickle

from ray_st.data.encoding import Encoding
from ray_st.data.token_cache import CacheUse, TokenCache
from ray_st.models.tokens import TokenEncoder
from ray_st.runtime.data.block_source import RayBatchSource
from ray_st.runtime.data.cluster_source import build_of_blocks, build_on_cluster
from ray_st.runtime.data.ingest import EncodedBlocks, check_windows, ingest
from ray_st.training.data.arrangement import check_stats
from ray_st.training.data.local_source import build_here
from ray_st.training.data.source_builder import BuiltSource
from ray_st.training.data.specs import LoaderSpec
from ray_st.util.events import notes
from ray_st.util.states import UnknownState, state_of


@dataclass(frozen=True)
class SharedRows:
    """One dataset's encoded rows.

    Args:
        key: What they were encoded with.
        blocks: The rows.
    """

    key: str
    blocks: EncodedBlocks


@dataclass(frozen=True)
class SharedData:
    """The encoded datasets of a search.

    Args:
        rows: By batch source and dataset.
    """

    rows: Mapping[tuple[str, str], SharedRows]

    def facts(self) -> dict[str, str]:
        """Number of rows, and a hash of their texts and labels, by batch source and dataset."""
        return {
            f"{source.removesuffix(f':{name}')}.{name}".strip("."): (
                f"{one.blocks.stats.rows:,} rows ({one.blocks.stats.fingerprint})"
            )
            for (source, name), one in self.rows.items()
        }


def share(specs: Mapping[str, LoaderSpec], cache: TokenCache | None = None) -> SharedData:
    """Encodes the datasets of a run once.

    Args:
        specs: The run's datasets, by batch source.
        cache: Where encoded rows are kept for other runs; None for nowhere.

    Raises:
        ValueError: If rows cannot be used, or there are too few.
    """
    rows = {}
    for source, spec in specs.items():
        for name, dataset in spec.datasets.items():
            blocks = ingest(dataset.source, dataset.encoding, dataset.label, cache)
            rows[source, name] = SharedRows(encoding_key(dataset.encoding), blocks)
        stats = {name: rows[source, name].blocks.stats for name in spec.datasets}
        check_stats(spec, stats)
        check_windows(stats, spec.window_rows)
    if cache is not None:
        notes.info(cache.finish(CacheUse.joined(one.blocks.cache_use for one in rows.values())))
    return SharedData(rows)


def encoding_key(encoding: Encoding) -> str:
    """A digest of what an encoding makes of rows; equal for equal tokenizers, in any process."""
    return xxhash.xxh3_64_hexdigest(encoding.state(_encoder_state).encode())


def _encoder_state(encoder: object) -> str:
    """What an encoder tells, or its pickle: if that differs between processes, a trial encodes anew.

    Code is the same in all processes of a search, so that the name of a user's own class is enough here.
    """
    with suppress(UnknownState):
        return state_of(encoder)
    with suppress(UnknownState):
        if isinstance(encoder, TokenEncoder):
            settings = {name: value for name, value in encoder.__getstate__().items() if name != "tokenizer"}
            tokenizer = TokenEncoder(encoder.tokenizer).state()
            return repr([type(encoder).__qualname__, sorted(settings.items()), tokenizer])
    return repr(cloudpickle.dumps(encoder))


def source_here(name: str, spec: LoaderSpec, shared: SharedData) -> BuiltSource[Any]:
    """The batch source of a trial in this process.

    Args:
        name: The source's name.
        spec: Its datasets.
        shared: The search's rows; where a trial encodes otherwise, it encodes anew.
    """
    blocks = _shared_blocks(name, spec, shared)
    if blocks is None:
        return build_here(spec)
    return build_of_blocks(spec, blocks, lambda planner: planner, first_epoch=False)


def source_for_workers(name: str, spec: LoaderSpec, shared: SharedData) -> BuiltSource[RayBatchSource]:
    """The batch source of a trial on several workers: each epoch is planned once for all of them.

    Args:
        name: The source's name.
        spec: Its datasets.
        shared: The search's rows; where a trial encodes otherwise, it encodes anew.
    """
    blocks = _shared_blocks(name, spec, shared)
    if blocks is None:
        return build_on_cluster(spec)
    return build_of_blocks(spec, blocks, first_epoch=False)


def _shared_blocks(name: str, spec: LoaderSpec, shared: SharedData) -> dict[str, EncodedBlocks] | None:
    """The shared rows of a source's datasets; None where a trial encodes one of them in another way."""
    found = {dataset: shared.rows.get((name, dataset)) for dataset in spec.datasets}
    blocks = {
        dataset: one.blocks
        for dataset, one in found.items()
        if one is not None and one.key == encoding_key(spec.datasets[dataset].encoding)
    }
    return blocks if len(blocks) == len(found) else None
