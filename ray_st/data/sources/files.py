"""Files as a source: Parquet, Arrow, JSON, CSV, TSV and plain text, on any file system that pyarrow opens."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Any

import pyarrow as pa
from pyarrow.fs import FileSystem

from ray_st.data.sources.arrow_ipc import open_arrow
from ray_st.data.sources.csv_rows import Csv
from ray_st.data.sources.errors import Report, SourceError, reading
from ray_st.data.sources.json_rows import Json, Text
from ray_st.data.sources.lines import START
from ray_st.data.sources.parquet import open_parquet
from ray_st.data.sources.part import Part
from ray_st.data.sources.places import File, FileUnit, Paths, list_files
from ray_st.data.sources.row_index import RowIndex
from ray_st.data.sources.row_records import Record, gather
from ray_st.data.sources.source import Chunk, Limits, Unit
from ray_st.data.sources.source_kinds import agreed, from_values, from_words, named_type, pick
from ray_st.util.names import did_you_mean

_SUFFIXES = {
    "csv": (".csv",),
    "tsv": (".tsv", ".tab"),
    "json": (".json", ".jsonl", ".ndjson"),
    "parquet": (".parquet", ".pq"),
    "arrow": (".arrow", ".feather", ".ipc"),
    "text": (".txt",),
}
FORMATS = tuple(_SUFFIXES)
"""The supported file formats."""

_PACKED = (".gz", ".bz2", ".zst", ".lz4")
_OPENERS = 16

Form = Csv | Json | Text
Opened = tuple[Mapping[str, pa.DataType], Sequence[Unit]]


@dataclass(frozen=True)
class TextFile(FileUnit):
    """A file of lines, read from its start, or once its rows are counted from any of them on.

    Args:
        file: The file.
        form: The format of its lines; of a counted file, as it is within the file.
        kind: The format's name, for error messages.
        known: The only keys that its rows may have; None allows any.
        index: Where its rows start, once they are counted.
        wanted: The rows to read, by their number in the file; None for all.
    """

    form: Form
    kind: str
    known: tuple[str, ...] | None = None
    index: RowIndex | None = None
    wanted: range | None = None
    first: int = 0

    @property
    def seekable(self) -> bool:
        """Whether its rows are counted."""
        return self.index is not None

    @property
    def uncounted(self) -> int:
        """Bytes to go through to count its rows; 0 if they are counted, or compressed."""
        return 0 if self.seekable or self.file.path.endswith(_PACKED) else self.file.size

    def counted(self, limits: Limits) -> TextFile:
        """The file with its rows counted by one pass; unchanged if they cannot be, as in a JSON list.

        Raises:
            SourceError: If the file cannot be read, or was written since it was listed.
        """
        if not self.uncounted:
            return self
        with reading(self.name, self.kind):
            with self.file.open_stream() as stream:
                form = self.form.within(stream, limits, self.name)
            if form is None:
                return self
            with self.file.open_stream() as stream:
                index = RowIndex.of(self.form.starts(stream, limits, self.name))
        self.check_unchanged()
        return replace(self, form=form, index=index, wanted=range(index.rows))

    def between(self, start: int, stop: int) -> TextFile:
        """The rows from `start` up to `stop`, if they are counted; otherwise the file."""
        if self.index is None:
            return self
        return replace(self, index=self.index.around(start), wanted=range(start, stop))

    def columns(self, limits: Limits) -> dict[str, pa.DataType]:
        """Columns and types, from the first rows; the type is null if these have no values."""
        with reading(self.name, self.kind), self.file.open_stream() as stream:
            return self.form.columns(stream, limits, self.name)

    def count(self, most: int | None = None) -> int:
        """Number of rows, counted by reading the file if they are not known."""
        if self.index is not None:
            return self.index.rows
        with reading(self.name, self.kind), self.file.open_stream() as stream:
            return sum(1 for _ in islice(self.form.records(stream, Limits(), self.name), most))

    def chunks(self, schema: pa.Schema, limits: Limits, report: Report) -> Iterator[Chunk]:
        """The rows, converted to the schema's types."""
        begin = START if self.index is None else self.index.begin
        with reading(self.name, self.kind), self.file.open_stream(begin.offset) as stream:
            records = self.form.records(stream, limits, self.name, begin)
            if self.wanted is not None:
                records = islice(records, self.wanted.start - begin.row, self.wanted.stop - begin.row)
            if self.known is not None:
                records = _with_known_keys(records, self.known)
            convert = from_values if isinstance(self.form, Json) else from_words
            yield from gather(records, schema, convert, limits, report, self.name)


