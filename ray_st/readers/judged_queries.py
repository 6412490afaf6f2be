"""Queries with judged documents, and the rows that losses take: pairs, triplets, labelled pairs or lists."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ray_st.readers.text_rows import ReaderError
from ray_st.util.atomic import replacing
from ray_st.util.names import did_you_mean

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

_QUERIES_AT_ONCE = 1024


@dataclass(frozen=True)
class JudgedQuery:
    """A query with its documents.

    Args:
        place: Where it comes from, for errors.
        query: The query.
        documents: The documents, relevant ones first.
        labels: How relevant each is; 0 for those that are not.
        scores: A teacher's score of each; None without a teacher.
    """

    place: str
    query: str
    documents: list[str]
    labels: list[int]
    scores: list[float] | None = None


Cells = tuple[Any, ...]


@dataclass(frozen=True)
class Shape:
    """How queries become rows.

    Args:
        output_format: "pair", "triplet", "n-tuple", "labeled-pair" or "labeled-list"; see
            :func:`ray_st.readers.read_flag_embedding`.
        num_negatives: Most negatives of a query, the first ones; None for all. Of an n-tuple, exactly.
        output_scores: Whether to write the teacher's scores.

    Raises:
        ValueError: If there is no such format, or ``num_negatives`` does not fit it.
    """

    output_format: str = "triplet"
    num_negatives: int | None = None
    output_scores: bool = False

    def __post_init__(self) -> None:
        if self.output_format not in _FORMATS:
            raise ValueError(
                f"There is no output_format {self.output_format!r}: "
                f"{did_you_mean(self.output_format, list(_FORMATS))}"
            )
        if self.num_negatives is not None and self.num_negatives < 1:
            raise ValueError(f"num_negatives must be at least 1; got {self.num_negatives}.")
        if self.output_format == "n-tuple" and self.num_negatives is None:
            raise ValueError("output_format='n-tuple' needs num_negatives, the number of its last columns.")

    @property
    def schema(self) -> pa.Schema:
        """Columns and types of the dataset."""
        number = pa.float64() if self.output_scores else pa.int64()
        label = "score" if self.output_scores else "label"
        texts = {
            "pair": ["query", "positive"],
            "triplet": ["query", "positive", "negative"],
            "n-tuple": ["query", "positive", *(f"negative_{i + 1}" for i in range(self.num_negatives or 0))],
            "labeled-pair": ["query", "document"],
            "labeled-list": ["query"],
        }[self.output_format]
        columns = [(name, pa.string()) for name in texts]
        if self.output_format == "labeled-list":
            columns += [("documents", pa.list_(pa.string())), (f"{label}s", pa.list_(number))]
        elif self.output_format == "labeled-pair" or (self.output_scores and self.output_format == "pair"):
            columns.append((label, number))
        elif self.output_scores:
            columns.append(("scores", pa.list_(number)))
        return pa.schema(columns)

    def rows(self, query: JudgedQuery) -> list[Cells]:
        """The rows of a query, their cells in the order of the columns.

        Raises:
            ReaderError: If scores are wanted and there are none.
        """
        if self.output_scores and query.scores is None:
            raise ReaderError(f"{query.place}: no scores of its documents, which output_scores=True needs.")
        positives = [place for place, label in enumerate(query.labels) if label > 0]
        negatives = [place for place, label in enumerate(query.labels) if label <= 0]
        return _FORMATS[self.output_format](self, query, positives, negatives[: self.num_negatives])

    def with_scores(self, query: JudgedQuery, *places: int) -> Cells:
        """Query and documents as cells, followed by the documents' scores if they are wanted."""
        texts = (query.query, *(query.documents[place] for place in places))
        return (*texts, self.values(query, places)) if self.output_scores else texts

    def values(self, query: JudgedQuery, places: Iterable[int]) -> list[float]:
        """Scores of documents if they are wanted, else their labels."""
        from_where = query.scores if self.output_scores and query.scores else query.labels
        return [from_where[place] for place in places]


def _pairs(shape: Shape, query: JudgedQuery, positives: list[int], negatives: list[int]) -> list[Cells]:
    scores = [shape.values(query, [place]) if shape.output_scores else [] for place in positives]
    texts = [(query.query, query.documents[place]) for place in positives]
    return [(*pair, *score) for pair, score in zip(texts, scores, strict=True)]


def _triplets(shape: Shape, query: JudgedQuery, positives: list[int], negatives: list[int]) -> list[Cells]:
    return [shape.with_scores(query, one, other) for one in positives for other in negatives]


def _tuples(shape: Shape, query: JudgedQuery, positives: list[int], negatives: list[int]) -> list[Cells]:
    if len(negatives) != shape.num_negatives:
        return []
    return [shape.with_scores(query, one, *negatives) for one in positives]


def _labeled_pairs(
    shape: Shape, query: JudgedQuery, positives: list[int], negatives: list[int]
) -> list[Cells]:
    places = [*positives, *negatives]
    values = shape.values(query, places)
    return [(query.query, query.documents[place], value) for place, value in zip(places, values, strict=True)]


def _labeled_lists(
    shape: Shape, query: JudgedQuery, positives: list[int], negatives: list[int]
) -> list[Cells]:
    places = [*positives, *negatives]
    if not places:
        return []
    return [(query.query, [query.documents[place] for place in places], shape.values(query, places))]


_FORMATS: dict[str, Callable[[Shape, JudgedQuery, list[int], list[int]], list[Cells]]] = {
    "pair": _pairs,
    "triplet": _triplets,
    "n-tuple": _tuples,
    "labeled-pair": _labeled_pairs,
    "labeled-list": _labeled_lists,
}


def as_dataset(queries: Iterable[JudgedQuery], shape: Shape, arrow_file: str | Path | None = None) -> Dataset:
    """A dataset of queries; those that give no row are counted in a warning.

    Args:
        queries: The queries.
        shape: How they become rows.
        arrow_file: A file to write the rows to, and to map into memory; None holds them in memory.

    Raises:
        ReaderError: If no query gives a row, or one cannot be read.
    """
    from datasets import Dataset

    tables = _tables(queries, shape)
    if arrow_file is None:
        return Dataset(pa.concat_tables(tables))
    path = Path(arrow_file).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part, pa.ipc.new_stream(str(part), shape.schema) as writer:
        for table in tables:
            writer.write_table(table)
    return Dataset.from_file(str(path))


def _tables(queries: Iterable[JudgedQuery], shape: Shape) -> Iterator[pa.Table]:
    """Tables of some queries each, at least one row altogether."""
    left, schema = iter(queries), shape.schema
    total = without = rows = 0
    while some := list(islice(left, _QUERIES_AT_ONCE)):
        made = [shape.rows(query) for query in some]
        total, without = total + len(made), without + sum(not cells for cells in made)
        cells = list(chain.from_iterable(made))
        rows += len(cells)
        columns = zip(*cells, strict=True) if cells else [()] * len(schema)
        arrays = [pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)]
        yield pa.table(arrays, schema=schema)
    if not rows:
        raise ReaderError(
            f"None of {total} queries gives a row of the format {shape.output_format!r}{_needs(shape)}. Mine "
            "negatives with mine_hard_negatives, or choose another output_format."
        )
    if without:
        logger.warning(
            "%d of %d queries give no row of the format %r%s.",
            without,
            total,
            shape.output_format,
            _needs(shape),
        )


def _needs(shape: Shape) -> str:
    needs = {
        "pair": "a positive",
        "triplet": "a positive and a negative",
        "n-tuple": f"a positive and {shape.num_negatives} negatives",
    }.get(shape.output_format, "a document")
    return f", which needs {needs}"
