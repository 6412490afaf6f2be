"""The concepts of this package: a source has columns and parts, a part reads a unit, a unit yields chunks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_st.data.sources.errors import Report

if TYPE_CHECKING:
    from ray_st.data.sources.part import Part

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Bounds on how much is held in memory at a time.

    Args:
        rows: Maximum rows in a table.
        bytes: Maximum bytes of a table with more than one row.
        cell: Maximum bytes of one value; larger values are rejected.
    """

    rows: int = 8192
    bytes: int = 32 * MIB
    cell: int = 16 * MIB

    @property
    def line(self) -> int:
        """Maximum bytes of a line in a text file, with room for several long cells."""
        return 4 * self.cell


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of a unit.

    Args:
        table: The rows.
        rows: (n,) their row numbers in the unit's file.
    """

    table: pa.Table
    rows: npt.NDArray[np.int64]

    def take(self, keep: npt.NDArray[np.bool_]) -> Chunk:
        """The rows for which `keep` (n,) is true."""
        if keep.all():
            return self
        # Not ``filter``: pyarrow lacks it for views, and it would copy texts that rows share.
        runs = np.split(np.flatnonzero(keep), np.flatnonzero(np.diff(np.flatnonzero(keep)) > 1) + 1)
        kept = [self.table.slice(run[0], len(run)) for run in runs if len(run)]
        return Chunk(pa.concat_tables(kept) if kept else self.table.slice(0, 0), self.rows[keep])

    def slice(self, start: int, stop: int) -> Chunk:
        """Rows `start` up to `stop`, without copying."""
        return Chunk(self.table.slice(start, stop - start), self.rows[start:stop])


class Unit(Protocol):
    """A readable piece of a source: a file, some row groups, a range of rows. Picklable."""

    @property
    def name(self) -> str:
        """Name in error messages."""

    @property
    def local(self) -> bool:
        """Whether it can only be read on the machine that created it."""

    @property
    def held(self) -> bool:
        """Whether its rows are held in this process, so that sending the unit would send them too."""

    @property
    def seekable(self) -> bool:
        """Whether its rows are counted without reading them, and can be read from any of them on."""

    @property
    def uncounted(self) -> int:
        """Bytes that :meth:`counted` goes through to make the unit seekable; 0 if it would not."""

    def counted(self, limits: Limits) -> Unit:
        """The unit with its rows counted by a pass that does not parse them, if its format allows that."""

    @property
    def first(self) -> int:
        """Number of its first row in its file."""

    def between(self, start: int, stop: int) -> Unit:
        """The unit, where possible without rows before `start` and from `stop` on, numbers in its file."""

    @property
    def decoded(self) -> int:
        """About how many rows are decoded together: to read one, all before it are decoded as well."""

    def check_unchanged(self) -> None:
        """Raises a :class:`SourceError` if its file was written since it was listed."""

    def count(self, most: int | None = None) -> int:
        """Number of rows, including unusable ones; counting may stop at `most`."""

    def chunks(self, schema: pa.Schema, limits: Limits, report: Report) -> Iterator[Chunk]:
        """Its rows, in order.

        Args:
            schema: Columns to read. Readers of text formats convert to its types; others may leave the
                conversion to :class:`Part`.
            limits: Bounds to respect as far as the format allows.
            report: Called for each unusable row.
        """


@runtime_checkable
class Source(Protocol):
    """Rows with named columns, and their location."""

    @property
    def name(self) -> str:
        """Name in error messages."""

    def columns(self, wanted: Sequence[str] | None = None) -> Mapping[str, pa.DataType]:
        """Arrow type of each column, in order, from schemas and first rows.

        Args:
            wanted: The columns to return, in this order; by default all.

        Raises:
            SourceError: If a column is missing, or has a different type in one of the files.
        """

    def parts(self, wanted: Sequence[str] | None = None) -> list[Part]:
        """The independently readable parts, in order.

        Args:
            wanted: The columns to read, in this order; by default all.

        Raises:
            SourceError: As for :meth:`columns`.
        """
