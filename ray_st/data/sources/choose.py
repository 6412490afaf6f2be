"""Selections from a source, and several sources as one: columns by name, rows by slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from ray_st.data.sources.errors import SourceError
from ray_st.data.sources.part import Part
from ray_st.data.sources.source import Source
from ray_st.data.sources.source_kinds import agreed, first_duplicate
from ray_st.data.sources.splits import Bounds
from ray_st.util.names import did_you_mean


@dataclass(frozen=True)
class Chosen:
    """A source with columns renamed, then selected and reordered.

    Args:
        source: The source.
        keep: Columns in their order, by their new names; by default all. Other columns are not read.
        rename: New names by old names.
    """

    source: Source
    keep: Sequence[str] | None = None
    rename: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The source's name."""
        return self.source.name

    def columns(self, wanted: Sequence[str] | None = None) -> dict[str, pa.DataType]:
        """Arrow type of each column; see :meth:`Source.columns`."""
        pairs = self._pairs(wanted)
        types = self.source.columns(list(dict.fromkeys([*self.rename, *(old for old, _ in pairs)])))
        return {new: types[old] for old, new in pairs}

    def parts(self, wanted: Sequence[str] | None = None) -> list[Part]:
        """The source's parts, restricted to these columns."""
        pairs = self._pairs(wanted)
        return [part.chosen(pairs) for part in self.source.parts([old for old, _ in pairs])]

    def _pairs(self, wanted: Sequence[str] | None) -> list[tuple[str, str]]:
        """Old and new name of each column."""
        asked = self.keep if wanted is None else wanted
        if asked is None:
            pairs = [(old, self.rename.get(old, old)) for old in self.source.columns()]
        else:
            olds = {new: old for old, new in self.rename.items()}
            pairs = [(olds.get(new, new), new) for new in asked]
            self._check_asked(asked, olds)
        duplicate = first_duplicate(new for _, new in pairs)
        if duplicate is not None:
            raise SourceError(
                f"{self.name}: column {duplicate!r} would be there twice; rename or leave out one."
            )
        if not pairs:
            raise SourceError(f"{self.name}: `columns` names none; leave it away to read all.")
        return pairs

    def _check_asked(self, asked: Sequence[str], renamed: Mapping[str, str]) -> None:
        kept = None if self.keep is None else set(self.keep)
        for new in asked:
            if self.keep is not None and kept is not None and new not in kept:
                raise SourceError(f"{self.name}: no column {new!r}; {did_you_mean(new, self.keep)}")
            if new in self.rename and new not in renamed:
                raise SourceError(f"{self.name}: no column {new!r}: it is renamed to {self.rename[new]!r}.")


@dataclass(frozen=True)
class Cut:
    """A slice of a source's rows.

    Unusable rows count, so a slice does not depend on how they are handled.

    Args:
        source: The source.
        bounds: Where to cut. Percentages and positions from the end require the number of rows: Parquet
            footers contain it; text files and queries are read once to count it.
    """

    source: Source
    bounds: Bounds

    @property
    def name(self) -> str:
        """The source's name."""
        return self.source.name

    def columns(self, wanted: Sequence[str] | None = None) -> Mapping[str, pa.DataType]:
        """The source's columns."""
        return self.source.columns(wanted)

    def parts(self, wanted: Sequence[str] | None = None) -> list[Part]:
        """The parts that overlap the slice, cut at its ends.

        Raises:
            SourceError: If the slice is empty.
        """
        parts = self.source.parts(wanted)
        if self.bounds == Bounds():  # all rows
            return parts
        start, stop = self._span(parts)
        kept, seen = [], 0
        for part in parts:
            if stop is not None and seen >= stop:
                break
            rows = part.count(None if stop is None else stop - seen)
            first, end = max(start - seen, 0), rows if stop is None else min(stop - seen, rows)
            if first < end:
                kept.append(part.within(first, end))
            seen += rows
        if not kept:
            total = sum(part.count() for part in parts)
            raise SourceError(f"{self.name}: {self.bounds} of its rows are none; it has {total}.")
        return kept

    def _span(self, parts: Sequence[Part]) -> tuple[int, int | None]:
        if self.bounds.relative:
            return self.bounds.rows(sum(part.count() for part in parts))
        start = self.bounds.start.number if self.bounds.start else 0
        return start, self.bounds.stop.number if self.bounds.stop else None


@dataclass(frozen=True)
class Joined:
    """Sources with the same columns, concatenated.

    Args:
        sources: The sources; at least one.
    """

    sources: Sequence[Source]

    @property
    def name(self) -> str:
        """The names of all sources."""
        return " + ".join(source.name for source in self.sources)

    def columns(self, wanted: Sequence[str] | None = None) -> dict[str, pa.DataType]:
        """For each column an Arrow type that holds the values of all sources; see :meth:`Source.columns`."""
        return agreed((source.name, source.columns(wanted)) for source in self.sources)

    def parts(self, wanted: Sequence[str] | None = None) -> list[Part]:
        """The parts of each source, in order."""
        types = self.columns(wanted)
        return [_typed(part, types) for source in self.sources for part in source.parts(list(types))]


def _typed(part: Part, types: Mapping[str, pa.DataType]) -> Part:
    fields = zip(part.schema.names, part.names, strict=True)
    return replace(part, schema=pa.schema([(old, types[new]) for old, new in fields]))
