"""Encoded rows, read without copying."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_st.data.column_spec import ColumnError, ColumnSpec
from ray_st.data.encoding import TokenIds, hash_of, ids_of, lengths_of, text_of
from ray_st.data.plan import Indices
from ray_st.util.arrow import is_list, is_number


class EncodedBlock:
    """One encoded block, with views of its ragged columns."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table.combine_chunks()
        self._ragged: dict[str, tuple[TokenIds, npt.NDArray[np.int64]]] = {}
        self.columns = set(table.column_names)

    def ids(self, name: str, row: int) -> TokenIds:
        """The token ids of a row, as a view."""
        if name not in self._ragged:
            array = self._table[name].chunk(0)
            self._ragged[name] = array.values.to_numpy(), array.offsets.to_numpy()
        values, offsets = self._ragged[name]
        return values[offsets[row] : offsets[row + 1]]

    def value(self, name: str, row: int) -> Any:
        """A value as a Python object."""
        return self._table[name][row].as_py()

    def has_vectors(self, name: str) -> bool:
        """Whether a column holds lists of numbers; those of 64 bits without sign do not fit into int64."""
        kind = self._table.schema.field(name).type
        return is_list(kind) and is_number(kind.value_type) and not pa.types.is_uint64(kind.value_type)

    def vector(self, name: str, row: int) -> npt.NDArray[Any]:
        """The numbers of a list, as a view."""
        return self._table[name].chunk(0)[row].values.to_numpy(zero_copy_only=False)


