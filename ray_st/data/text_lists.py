"""Columns whose rows hold a list of texts each, such as the documents of a query."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ray_st.data.faults import described
from ray_st.util.arrow import is_list

TextLists = list[list[str]]


def checked_lists(column: pa.ChunkedArray, name: str, faults: list[str | None]) -> TextLists:
    """The texts of each row; those of an unusable row become an empty list.

    Args:
        column: The column as read.
        name: The column's name, for fault messages.
        faults: What is wrong with each row; extended for rows that hold no list of texts, or an empty text,
            and that have no fault yet.
    """
    rows: TextLists = []
    for row, value in enumerate(column.to_pylist()):
        fault = _fault(value)
        if fault is not None and faults[row] is None:
            faults[row] = f"column {name!r}: {fault}"
        rows.append([] if fault is not None else value)
    return rows


def _fault(value: object) -> str | None:
    if not isinstance(value, list) or not value:
        found = "an empty list" if value == [] else described(value)
        return f"expected a list of texts, found {found}"
    for place, text in enumerate(value):
        if not (isinstance(text, str) and text.strip()):
            return f"expected a text as entry {place} of the list, found {described(text)}"
    return None


def check_labels_of_lists(
    labels: pa.Array, label: str, lists: TextLists, name: str, faults: list[str | None]
) -> None:
    """Finds rows whose labels are not one number for each text.

    Args:
        labels: Labels of each row, checked one by one.
        label: Name of the label column.
        lists: The texts of each row.
        name: Name of their column.
        faults: What is wrong with each row; extended.
    """
    if is_list(labels.type):
        lengths = pc.fill_null(pc.list_value_length(labels), 0).to_numpy(zero_copy_only=False)
    else:
        lengths = np.full(len(labels), -1)
    for row, (length, texts) in enumerate(zip(lengths.tolist(), lists, strict=True)):
        if faults[row] is None and length != len(texts):
            found = "a single number" if length < 0 else f"a list of {length}"
            faults[row] = (
                f"column {label!r}: expected a list of {len(texts)} numbers, one for each text of column "
                f"{name!r}, found {found}"
            )


def flattened(lists: TextLists) -> tuple[list[str], npt.NDArray[np.int32]]:
    """All texts, row by row, and the number of texts of each row (n,)."""
    counts = np.fromiter(map(len, lists), dtype=np.int32, count=len(lists))
    return [text for texts in lists for text in texts], counts
