"""Reads and validates rows without encoding them, to list all that cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_st.data.column_spec import ColumnSpec, check_classes, check_lengths
from ray_st.data.encoding import checked_texts
from ray_st.data.label_column import checked_labels
from ray_st.data.located import read_with_faults
from ray_st.data.sources import ROW, BadRow, Part
from ray_st.data.text_lists import TextLists, check_labels_of_lists, checked_lists
from ray_st.util.arrow import is_list


@dataclass(frozen=True)
class CheckedRows:
    """What was found in consecutive rows.

    Args:
        rows: Their number.
        faults: The unusable ones, in order.
        labels: Two different labels of the usable ones, or fewer if there are fewer; none if labels are
            lists.
        lengths: If labels are lists, each length that occurs among the usable ones, with the first row that
            has it, counted from the first of these rows.
    """

    rows: int
    faults: tuple[BadRow, ...] = ()
    labels: tuple[Any, ...] = ()
    lengths: tuple[tuple[int, int], ...] = ()


@dataclass
class DatasetCheck:
    """What was found in the rows of a dataset so far; its size does not depend on their number.

    Args:
        rows: Their number.
        unusable: How many of them cannot be used.
    """

    rows: int = 0
    unusable: int = 0
    _labels: list[Any] = field(default_factory=list)
    _lengths: dict[int, int] = field(default_factory=dict)

    @property
    def usable(self) -> int:
        """How many rows can be used."""
        return self.rows - self.unusable

    def add(self, found: CheckedRows) -> None:
        """Adds the rows that come next."""
        self._labels += [label for label in found.labels if label not in self._labels]
        del self._labels[2:]
        for length, row in found.lengths:
            self._lengths.setdefault(length, self.rows + row)
        self.rows += found.rows
        self.unusable += len(found.faults)

    def check_labels(self, columns: ColumnSpec, dataset: str) -> None:
        """Rejects labels that are usable one by one, but not together.

        Args:
            columns: The dataset's columns.
            dataset: Name of the dataset in error messages.

        Raises:
            ColumnError: If all are equal and the loss learns from differences, or if lists differ in length.
        """
        if len(self._labels) == 1:
            check_classes(columns, np.broadcast_to(np.int64(0), self.usable), dataset)
        check_lengths(columns, tuple(self._lengths.items()), dataset)


def check_rows_of(part: Part, columns: ColumnSpec) -> Iterator[CheckedRows]:
    """Reads and validates all rows of a part, in order, in pieces of bounded size.

    Args:
        part: What to read, with at least these columns.
        columns: The columns.

    Raises:
        SourceError: If the file cannot be read.
    """
    for table, unread in read_with_faults(part):
        if table is None:
            yield CheckedRows(len(unread), tuple(unread))
        else:
            yield _checked(part, table, unread, columns)


def _checked(part: Part, table: pa.Table, unread: list[BadRow], columns: ColumnSpec) -> CheckedRows:
    """What was found in a table, and in the rows between its own that could not be read."""
    numbers = table[ROW].to_numpy()
    found: dict[int, BadRow] = {}
    labels: pa.Array | None = None
    lists: dict[str, TextLists] = {}
    for name in columns.names:
        faults: list[str | None] = [None] * len(table)
        if name == columns.label:
            labels = checked_labels(table[name], name, columns.need, faults)
            for other, values in lists.items():
                check_labels_of_lists(labels, name, values, other, faults)
        elif name in columns.lists:
            lists[name] = checked_lists(table[name], name, faults)
        else:
            checked_texts(table[name], name, faults)
        for place, fault in enumerate(faults):
            if fault is not None and place not in found:
                reason = fault.removeprefix(f"column {name!r}: ")
                found[place] = BadRow(part.name, int(numbers[place]), reason, name)
    faulty = (*unread, *found.values())
    rows = len(table) + len(unread)
    usable = np.setdiff1d(np.arange(len(table)), np.fromiter(found, dtype=np.int64, count=len(found)))
    if labels is None or not len(usable):
        return CheckedRows(rows, _in_order(faulty))
    taken = labels.take(pa.array(usable))
    if not is_list(labels.type):
        return CheckedRows(rows, _in_order(faulty), tuple(pc.unique(taken)[:2].to_pylist()))
    lengths, first = np.unique(pc.list_value_length(taken).to_numpy(), return_index=True)
    all_numbers = np.sort(np.concatenate([numbers, [bad.row for bad in unread]]))
    places = np.searchsorted(all_numbers, numbers[usable[first]])
    return CheckedRows(
        rows, _in_order(faulty), (), tuple(zip(lengths.tolist(), places.tolist(), strict=True))
    )


def _in_order(faults: tuple[BadRow, ...]) -> tuple[BadRow, ...]:
    return tuple(sorted(faults, key=lambda bad: bad.row))