class EncodedDataset:
    """Random access to the rows of encoded blocks, with a bounded number of blocks held at a time.

    Blocks are not copied (Ray's object store shares them among all processes of a node): a row is a view. If
    there is a bound, the least recently used block is released; plans keep the rows of neighbouring steps in
    few blocks.

    Args:
        blocks: Encoded blocks by number, in order; fetched on first use if the sequence is lazy.
        columns: The columns of the rows.
        block_rows: Number of rows in each block; counted if not given.
        resident: Maximum number of blocks held at a time; by default all.
    """

    def __init__(
        self,
        blocks: Sequence[pa.Table],
        columns: ColumnSpec,
        block_rows: Sequence[int] | None = None,
        resident: int | None = None,
    ) -> None:
        self.columns = columns
        self._blocks, self._resident = blocks, resident
        counts = [len(block) for block in blocks] if block_rows is None else block_rows
        self._ends = np.cumsum(counts, dtype=np.int64)
        self._held: OrderedDict[int, EncodedBlock] = OrderedDict()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def has_tokens(self, column: str, rows: Indices) -> bool:
        """Whether the given rows hold token ids of a text column; otherwise they hold its texts."""
        return any(ids_of(column) in block.columns for block, _ in self.located(rows[:1]))

    def blocks_of(self, rows: Indices) -> list[int]:
        """Numbers of the blocks that hold the given rows."""
        return np.unique(np.searchsorted(self._ends, rows, side="right")).tolist()

    def ids(self, column: str, rows: Indices) -> list[TokenIds]:
        """Token ids of the given rows of a text column."""
        name = ids_of(column)
        return [block.ids(name, row) for block, row in self.located(rows)]

    def lists_of_ids(self, column: str, rows: Indices) -> list[list[TokenIds]]:
        """Token ids of each text of the given rows of a column of lists."""
        name, lengths = ids_of(column), lengths_of(column)
        found = []
        for block, row in self.located(rows):
            found.append(np.split(block.ids(name, row), np.cumsum(block.ids(lengths, row))[:-1]))
        return found

    def hashes(self, column: str, rows: Indices) -> npt.NDArray[np.int64]:
        """(n,) hashes of the given rows of a text column, as signed integers; equal for equal texts."""
        found = np.array(self._values(hash_of(column), rows), dtype=np.uint64)
        return found.view(np.int64)

    def texts(self, column: str, rows: Indices) -> list[str]:
        """Texts of some rows of a text column, including prompts; of a column of lists, lists of texts."""
        return self._values(text_of(column), rows)

    def labels(self, rows: Indices) -> list[Any] | None:
        """Labels of the given rows, or None without a label column."""
        return None if self.columns.label is None else self._values(self.columns.label, rows)

    def label_array(self, rows: Indices) -> npt.NDArray[Any] | None:
        """(n,) or (n, ...) labels of the given rows, or None without a label column.

        Returns:
            int64 for integers and for a loss that takes whole numbers; float32 for other numbers. Labels of
            lists of texts are float32, and end with NaN where a row has fewer texts than another.

        Raises:
            ColumnError: If labels are lists of unequal length; the error names rows.
        """
        if self.columns.label is None:
            return None
        located = self.located(rows)
        if self.columns.lists:
            return _padded([block.vector(self.columns.label, row) for block, row in located])
        blocks = {block: None for block, _ in located}
        if blocks and all(block.has_vectors(self.columns.label) for block in blocks):
            vectors = [block.vector(self.columns.label, row) for block, row in located]
            return self._stacked(vectors, rows)
        labels = self._values(self.columns.label, rows)
        if labels and isinstance(labels[0], list):
            self._check_lengths(labels, rows)
        need = self.columns.need
        if need is not None and need.whole and not _are_vectors(labels):
            return _as_classes(labels)
        array = np.array(labels)
        # Integers above 2**63 yield another dtype than the labels of other batches.
        return array if array.dtype == np.int64 else array.astype(np.float32)

    def _stacked(self, vectors: list[Any], rows: Indices) -> npt.NDArray[Any]:
        """(n, ...) labels that are lists of numbers, without a Python object for each number."""
        self._check_lengths(vectors, rows)
        array = np.stack(vectors)
        need = self.columns.need
        whole = need is not None and need.whole and array.shape[1] == 1
        return array.astype(np.int64 if whole or array.dtype.kind in "iu" else np.float32)

    def _check_lengths(self, labels: list[Any], rows: Indices) -> None:
        lengths = [len(label) for label in labels]
        others = [place for place, length in enumerate(lengths) if length != lengths[0]]
        if others:
            place = others[0]
            raise ColumnError(
                f"Labels of a batch must be lists of one length; in column {self.columns.label!r} row "
                f"{rows[0]} has {lengths[0]} numbers, row {rows[place]} has {lengths[place]} ({len(others)} "
                f"of {len(rows)} rows of the batch differ from the first)."
            )

    def _values(self, name: str, rows: Indices) -> list[Any]:
        return [block.value(name, row) for block, row in self.located(rows)]

    def located(self, rows: Indices) -> list[tuple[EncodedBlock, int]]:
        """(block, row within the block) of each row.

        Raises:
            IndexError: If there is no such row.
        """
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(
                f"Rows are numbered 0 to {len(self) - 1}; the batch sampler asks for {rows.min()} to "
                f"{rows.max()}."
            )
        block_of = np.searchsorted(self._ends, rows, side="right")
        starts = np.concatenate([[0], self._ends[:-1]])
        blocks = map(self._block, block_of.tolist())
        return list(zip(blocks, (rows - starts[block_of]).tolist(), strict=True))

    def _block(self, number: int) -> EncodedBlock:
        if number not in self._held:
            self._held[number] = EncodedBlock(self._blocks[number])
            if self._resident is not None and len(self._held) > self._resident:
                self._held.popitem(last=False)
        self._held.move_to_end(number)
        return self._held[number]


def _padded(labels: list[npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
    """(n, m) labels of lists of up to m texts."""
    counts = np.fromiter(map(len, labels), dtype=np.int64, count=len(labels))
    array = np.full((len(labels), counts.max(initial=0)), np.nan, dtype=np.float32)
    array[np.arange(array.shape[1]) < counts[:, None]] = np.concatenate([np.zeros(0), *labels])
    return array


def _are_vectors(labels: list[Any]) -> bool:
    return bool(labels) and isinstance(labels[0], list) and len(labels[0]) != 1


def _as_classes(labels: list[Any]) -> npt.NDArray[np.int64]:
    """(n,) or (n, 1) whole numbers.

    Unsigned values above 2**63 wrap to negative ones, so distinct labels stay distinct.
    """
    try:
        return np.array(labels, dtype=np.int64)
    except OverflowError:
        return np.array(labels, dtype=np.uint64).view(np.int64)
