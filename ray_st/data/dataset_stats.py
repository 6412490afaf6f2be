"""What is kept about a dataset after its rows are encoded: keys, usable rows, sizes, but no rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

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
        fingerprint: Hash of the usable rows' texts and labels, in order.
        label_lengths: If labels are lists, the lengths that occur among usable rows, each with the first row
            that has it.
    """

    keys: Keys
    usable: Indices
    block_rows: tuple[int, ...]
    size: int
    truncated: int
    faults: tuple[tuple[int, str], ...]
    fingerprint: str
    label_lengths: tuple[tuple[int, int], ...] = ()

    @property
    def rows(self) -> int:
        """Number of all rows, including unusable ones."""
        return sum(self.block_rows)


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
        fingerprint=_fingerprint(keys, usable, filled, columns.label),
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


def _fingerprint(keys: Keys, usable: Indices, blocks: Sequence[pa.Table], label: str | None) -> str:
    digest = xxhash.xxh3_64(np.ascontiguousarray(keys.hashes).tobytes())
    digest.update(usable.tobytes())
    for block in blocks if label is not None else ():
        digest.update(_bits(block[label].combine_chunks()).tobytes())
    return digest.hexdigest()


def _bits(labels: pa.Array) -> npt.NDArray[np.float64 | np.int64 | np.uint64]:
    """Numbers to hash, with integers kept exact; of lists, only their elements count."""
    while pa.types.is_nested(labels.type):
        labels = labels.flatten()
    if pa.types.is_integer(labels.type):
        kind = pa.uint64() if pa.types.is_uint64(labels.type) else pa.int64()
    else:
        kind = pa.float64()
    return pc.fill_null(pc.cast(labels, kind), 0).to_numpy(zero_copy_only=False)
