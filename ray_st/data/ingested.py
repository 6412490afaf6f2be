"""What is known of a dataset once its rows have been encoded: keys, usable rows, sizes; not the rows themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from ray_st.data.columns import ColumnSpec
from ray_st.data.encode import FAULT, TRUNCATED, keys_of_blocks
from ray_st.data.keys import Keys
from ray_st.data.plan import Indices


@dataclass(frozen=True)
class Ingested:
    """An encoded dataset, described.

    Args:
        keys: Keys of the usable rows.
        usable: (n,) number of each usable row among all rows.
        block_rows: Rows of each block, unusable ones included.
        size: Bytes of all blocks.
        truncated: Number of rows with a text that reaches the model's longest input.
        faults: For each unusable row its number and what is wrong with it.
        fingerprint: Hash of the usable rows' texts and labels, in order.
    """

    keys: Keys
    usable: Indices
    block_rows: tuple[int, ...]
    size: int
    truncated: int
    faults: tuple[tuple[int, str], ...]
    fingerprint: str

    @property
    def rows(self) -> int:
        """Number of all rows, unusable ones included."""
        return sum(self.block_rows)

    @property
    def usable_block_rows(self) -> list[int]:
        """Usable rows of each block."""
        edges = np.cumsum([0, *self.block_rows])
        return np.diff(np.searchsorted(self.usable, edges)).tolist()


def describe_blocks(
    blocks: Sequence[pa.Table], columns: ColumnSpec, sizes: Sequence[int] | None = None
) -> Ingested:
    """Describes encoded blocks, in order.

    Args:
        blocks: The blocks, or just their columns other than token ids and texts.
        columns: The dataset's columns.
        sizes: Bytes of each whole block; those of ``blocks`` by default.
    """
    filled = [block for block in blocks if len(block)]
    faults: list[tuple[int, str]] = []
    offset = 0
    for block in filled:
        wrong = np.flatnonzero(pc.is_valid(block[FAULT]).to_numpy())
        faults += [(offset + int(row), block[FAULT][int(row)].as_py()) for row in wrong]
        offset += len(block)
    usable = np.setdiff1d(np.arange(offset), np.array([row for row, _ in faults], dtype=np.int64))
    keys = keys_of_blocks(filled, columns) if filled else Keys(np.zeros((0, len(columns.texts)), np.uint64))
    keys = keys if len(usable) == offset else keys.take(usable)
    return Ingested(
        keys=keys,
        usable=usable,
        block_rows=tuple(len(block) for block in blocks),
        size=sum(block.nbytes for block in blocks) if sizes is None else sum(sizes),
        truncated=sum(int(pc.sum(block[TRUNCATED]).as_py() or 0) for block in filled),
        faults=tuple(faults),
        fingerprint=_fingerprint(keys, usable, filled, columns.label),
    )


def _fingerprint(keys: Keys, usable: Indices, blocks: Sequence[pa.Table], label: str | None) -> str:
    digest = xxhash.xxh3_64(np.ascontiguousarray(keys.hashes).tobytes())
    digest.update(usable.tobytes())
    for block in blocks if label is not None else ():
        values = block[label].combine_chunks()
        while pa.types.is_nested(values.type):
            values = values.flatten()
        digest.update(
            pc.fill_null(pc.cast(values, pa.float64()), 0.0).to_numpy(zero_copy_only=False).tobytes()
        )
    return digest.hexdigest()