@dataclass(frozen=True)
class Files:
    """Rows in files of one format, in file order; files are sorted by path.

    In CSV and TSV files only an empty field is a missing value. Types of text formats are inferred from the
    first rows of each file; a value that does not fit raises an error that names it. All files must have the
    same columns.

    Args:
        path: A file, folder, pattern or URI, or a list of them; see
            :func:`~ray_st.data.sources.places.list_files`.
        format: One of :data:`FORMATS`; by default inferred from the suffixes.
        filesystem: The pyarrow file system of the paths; by default inferred from the URI's scheme.
        names: Column names of a CSV or TSV file that has no header row.
        delimiter: The field separator of CSV and TSV; by default a comma or a tab.
        quoted: Whether quotation marks enclose fields; by default true for CSV, false for TSV.
        types: Types of columns by name, to override what is inferred from the first rows.
        limits: Bounds on what is held in memory.

    Raises:
        SourceError: If options contradict each other.
    """

    path: Paths
    format: str | None = None
    filesystem: FileSystem | None = None
    names: Sequence[str] | None = None
    delimiter: str | None = None
    quoted: bool | None = None
    types: Mapping[str, str | pa.DataType] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in FORMATS:
            raise SourceError(
                f"{self.name}: unknown format {self.format!r}; {did_you_mean(self.format, FORMATS)}"
            )
        if self.delimiter is not None and len(self.delimiter) != 1:
            raise SourceError(f"{self.name}: delimiter: expected one character, found {self.delimiter!r}.")

    @property
    def name(self) -> str:
        """The paths as given."""
        return ", ".join(map(str, self.path)) if isinstance(self.path, list | tuple) else str(self.path)

    @cached_property
    def files(self) -> list[File]:
        """The files, in order."""
        ends = [end for kind, ends in _SUFFIXES.items() if self.format in (None, kind) for end in ends]
        return list_files(
            self.path, self.filesystem, [*ends, *(end + packed for end in ends for packed in _PACKED)]
        )

    @cached_property
    def kind(self) -> str:
        """The file format."""
        kinds = [self.format or _format_of(file) for file in self.files]
        other = next((place for place, kind in enumerate(kinds) if kind != kinds[0]), None)
        if other is not None:
            raise SourceError(
                f"{self.files[other].name}: its suffix says {kinds[other]}, but that of {self.files[0].name} "
                f"says {kinds[0]}; read one format at a time, or set `format`."
            )
        self._check_options(kinds[0])
        return kinds[0]

    def columns(self, wanted: Sequence[str] | None = None) -> dict[str, pa.DataType]:
        """Arrow type of each column; see :meth:`Source.columns`."""
        found = [
            (file.name, self._declared(types))
            for file, (types, _) in zip(self.files, self._opened, strict=True)
        ]
        pick(found[0][1], [*(wanted or ()), *self.types], self.files[0].name)
        found = [(name, _kept(types, wanted)) for name, types in found]
        types = agreed(found)
        if self.kind in ("csv", "tsv", "json"):
            types = {name: pa.string() if pa.types.is_null(kind) else kind for name, kind in types.items()}
        return pick(types, wanted, self.name)

    def parts(self, wanted: Sequence[str] | None = None) -> list[Part]:
        """A part for each file, or for some row groups of a Parquet file; see :meth:`Source.parts`."""
        schema = pa.schema(list(self.columns(wanted).items()))
        known = tuple(schema.names) if wanted is None and self.kind == "json" else None
        return [
            Part(_strict(unit, known), schema, tuple(schema.names), limits=self.limits)
            for _, units in self._opened
            for unit in units
        ]

    @property
    def rows(self) -> int | None:
        """Number of rows, if the files' footers say it; None otherwise."""
        if self.kind != "parquet":
            return None
        return sum(unit.count() for _, units in self._opened for unit in units)

    @cached_property
    def _opened(self) -> list[Opened]:
        with ThreadPoolExecutor(_OPENERS) as pool:
            return list(pool.map(self._open, self.files))

    def _open(self, file: File) -> Opened:
        if self.kind == "parquet":
            return open_parquet(file)
        if self.kind == "arrow":
            return open_arrow(file)
        unit = TextFile(file, self._form(), self.kind)
        return unit.columns(self.limits), [unit]

    def _form(self) -> Form:
        if self.kind not in ("csv", "tsv"):
            return Json() if self.kind == "json" else Text()
        delimiter = self.delimiter or ("," if self.kind == "csv" else "\t")
        quoted = self.kind == "csv" if self.quoted is None else self.quoted
        return Csv(delimiter, quoted, None if self.names is None else tuple(self.names))

    def _declared(self, types: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
        """Types with the user's overrides; naming a JSON key that the first rows lack makes it a column."""
        asked = [name for name in self.types if name in types or self.kind == "json"]
        return {**types, **{name: named_type(self.types[name], name) for name in asked}}

    def _check_options(self, kind: str) -> None:
        options = {"names": self.names, "delimiter": self.delimiter, "quoted": self.quoted}
        given = [name for name, value in options.items() if value is not None]
        if given and kind not in ("csv", "tsv"):
            raise SourceError(f"{self.name}: `{given[0]}` is for CSV and TSV files, not for {kind}.")

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}


def _strict(unit: Unit, known: tuple[str, ...] | None) -> Unit:
    return replace(unit, known=known) if isinstance(unit, TextFile) else unit


def _with_known_keys(records: Iterator[Record], known: tuple[str, ...]) -> Iterator[Record]:
    """Adds a fault to rows with a key that is not a column: it would be dropped silently."""
    columns = set(known)
    for record in records:
        odd = next((key for key in record.values if key not in columns), None)
        if odd is None:
            yield record
        else:
            fault = (
                f"key {odd!r} is not in the first rows, so no column {list(known)}; name the columns to read "
                f"in `columns`, or add it with types: {{{odd}: …}}"
            )
            yield record._replace(fault=fault, values={}, raw=repr(record.values)[:200])


def _kept(types: Mapping[str, pa.DataType], wanted: Sequence[str] | None) -> dict[str, pa.DataType]:
    asked = set(types if wanted is None else wanted)
    return {name: kind for name, kind in types.items() if name in asked}


def _format_of(file: File) -> str:
    stem, suffix = os.path.splitext(file.path.lower())
    if suffix in _PACKED:
        suffix = os.path.splitext(stem)[1]
    for kind, ends in _SUFFIXES.items():
        if suffix in ends:
            return kind
    raise SourceError(f"{file.name}: the suffix does not tell the format; set `format` to one of {FORMATS}.")
