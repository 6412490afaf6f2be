"""Batch sources: from encoded rows to ordered batches, wherever the rows are stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

import pyarrow as pa

from ray_st.data.batch_source import BatchSource, MemoryBatchSource
from ray_st.data.dataset_stats import DatasetStats, describe_blocks
from ray_st.data.encoded_dataset import EncodedDataset
from ray_st.data.plan import Piece
from ray_st.data.token_cache import BlockEncoder, CacheUse
from ray_st.training.data.arrangement import Arrangement, arrange, check_stats, fingerprint, summary
from ray_st.training.data.specs import TRAIN, DatasetSpec, LoaderSpec

AnySource = TypeVar("AnySource", bound=BatchSource)


@dataclass(frozen=True)
class BuiltSource(Generic[AnySource]):
    """A batch source with statistics of its data.

    Args:
        source: The source of the batches.
        spec: The datasets that it was built from.
        stats: Statistics of each dataset's rows, by name.
        arrangement: How the rows are sampled.
        first: The batches of the first epoch, or of its first window; None if they were not requested.
        cache_use: What a token cache was used for.
        streams: Whether most rows are encoded while training goes on; statistics are then those of the first
            window.
    """

    source: AnySource
    spec: LoaderSpec
    stats: Mapping[str, DatasetStats]
    arrangement: Arrangement
    first: Piece | None
    cache_use: CacheUse = CacheUse()  # noqa: RUF009  frozen
    streams: bool = False

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """Everything the sample order depends on."""
        return fingerprint(self.spec, self.stats, self.arrangement, self.first)

    @cached_property
    def summary(self) -> list[str]:
        """A description of the batches for the user, one fact per line."""
        piece = self.source.piece(0, 0) if self.first is None else self.first
        return summary(self.spec, self.stats, self.arrangement, piece)

    @property
    def faults(self) -> dict[str, tuple[tuple[int, str], ...]]:
        """For each dataset, the unusable rows that were left out."""
        return {name: stats.faults for name, stats in self.stats.items()}


def build_source(
    spec: LoaderSpec,
    stats: Mapping[str, DatasetStats],
    source_of: Callable[[Arrangement], AnySource],
    first_epoch: bool = True,
    cache_use: CacheUse = CacheUse(),  # noqa: B008  frozen
) -> BuiltSource[AnySource]:
    """Builds a batch source of datasets whose rows are encoded.

    Args:
        spec: The datasets.
        stats: Statistics of their rows, by name.
        source_of: Creates the source from the arrangement.
        first_epoch: Whether to plan the first batches now; their hash is then part of the fingerprint.
        cache_use: What a token cache was used for.

    Raises:
        ValueError: If rows cannot be used, or there are too few.
    """
    check_stats(spec, stats)
    arrangement = arrange(spec, stats)
    first = arrangement.planner.piece(0, 0) if first_epoch else None
    return BuiltSource(source_of(arrangement), spec, stats, arrangement, first, cache_use)


def build_in_memory(
    spec: LoaderSpec, encode: Callable[[DatasetSpec, BlockEncoder], list[pa.Table]]
) -> BuiltSource[MemoryBatchSource]:
    """Builds a batch source whose encoded rows are in this process's memory.

    Args:
        spec: The datasets.
        encode: Returns the encoded blocks of a dataset, in order, each made by the encoder.

    Raises:
        ValueError: If rows cannot be used, or there are too few.
    """
    encoders = {
        name: BlockEncoder.of(dataset.encoding, spec.token_cache, dataset.label)
        for name, dataset in spec.datasets.items()
    }
    blocks = {name: encode(dataset, encoders[name]) for name, dataset in spec.datasets.items()}
    use = CacheUse.joined(encoders[name].use(encoded) for name, encoded in blocks.items())
    columns = {name: dataset.encoding.columns for name, dataset in spec.datasets.items()}
    rows = {name: EncodedDataset(encoded, columns[name]) for name, encoded in blocks.items()}
    stats = {name: describe_blocks(encoded, columns[name]) for name, encoded in blocks.items()}
    return build_source(
        spec, stats, lambda arrangement: MemoryBatchSource(rows, arrangement.planner), cache_use=use
    )


def facts_of(built: Mapping[str, BuiltSource[Any]]) -> dict[str, Any]:
    """Everything the order of training samples depends on; empty for a run that does not train."""
    return built[TRAIN].fingerprint if TRAIN in built else {}


def cache_use_of(built: Mapping[str, BuiltSource[Any]]) -> CacheUse:
    """What a token cache was used for by all sources together."""
    return CacheUse.joined(one.cache_use for one in built.values())


def sources_of(built: Mapping[str, BuiltSource[AnySource]]) -> dict[str, AnySource]:
    """The sources alone."""
    return {name: one.source for name, one in built.items()}
