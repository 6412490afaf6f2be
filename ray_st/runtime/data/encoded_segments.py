"""A dataset's segments, encoded by tasks in the order in which a planner asks for them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import ray

from ray_st.data.catalogue import Span, read_together
from ray_st.data.column_spec import check_lengths
from ray_st.data.dataset_stats import DatasetStats, describe_blocks
from ray_st.data.faults import check_faults
from ray_st.data.keys import Keys
from ray_st.data.plan import Indices
from ray_st.data.token_cache import BlockEncoder, CacheUse
from ray_st.runtime.cluster.connection import resources
from ray_st.runtime.cluster.handles import result_of
from ray_st.runtime.cluster.pickled import Carried

_LISTED_FAULTS = 10_000
_MOST_TOGETHER = 8  # segments of a task: if it is lost, all are encoded again


class Places(Protocol):
    """Where the rows of a dataset's segments are."""

    @property
    def segment_rows(self) -> Sequence[int]:
        """Number of rows of each segment."""

    def start(self, segment: int) -> int:
        """Number of the first row of a segment."""

    def together(self, chosen: Sequence[int], most: int) -> list[list[int]]:
        """Groups of segments to read by one pass each; those of more than one are a single span each."""

    def spans(self, segment: int) -> Sequence[Span | ray.ObjectRef[Any]]:
        """What its rows are read from: spans of files, or tables in the object store."""


@dataclass(frozen=True)
class StoredRows:
    """Rows that the driver held, put into the object store segment by segment.

    Args:
        tables: References to the segments.
        segment_rows: Number of rows of each.
    """

    tables: Sequence[ray.ObjectRef[Any]]
    segment_rows: Sequence[int]

    def start(self, segment: int) -> int:
        """Number of the first row of a segment."""
        return segment * self.segment_rows[0]

    def together(self, chosen: Sequence[int], most: int) -> list[list[int]]:
        """Each segment by itself."""
        return [[one] for one in chosen]

    def spans(self, segment: int) -> list[ray.ObjectRef[Any]]:
        """The segment's table."""
        return [self.tables[segment]]


@dataclass(frozen=True)
class Seen:
    """What became known of a dataset's rows while they were encoded.

    Args:
        faults: For each unusable row, its number and what is wrong with it; the first ones if there are many.
        unusable: Number of unusable rows.
        cache_use: What a token cache was used for.
    """

    faults: tuple[tuple[int, str], ...] = ()
    unusable: int = 0
    cache_use: CacheUse = field(default_factory=CacheUse)


@dataclass
class _Segment:
    block: ray.ObjectRef[Any]
    facts: ray.ObjectRef[Any]
    size: int = 0


