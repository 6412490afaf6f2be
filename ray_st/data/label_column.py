"""The label column of a block: numbers or lists of numbers, and the rows whose label is unusable."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ray_st.data.faults import described
from ray_st.data.label_need import LabelNeed
from ray_st.util.arrow import is_list, is_number

_LEAST, _MOST = -(1 << 63), (1 << 63) - 1


def checked_labels(
    column: pa.ChunkedArray, name: str, need: LabelNeed | None, faults: list[str | None]
) -> pa.Array:
    """The labels of a column as integers, floats, or lists of these, without loss of precision.

    Args:
        column: The column as read.
        name: The column's name, for fault messages.
        need: The labels that the loss accepts, if it declares them.
        faults: What is wrong with each row; extended for rows whose label is unusable and that have no fault
            yet.
    """
    whole = need is not None and need.whole
    labels = _as_numbers(column.combine_chunks(), name, whole, faults)
    if not _holds_numbers(labels.type):
        _mark(range(len(labels)), labels, name, faults)
        return pa.nulls(len(labels))
    _mark(np.flatnonzero(~_usable(labels)), labels, name, faults)
    for row, fault in need.unmet(labels) if need is not None else ():
        faults[row] = faults[row] or f"column {name!r}: {fault}"
    return labels


def _as_numbers(labels: pa.Array, name: str, whole: bool, faults: list[str | None]) -> pa.Array:
    """Booleans, dictionary-encoded values and decimals as plain numbers; other labels unchanged."""
    if pa.types.is_dictionary(labels.type):
        labels = labels.dictionary_decode()
    if pa.types.is_boolean(labels.type):
        return pc.cast(labels, pa.int64())
    if pa.types.is_decimal(labels.type):
        exact = whole or labels.type.scale <= 0
        return _as_integers(labels, name, faults) if exact else pc.cast(labels, pa.float64())
    if is_list(labels.type) and pa.types.is_decimal(labels.type.value_type):
        return pc.cast(labels, pa.list_(pa.float64()))
    return labels


def _as_integers(decimals: pa.Array, name: str, faults: list[str | None]) -> pa.Array:
    values = decimals.to_pylist()
    for row, value in enumerate(values):
        if value is None or (value == int(value) and _LEAST <= value <= _MOST):
            values[row] = None if value is None else int(value)
            continue
        faults[row] = (
            faults[row]
            or f"column {name!r}: expected a whole number of 64 bits as label, found {described(value)}"
        )
        values[row] = None
    return pa.array(values, pa.int64())


def _holds_numbers(kind: pa.DataType) -> bool:
    if is_list(kind):
        return _holds_numbers(kind.value_type)
    return is_number(kind) or bool(pa.types.is_null(kind))


def _usable(labels: pa.Array) -> npt.NDArray[np.bool_]:
    """Which labels are present, with only finite numbers."""
    valid = pc.is_valid(labels)
    if pa.types.is_floating(labels.type):
        valid = pc.and_(valid, pc.fill_null(pc.is_finite(pc.cast(labels, pa.float64())), False))
    usable = np.array(valid.to_numpy(zero_copy_only=False), dtype=bool)
    if is_list(labels.type):
        usable[pc.list_parent_indices(labels).to_numpy()[~_usable(pc.list_flatten(labels))]] = False
    return usable


def _mark(rows: Iterable[int], labels: pa.Array, name: str, faults: list[str | None]) -> None:
    for row in rows:
        if faults[row] is None:
            found = described(labels[row].as_py())
            faults[row] = f"column {name!r}: expected a finite number as label, found {found}"
