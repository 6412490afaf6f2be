"""Builds batch sources from encoded blocks in the object store, new or shared by the trials of a search."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from ray_st.data import segments
from ray_st.data.batch_source import PiecePlanner
from ray_st.data.token_cache import CacheUse, TokenCache
from ray_st.runtime.data.block_source import BlockRefs, EpochPlans, RayBatchSource
from ray_st.runtime.data.ingest import EncodedBlocks, check_windows, ingest
from ray_st.runtime.data.streamed_source import (
    build_streamed,
    encode_segments,
    seekable_parts,
    streamed_parts,
)
from ray_st.training.data.arrangement import Arrangement, check_contents, check_counts
from ray_st.training.data.source_builder import BuiltSource, build_source
from ray_st.training.data.specs import LoaderSpec


def build_on_cluster(spec: LoaderSpec) -> BuiltSource[RayBatchSource]:
    """Encodes datasets on the cluster and plans their first batches.

    Where windows are planned one by one and rows can be read from anywhere, only the first window is encoded
    now; the others follow while training goes on.

    Args:
        spec: The datasets.

    Raises:
        ValueError: If rows are unusable, or there are too few.
    """
    parts = streamed_parts(spec)
    if parts is not None:
        return build_streamed(spec, parts)
    blocks = {
        name: ingest(dataset.source, dataset.encoding, dataset.label, spec.token_cache)
        for name, dataset in spec.datasets.items()
    }
    check_windows({name: encoded.stats for name, encoded in blocks.items()}, spec.window_rows)
    return build_of_blocks(spec, blocks)


def encode_ahead(specs: Mapping[str, LoaderSpec], cache: TokenCache) -> CacheUse:
    """Encodes datasets into a token cache, one after the other.

    Args:
        specs: The datasets, by the name of their batch source.
        cache: The cache.

    Returns:
        What the cache was used for.

    Raises:
        ValueError: If rows are unusable, or there are too few.
    """
    uses = []
    for spec in (replace(given, token_cache=cache) for given in specs.values()):
        stats, counts = {}, {}
        for name, dataset in spec.datasets.items():
            parts = seekable_parts(dataset)
            if parts is not None:
                rows = encode_segments(spec, dataset, parts)
                counts[name] = sum(rows.segment_rows)
                uses.append(rows.seen().cache_use)
            else:
                blocks = ingest(dataset.source, dataset.encoding, dataset.label, cache)
                uses.append(blocks.cache_use)
                stats[name], counts[name] = blocks.stats, len(blocks.stats.keys)
        check_contents(spec, stats)
        check_counts(spec, counts)
    return CacheUse.joined(uses)


def build_of_blocks(
    spec: LoaderSpec,
    blocks: Mapping[str, EncodedBlocks],
    epochs_of: Callable[[PiecePlanner], PiecePlanner] = EpochPlans,
    first_epoch: bool = True,
) -> BuiltSource[RayBatchSource]:
    """Builds a batch source from blocks in the object store.

    Args:
        spec: The datasets.
        blocks: Their encoded blocks, by name.
        epochs_of: Chooses where epochs are planned; by default once for all ranks.
        first_epoch: As for :func:`ray_st.training.data.source_builder.build_source`.

    Raises:
        ValueError: If rows are unusable, or there are too few.
    """

    def source_of(arrangement: Arrangement) -> RayBatchSource:
        refs = {
            name: BlockRefs(
                dict(enumerate(encoded.references)),
                encoded.stats.block_rows,
                spec.datasets[name].encoding.columns,
                None if held is None else held * segments.most_blocks(encoded.stats.block_rows),
            )
            for (name, encoded), held in zip(blocks.items(), arrangement.resident, strict=True)
        }
        return RayBatchSource(refs, epochs_of(arrangement.planner))

    stats = {name: encoded.stats for name, encoded in blocks.items()}
    use = CacheUse.joined(encoded.cache_use for encoded in blocks.values())
    return build_source(spec, stats, source_of, first_epoch, use)