class EncodedSegments:
    """The rows of a dataset for a planner that goes through them window by window.

    Encoded segments stay in the object store up to a bound; beyond it, those that were not used for longest
    are given up, and encoded again (or read from the token cache) when they are needed again.

    Args:
        places: Where the rows are.
        encoder: Encodes them.
        label: Name of the dataset in error messages.
        skip_bad_rows: Whether to skip unusable rows; otherwise the first one is an error.
        bound: Bytes of encoded segments to keep.
        room: Bytes that segments in use, and those that are encoded ahead of their use, may take together;
            None for no limit.
        options: Makes Ray's options of a task that encodes a segment.
    """

    def __init__(
        self,
        places: Places,
        encoder: BlockEncoder,
        label: str,
        skip_bad_rows: bool,
        bound: int,
        room: int | None,
        options: Any,
    ) -> None:
        self._places, self._label, self._skips = places, label, skip_bad_rows
        self._columns, self._checks_lengths = encoder.encoding.columns, encoder.encoding.encoder is not None
        self._encoder = ray.put(Carried(encoder))
        self._bound, self._room, self._options = bound, room, options
        self._segments: OrderedDict[int, _Segment] = OrderedDict()
        self._before: set[int] = set()  # rows of it may have been carried over into what is in use now
        self._now: set[int] = set()
        self._next: set[int] = set()
        self._faults: dict[int, tuple[tuple[int, str], ...]] = {}
        self._lengths: dict[int, int] = {}
        self._uses: dict[int, CacheUse] = {}
        self.segment_rows = places.segment_rows

    def ahead(self, chosen: Indices) -> None:
        """Starts to encode segments that are needed next, as many of them as there is room for."""
        wanted = chosen.tolist()[: self._fitting()]
        self._next = set(wanted)
        self._start(wanted)

    def usable(self, chosen: Indices) -> tuple[Indices, Keys]:
        """Numbers and keys of the usable rows of some segments, in the order of these.

        Raises:
            RowError: If a row is unusable, unless such rows are skipped.
            ColumnError: If labels are lists of different lengths.
        """
        stats = self.sample(chosen.tolist())
        return stats.usable, stats.keys

    def sample(self, chosen: Sequence[int]) -> DatasetStats:
        """Statistics of some segments."""
        self._before, self._now = self._now, set(chosen)
        self._trim()
        described = self._described(chosen)
        return DatasetStats.joined(described, [self._places.start(one) for one in chosen])

    def references(self, wanted: Iterable[int]) -> Mapping[int, ray.ObjectRef[Any]]:
        """The blocks of some segments."""
        chosen = list(wanted)
        self._start(chosen)
        return {one: self._segments[one].block for one in chosen}

    def seen(self) -> Seen:
        """What became known of the rows so far."""
        unusable = sum(map(len, self._faults.values()))
        listed = [fault for one in sorted(self._faults) for fault in self._faults[one]][:_LISTED_FAULTS]
        return Seen(tuple(listed), unusable, CacheUse.joined(self._uses.values()))

    def _fitting(self) -> int | None:
        """How many segments fit beside those in use; None if all do."""
        sizes = [segment.size for segment in self._segments.values() if segment.size]
        if self._room is None or not sizes:
            return None
        return max(int(self._room * len(sizes) / sum(sizes)) - len(self._now), 0)

    def _described(self, chosen: Sequence[int]) -> list[DatasetStats]:
        self._start(chosen)
        found = result_of([self._segments[one].facts for one in chosen])
        for one, (stats, use) in zip(chosen, found, strict=True):
            self._segments[one].size = stats.size
            self._note(one, stats, use)
        return [stats for stats, _ in found]

    def _note(self, segment: int, stats: DatasetStats, use: CacheUse) -> None:
        start = self._places.start(segment)
        faults = tuple((row + start, reason) for row, reason in stats.faults)
        if faults and not self._skips:
            check_faults(faults, self.segment_rows[segment], self._label)
        if faults:
            self._faults[segment] = faults
        self._uses.setdefault(segment, use)
        if self._checks_lengths:
            for length, row in stats.label_lengths:
                self._lengths.setdefault(length, row + start)
            check_lengths(self._columns, tuple(sorted(self._lengths.items())), self._label)

    def _start(self, chosen: Sequence[int]) -> None:
        missing = [one for one in chosen if one not in self._segments]
        options = self._options() if missing else {}
        cpus = int(resources(here=False).get("CPU", 1)) if missing else 1
        # No fewer tasks than CPUs: a pass in vain costs less than a CPU that waits.
        most = min(max(len(missing) // max(cpus, 1), 1), _MOST_TOGETHER)
        for group in self._places.together(missing, most) if missing else ():
            work = _encoded if len(group) == 1 else _encoded_together
            encode = _as_task(work).options(num_returns=2 * len(group), **options)
            made = encode.remote(
                [self._encoder], *(span for one in group for span in self._places.spans(one))
            )
            for one, block, facts in zip(group, made[::2], made[1::2], strict=True):
                self._segments[one] = _Segment(block, facts)
        for one in chosen:
            self._segments.move_to_end(one)

    def _trim(self) -> None:
        excess = sum(segment.size for segment in self._segments.values()) - self._bound
        for one in list(self._segments):
            if excess <= 0:
                return
            if one not in self._before and one not in self._now and one not in self._next:
                excess -= self._segments.pop(one).size


def _encoded(encoder: list[ray.ObjectRef[Any]], *spans: Span | pa.Table) -> tuple[pa.Table, Any]:
    """A segment, and its statistics with what the cache was used for; runs as a task."""
    encode = _opened(encoder[0])
    tables = [table for span in spans for table in (span.read() if isinstance(span, Span) else [span])]
    block = encode(pa.concat_tables(tables))
    return block, (describe_blocks([block], encode.encoding.columns), encode.use([block]))


def _encoded_together(encoder: list[ray.ObjectRef[Any]], *spans: Span) -> Iterator[Any]:
    """What :func:`_encoded` returns, for each of several segments that are a span each; runs as a task."""
    for tables in read_together(spans):
        yield from _encoded(encoder, *tables)


@cache
def _as_task(work: Callable[..., Any]) -> Any:
    """A function as a task of Ray, made once: each time it is made it is a kind of task of its own to Ray."""
    return ray.remote(work)


@lru_cache(maxsize=8)
def _opened(encoder: ray.ObjectRef[Any]) -> BlockEncoder:
    """The encoder, unpickled once by each process."""
    opened: BlockEncoder = ray.get(encoder).value
    return opened


def segment_stores(tables: Iterable[pa.Table], rows: int) -> StoredRows:
    """Puts rows into the object store, segment by segment.

    Args:
        tables: The rows, in order.
        rows: Rows of a segment.
    """
    references, counts, held = [], [], []
    for table in tables:
        held.append(table)
        while sum(map(len, held)) >= rows:
            whole = pa.concat_tables(held)
            references.append(ray.put(whole.slice(0, rows)))
            counts.append(rows)
            held = [whole.slice(rows)]
    rest = pa.concat_tables(held) if held else None
    if rest is not None and len(rest):
        references.append(ray.put(rest))
        counts.append(len(rest))
    return StoredRows(references, counts)


def chosen_of(rows: Indices, segment_rows: Sequence[int]) -> list[int]:
    """The segments that hold some rows, which are numbered from the first row of the dataset."""
    return np.unique(np.searchsorted(np.cumsum(segment_rows), rows, side="right")).tolist()
