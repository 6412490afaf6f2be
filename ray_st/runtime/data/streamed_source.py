"""Builds batch sources of data that is encoded while training goes on, window by window."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import ray
import ray.data

from ray_st.data import segments
from ray_st.data.catalogue import Catalogue
from ray_st.data.located import read_located
from ray_st.data.sources import Part, as_source
from ray_st.data.stream_planner import StreamPlanner
from ray_st.data.token_cache import BlockEncoder
from ray_st.runtime.data.block_source import BlockRefs, RayBatchSource
from ray_st.runtime.data.counting import count_rows
from ray_st.runtime.data.encoded_segments import EncodedSegments, Places, segment_stores
from ray_st.runtime.data.ingest import beside_workers, check_windows, object_stores, on_this_machine
from ray_st.runtime.data.window_actor import WindowPlans
from ray_st.training.data.arrangement import Arrangement, arrange_windows, check_counts, plans_windows
from ray_st.training.data.source_builder import BuiltSource
from ray_st.training.data.specs import DatasetSpec, LoaderSpec
from ray_st.util.events import notes

_KEPT_SHARE = 0.25
_ROOM_SHARE = 0.3
"""Of the stores, for what is planned and what is encoded ahead; the window before lies beside it."""
_AT_ONCE = 32
_TELL_EVERY_S = 10


def seekable_parts(dataset: DatasetSpec) -> list[Part] | None:
    """The parts of a dataset whose rows are counted and can be read from anywhere; None if some are not.

    Rows of text files are counted now. Compressed ones, JSON lists, queries, streams, lists of rows and Ray
    Datasets must be read from their start.

    Args:
        dataset: The dataset.

    Raises:
        SourceError: If a file cannot be read.
    """
    parts = _countable_parts(dataset)
    return None if parts is None else _counted(parts, dataset)


def streamed_parts(spec: LoaderSpec) -> dict[str, list[Part]] | None:
    """The parts of each dataset, if a run can begin before all of them are encoded; None otherwise.

    That is so where windows are planned one by one, and the parts of every dataset are seekable. Others are
    encoded first, and give the same order.

    Args:
        spec: The datasets.

    Raises:
        SourceError: If a file cannot be read.
    """
    if not spec.streams:
        return None
    found: dict[str, list[Part]] = {}
    for name, dataset in spec.datasets.items():
        parts = _countable_parts(dataset)
        if parts is None:
            return None
        found[name] = parts
    for name, parts in found.items():  # once all can be: a pass over large text files takes its time
        counted = _counted(parts, spec.datasets[name])
        if counted is None:
            return None
        found[name] = counted
    rows = {name: sum(part.count() for part in parts) for name, parts in found.items()}
    return found if plans_windows(spec, rows) else None


def _countable_parts(dataset: DatasetSpec) -> list[Part] | None:
    """The parts of a dataset if their rows are counted, or can be by one pass; None otherwise."""
    if isinstance(dataset.source, ray.data.Dataset):
        return None
    parts = as_source(dataset.source, dataset.label).parts(list(dataset.encoding.columns.names))
    return parts if all(part.seekable or part.uncounted for part in parts) else None


def _counted(parts: Sequence[Part], dataset: DatasetSpec) -> list[Part] | None:
    """The parts with their rows counted; None for a JSON list, which only shows when it is opened."""
    counted = count_rows(parts, dataset.label)
    return counted if all(part.seekable for part in counted) else None


def encode_segments(spec: LoaderSpec, dataset: DatasetSpec, parts: Sequence[Part]) -> EncodedSegments:
    """Encodes all rows of a dataset into its token cache, a bounded number at a time.

    Args:
        spec: The datasets.
        dataset: The one.
        parts: Its parts, from :func:`seekable_parts`.

    Returns:
        The rows; they know what was seen of them.

    Raises:
        ValueError: If rows are unusable.
    """
    rows = _encoded(spec, dataset, parts, bound=0, room=None)
    total, done, told = len(rows.segment_rows), 0, time.monotonic()
    for start in range(0, total, _AT_ONCE):
        rows.ahead(np.arange(start, min(start + 2 * _AT_ONCE, total)))
        done += rows.sample(range(start, min(start + _AT_ONCE, total))).rows
        if time.monotonic() - told >= _TELL_EVERY_S:
            told = time.monotonic()
            notes.info(f"{dataset.label}: {done:,} of {sum(rows.segment_rows):,} rows encoded")
    return rows


def build_streamed(spec: LoaderSpec, parts: Mapping[str, Sequence[Part]]) -> BuiltSource[RayBatchSource]:
    """Builds a batch source whose first window is encoded now.

    Args:
        spec: The datasets.
        parts: Each dataset's parts, from :func:`streamed_parts`.

    Raises:
        ValueError: If rows of the first window are unusable, or there are too few rows.
    """
    store = sum(object_stores()) / len(parts)
    bound, room = int(_KEPT_SHARE * store), int(_ROOM_SHARE * store)
    rows = {name: _encoded(spec, spec.datasets[name], own, bound, room) for name, own in parts.items()}
    counts = {name: sum(given.segment_rows) for name, given in rows.items()}
    check_counts(spec, counts)
    arrangement = arrange_windows(spec, rows)
    planner = arrangement.planner
    assert isinstance(planner, StreamPlanner)
    source = RayBatchSource(_refs(spec, rows, arrangement), WindowPlans(planner, rows))
    stats = {
        name: given.sample(planner.first_segments(number))
        for number, (name, given) in enumerate(rows.items())
    }
    check_windows(stats, spec.window_rows, counts)
    return BuiltSource(source, spec, stats, arrangement, source.piece(0, 0), streams=True)


def _refs(
    spec: LoaderSpec, rows: Mapping[str, EncodedSegments], arrangement: Arrangement
) -> dict[str, BlockRefs]:
    return {
        name: BlockRefs({}, tuple(given.segment_rows), spec.datasets[name].encoding.columns, resident)
        for (name, given), resident in zip(rows.items(), arrangement.resident, strict=True)
    }


def _encoded(
    spec: LoaderSpec, dataset: DatasetSpec, parts: Sequence[Part], bound: int, room: int | None
) -> EncodedSegments:
    encoder = BlockEncoder.of(dataset.encoding, spec.token_cache, dataset.label)
    places: Places
    options: Callable[[], dict[str, Any]] = beside_workers
    if any(part.held for part in parts):
        places = segment_stores((table for part in parts for table in read_located(part)), segments.ROWS)
    else:
        places = Catalogue(parts, segments.ROWS)
        if any(part.local for part in parts):
            options = partial(dict, on_this_machine())
    return EncodedSegments(places, encoder, dataset.label, spec.skip_bad_rows, bound, room, options)
