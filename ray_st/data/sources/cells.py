"""Sizes of cells, cells that are too large or not UTF-8, and where to cut a table into small pieces."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat

from ray_st.data.sources.lines import undecodable
from ray_st.data.sources.source import Chunk, Limits
from ray_st.util.arrow import is_text

Sizes = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def flat(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """A column as one array."""
    if isinstance(column, pa.Array):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def cell_sizes(array: pa.Array) -> Sizes:
    """(n,) bytes of each value on its own: values shared through a dictionary count in full each time."""
    kind = array.type
    if pat.is_dictionary(kind):
        return _spread(cell_sizes(array.dictionary), array.indices)
    if pat.is_string_view(kind) or pat.is_binary_view(kind):
        return _view_sizes(array)
    if is_text(kind) or is_binary(kind):
        return _numbers(pc.binary_length(array))
    if pat.is_list(kind) or pat.is_large_list(kind):
        offsets = array.offsets.to_numpy()
        inner = array.values.slice(offsets[0], offsets[-1] - offsets[0])
        ends = np.concatenate([[0], np.cumsum(cell_sizes(inner))])
        return np.diff(ends[offsets - offsets[0]])
    if pat.is_struct(kind):
        return sum(map(cell_sizes, array.flatten()), start=np.zeros(len(array), dtype=np.int64))
    return np.full(len(array), array.nbytes // max(len(array), 1), dtype=np.int64)


def is_binary(kind: pa.DataType) -> bool:
    """Whether a type holds bytes of any length."""
    return bool(pat.is_binary(kind) or pat.is_large_binary(kind) or pat.is_binary_view(kind))


def not_utf8(array: pa.Array) -> Flags:
    """(n,) which texts are not valid UTF-8; Arrow files are not validated when they are opened."""
    if pat.is_dictionary(array.type):
        flags = not_utf8(array.dictionary)
        return _spread(flags.astype(np.int64), array.indices).astype(bool)
    if not is_text(array.type):
        return np.zeros(len(array), dtype=bool)
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        values = pc.cast(array, pa.large_binary()).to_pylist()
        return np.array(
            [value is not None and undecodable(value) is not None for value in values], dtype=bool
        )
    return np.zeros(len(array), dtype=bool)


def bounded(chunk: Chunk, limits: Limits) -> Iterator[Chunk]:
    """Cuts a chunk into pieces within the limits; a row that exceeds them becomes a piece of its own."""
    if not len(chunk.rows):
        return
    sizes = np.sum([cell_sizes(flat(column)) for column in chunk.table.columns], axis=0, dtype=np.int64)
    ends = np.cumsum(np.broadcast_to(sizes, len(chunk.rows)))
    start = 0
    while start < len(ends):
        before = int(ends[start - 1]) if start else 0
        fitting = int(np.searchsorted(ends, before + limits.bytes, side="right"))
        stop = min(max(fitting, start + 1), start + limits.rows)
        yield chunk.slice(start, stop)
        start = stop


def _view_sizes(array: pa.Array) -> Sizes:
    """Sizes of views, read from their buffers: each view is 16 bytes, the first four of which are the length.

    pyarrow has no kernel for this.
    """
    views = array.buffers()[1]
    if views is None or not len(array):
        return np.zeros(len(array), dtype=np.int64)
    lengths = np.frombuffer(views, dtype=np.int32).reshape(-1, 4)[array.offset : array.offset + len(array), 0]
    return np.where(pc.is_valid(array).to_numpy(zero_copy_only=False), lengths, 0).astype(np.int64)


def _spread(values: Sizes, indices: pa.Array) -> Sizes:
    places = _numbers(indices)
    valid = np.asarray(pc.is_valid(indices).to_numpy(zero_copy_only=False), dtype=bool)
    return np.where(valid, values[places], 0) if len(values) else np.zeros(len(places), dtype=np.int64)


def _numbers(array: pa.Array) -> Sizes:
    return pc.fill_null(pc.cast(array, pa.int64()), 0).to_numpy(zero_copy_only=False)
