"""The rows of a query, through any driver that implements Python's database API (PEP 249)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa

from ray_st.data.sources.errors import SourceError, message_of, snippet
from ray_st.data.sources.memory import Examples
from ray_st.data.sources.part import Part
from ray_st.data.sources.row_records import infer, sample
from ray_st.data.sources.source import Limits
from ray_st.data.sources.source_kinds import first_duplicate, named_type, pick, type_of_values


@dataclass(frozen=True)
class Query:
    """A query and its database connection.

    Args:
        query: The query.
        connect: Opens a connection.
        parameters: Values for the query's placeholders.
    """

    query: str
    connect: Callable[[], Any]
    parameters: Sequence[Any] | Mapping[str, Any] = ()

    @property
    def name(self) -> str:
        """The beginning of the query."""
        shown = f" with {snippet(repr(self.parameters))}" if self.parameters else ""
        return f"the query {snippet(self.query)!r}{shown}"

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows, fetched one by one with the driver's buffering."""
        with closing(self.connect()) as connection:
            # PEP 249 lets a connection expose its own exceptions; without that, they propagate unchanged.
            errors = getattr(connection, "Error", ())
            try:
                with closing(connection.cursor()) as cursor:
                    cursor.execute(self.query, self.parameters)
                    names = self._names(cursor.description)
                    for values in iter(cursor.fetchone, None):
                        yield dict(zip(names, values, strict=True))
            except errors as error:
                raise SourceError(f"{self.name}: the database says: {message_of(error)}") from error

    def names(self) -> list[str]:
        """The column names, without fetching rows."""
        with closing(self.connect()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(self.query, self.parameters)
            return self._names(cursor.description)

    def _names(self, description: Sequence[Sequence[Any]] | None) -> list[str]:
        if description is None:
            raise SourceError(f"{self.name}: returns no rows; expected a query such as SELECT.")
        names = [str(column[0]) for column in description]
        duplicate = first_duplicate(names)
        if duplicate is not None:
            raise SourceError(f"{self.name}: returns column {duplicate!r} twice; name one of them with AS.")
        return names


@dataclass(frozen=True)
class Sql:
    """The rows of a query as a source.

    The query should have an ORDER BY: a database guarantees no order without it.

    Args:
        query: The query.
        connect: Opens a connection; takes no arguments. It is called wherever rows are read, so it must be
            picklable.
        parameters: Values for the query's placeholders, one set per part; parts are read in parallel, and
            their rows are used in this order.
        types: Types of columns by name, to override what is inferred from the first rows.
        limits: Bounds on what is held in memory.
    """

    query: str
    connect: Callable[[], Any]
    parameters: Sequence[Sequence[Any] | Mapping[str, Any]] = ((),)
    types: Mapping[str, str | pa.DataType] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)

    @property
    def name(self) -> str:
        """The beginning of the query."""
        return Query(self.query, self.connect).name

    def columns(self, wanted: Sequence[str] | None = None) -> dict[str, pa.DataType]:
        """Arrow type of each column; see :meth:`Source.columns`."""
        return pick(self._types, wanted, self.name)

    def parts(self, wanted: Sequence[str] | None = None) -> list[Part]:
        """A part for each set of parameters; see :meth:`Source.parts`."""
        schema = pa.schema(list(self.columns(wanted).items()))
        units = map(self._unit, self._queries)
        return [Part(unit, schema, tuple(schema.names), limits=self.limits) for unit in units]

    @property
    def _queries(self) -> list[Query]:
        return [Query(self.query, self.connect, parameters) for parameters in self.parameters]

    def _unit(self, query: Query) -> Examples:
        return Examples(query.rows, query.name, local=False, held=False)

    @cached_property
    def _types(self) -> dict[str, pa.DataType]:
        queries = self._queries
        first = next((found for query in queries if (found := sample(self._unit(query).records()))), [])
        names = None if first else queries[0].names()
        types = infer(first, lambda _, values: type_of_values(values), names)
        return {
            name: named_type(self.types[name], name) if name in self.types else _or_text(kind)
            for name, kind in types.items()
        }


def _or_text(kind: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_null(kind) else kind
