"""A window of encoded rows, read without copying them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_st.data.columns import ColumnSpec
from ray_st.data.encode import TokenIds, ids_of, text_of
from ray_st.data.plan import Indices


class Window:
    """Random access to the rows of consecutive encoded blocks.

    Blocks stay where they are (in Ray's object store they are shared by all processes of a node): a row is a view.

    Args:
        blocks: Encoded blocks, in order.
        columns: The columns of the rows.
    """

    def __init__(self, blocks: Sequence[pa.Table], columns: ColumnSpec) -> None:
        self.columns = columns
        self._blocks = [
            block.combine_chunks() for block in blocks if len(block)
        ]  # empty ones may lack columns
        self._ends = np.cumsum([len(block) for block in self._blocks], dtype=np.int64)
        self._ragged: dict[str, list[tuple[TokenIds, npt.NDArray[np.int64]]]] = {
            name: [_views(block[ids_of(name)]) for block in self._blocks]
            for name in columns.texts
            if self._blocks and ids_of(name) in self._blocks[0].column_names
        }

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def has_tokens(self) -> bool:
        """Whether rows hold token ids (otherwise they hold texts)."""
        return bool(self._ragged)

    def _locate(self, rows: Indices) -> list[tuple[int, int]]:
        """(block, row in block) of each row."""
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(
                f"Rows are numbered 0 to {len(self) - 1}; the batch sampler asks for {rows.min()} to {rows.max()}."
            )
        block_of = np.searchsorted(self._ends, rows, side="right")
        starts = np.concatenate([[0], self._ends[:-1]])
        return list(zip(block_of.tolist(), (rows - starts[block_of]).tolist(), strict=True))

    def ids(self, column: str, rows: Indices) -> list[TokenIds]:
        """Token ids of rows of a text column."""
        blocks = self._ragged[column]
        views = []
        for block, row in self._locate(rows):
            values, offsets = blocks[block]
            views.append(values[offsets[row] : offsets[row + 1]])
        return views

    def texts(self, column: str, rows: Indices) -> list[str]:
        """Texts of rows of a text column, prompts included."""
        return self._values(text_of(column), rows)

    def labels(self, rows: Indices) -> list[Any] | None:
        """Labels of rows, or None without a label column."""
        return None if self.columns.label is None else self._values(self.columns.label, rows)

    def _values(self, name: str, rows: Indices) -> list[Any]:
        return [self._blocks[block][name][row].as_py() for block, row in self._locate(rows)]


def _views(column: pa.ChunkedArray) -> tuple[TokenIds, npt.NDArray[np.int64]]:
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    return array.values.to_numpy(), array.offsets.to_numpy()
