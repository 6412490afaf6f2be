"""What is kept about a dataset after its rows are encoded: keys, usable rows, sizes, but no rows."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from ray_st.data import segments
from ray_st.data.column_spec import ColumnSpec
from ray_st.data.encoding import FAULT, TRUNCATED, keys_of_blocks
from ray_st.data.keys import Keys
from ray_st.data.plan import Indices
from ray_st.util.arrow import is_list


@dataclass(frozen=True)
class DatasetStats:
    """Statistics of an encoded dataset.

    Args:
        keys: Keys of the usable rows.
        usable: (n,) row number of each usable row among all rows.
        block_rows: Rows in each block, including unusable ones.
        size: Total bytes of all blocks.
        truncated: Number of rows with a text that reaches the model's maximum input length.
        faults: For each unusable row, its number and what is wrong with it.
        fingerprints: For each segment, a hash of its usable rows' texts and labels, in order.
        label_lengths: If labels are lists, the lengths that occur among usable rows, each with the first row
            that has it.
    """

    keys: Keys
    usable: Indices
    block_rows: tuple[int, ...]
    size: int
    truncated: int
    faults: tuple[tuple[int, str], ...]
    fingerprints: tuple[str, ...]
    label_lengths: tuple[tuple[int, int], ...] = ()

    @property
    def rows(self) -> int:
        """Number of all rows, including unusable ones."""
        return sum(self.block_rows)

    @property
    def fingerprint(self) -> str:
        """Hash of all usable rows' texts and labels, in order."""
        return fingerprint_of(self.fingerprints)

    @staticmethod
    def joined(parts: Sequence[DatasetStats], starts: Sequence[int]) -> DatasetStats:
        """The statistics of several segments of one dataset together; keys without labels.

        Args:
            parts: Those of each segment.
            starts: The number of its first row.
        """
        placed = list(zip(parts, starts, strict=True))
        lengths = {
            length: row + start for part, start in reversed(placed) for length, row in part.label_lengths
        }
        return DatasetStats(
            keys=Keys.joined([part.keys for part in parts]),
            usable=np.concatenate([part.usable + start for part, start in placed]),
            block_rows=tuple(rows for part in parts for rows in part.block_rows),
            size=sum(part.size for part in parts),
            truncated=sum(part.truncated for part in parts),
            faults=tuple((row + start, reason) for part, start in placed for row, reason in part.faults),
            fingerprints=tuple(found for part in parts for found in part.fingerprints),
            label_lengths=tuple(sorted(lengths.items())),
        )


def fingerprint_of(fingerprints: Sequence[str]) -> str:
    """One hash of the hashes of segments, in order; that of a single segment is its own."""
    if len(fingerprints) == 1:
        return fingerprints[0]
    return xxhash.xxh3_64_hexdigest(" ".join(fingerprints).encode())


def describe_blocks(
    blocks: Sequence[pa.Table], columns: ColumnSpec, sizes: Sequence[int] | None = None
) -> DatasetStats:
    """Computes the statistics of encoded blocks, in order.

    Args:
        blocks: The blocks, or only their columns other than token ids and texts.
        columns: The dataset's columns.
        sizes: Bytes of each complete block; by default those of ``blocks``.
    """
    filled = [block for block in blocks if len(block)]
    faults: list[tuple[int, str]] = []
    offset = 0
    for block in filled:
        wrong = np.flatnonzero(pc.is_valid(block[FAULT]).to_numpy())
        faults += [(offset + int(row), block[FAULT][int(row)].as_py()) for row in wrong]
        offset += len(block)
    usable = np.setdiff1d(np.arange(offset), np.array([row for row, _ in faults], dtype=np.int64))
    keys = keys_of_blocks(filled, columns)
    keys = keys if len(usable) == offset else keys.take(usable)
    return DatasetStats(
        keys=keys,
        usable=usable,
        block_rows=tuple(len(block) for block in blocks),
        size=sum(block.nbytes for block in blocks) if sizes is None else sum(sizes),
        truncated=sum(int(pc.sum(block[TRUNCATED]).as_py() or 0) for block in filled),
        faults=tuple(faults),
        fingerprints=_fingerprints(keys, usable, filled, columns.label, offset),
        label_lengths=_label_lengths(
            [block[columns.label] for block in filled] if columns.label else [], usable
        ),
    )


def _label_lengths(labels: Sequence[pa.ChunkedArray], usable: Indices) -> tuple[tuple[int, int], ...]:
    if not labels or not all(is_list(column.type) for column in labels):
        return ()
    lengths = np.concatenate([pc.fill_null(pc.list_value_length(column), 0).to_numpy() for column in labels])
    found, first = np.unique(lengths[usable], return_index=True)
    return tuple(zip(found.tolist(), usable[first].tolist(), strict=True))


def _fingerprints(
    keys: Keys, usable: Indices, blocks: Sequence[pa.Table], label: str | None, rows: int
) -> tuple[str, ...]:
    labels = _Labels([block[label] for block in blocks]) if label is not None else None
    found, first = [], 0
    lengths, counts = segments.rows_of(rows), segments.usable_rows(usable, rows)
    for start, length, count in zip(range(0, rows, segments.ROWS), lengths, counts, strict=True):
        own = slice(first, first := first + count)
        digest = xxhash.xxh3_64(np.ascontiguousarray(keys.hashes[own]).tobytes())
        digest.update((usable[own] - start).tobytes())
        for piece in () if labels is None else labels.of(start, start + length):
            digest.update(_bits(piece).tobytes())
        found.append(digest.hexdigest())
    return tuple(found) or (xxhash.xxh3_64_hexdigest(b""),)


class _Labels:
    """The label column of blocks, which may have different types."""

    def __init__(self, columns: Sequence[pa.ChunkedArray]) -> None:
        self._columns, self._starts = columns, [0]
        for column in columns:
            self._starts.append(self._starts[-1] + len(column))

    def of(self, start: int, stop: int) -> Iterator[pa.Array]:
        """Labels of consecutive rows, piece by piece."""
        number = bisect_right(self._starts, start) - 1
        while start < stop:
            begin, end = self._starts[number], min(self._starts[number + 1], stop)
            yield self._columns[number].slice(start - begin, end - start).combine_chunks()
            start, number = end, number + 1


def _bits(labels: pa.Array) -> npt.NDArray[np.float64 | np.int64 | np.uint64]:
    """Numbers to hash, with integers kept exact; of lists, only their elements count."""
    while pa.types.is_nested(labels.type):
        labels = labels.flatten()
    if pa.types.is_integer(labels.type):
        kind = pa.uint64() if pa.types.is_uint64(labels.type) else pa.int64()
    else:
        kind = pa.float64()
    return pc.fill_null(pc.cast(labels, kind), 0).to_numpy(zero_copy_only=False)
