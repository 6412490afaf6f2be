"""Scores a piece of a corpus in a worker: rows with a query and documents in, with their scores out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ray_st.data.sources import ROW, BadRow, Files, SourceError
from ray_st.runtime.encode.job import Reranker, files_hash, scorer_hash
from ray_st.runtime.encode.output_folder import OutputFolder
from ray_st.runtime.encode.work import check_texts, raise_for, windows
from ray_st.runtime.encode.work_plan import WorkPiece
from ray_st.util.arrow import is_list, is_text
from ray_st.util.names import did_you_mean

SCORE, SCORES, LABEL = "score", "scores", "label"
"""Names of the added column: of one document a row, of several, and of their margins."""


@dataclass(frozen=True)
class RowScoring:
    """How each row is scored.

    Args:
        columns: The column of the query, then those of its documents; a column of documents holds a text or a
            list of texts.
        margins: Whether to write how much higher the score of the first document is than those of the
            others, as MarginMSELoss takes it, in place of scores.
        logits: Whether to write what the model computes, without its activation function.
        prompt_name: Name of the model's prompt.
        prompt: The prompt text. Overrides ``prompt_name``.
        batch_size: Number of pairs per batch.
    """

    columns: tuple[str, ...]
    margins: bool = False
    logits: bool = False
    prompt_name: str | None = None
    prompt: str | None = None
    batch_size: int = 32

    def for_predict(self) -> dict[str, Any]:
        """Arguments of ``model.predict``."""
        given = {
            name: value for name in ("prompt_name", "prompt") if (value := getattr(self, name)) is not None
        }
        plain = {"activation_fn": torch.nn.Identity()} if self.logits else {}
        return {
            **given,
            **plain,
            "batch_size": self.batch_size,
            "convert_to_numpy": True,
            "show_progress_bar": False,
        }


def choose_columns(kinds: Mapping[str, pa.DataType], asked: Sequence[str]) -> tuple[str, ...]:
    """The columns to score: the requested ones, or all that hold texts or lists of texts.

    Args:
        kinds: The input's columns and their types.
        asked: The requested columns, the query's first; none for all.

    Raises:
        ValueError: If a column is missing or holds anything else, or there are fewer than two.
    """
    known = {name: kind for name, kind in kinds.items() if _holds_texts(kind)}
    for name in asked:
        if name not in kinds:
            raise ValueError(f"no column {name!r} to score; {did_you_mean(name, list(kinds))}")
        if name not in known:
            raise ValueError(f"column {name!r}: expected texts or lists of texts, found {kinds[name]}")
    chosen = tuple(asked) or tuple(known)
    if len(chosen) < 2:
        raise ValueError(
            f"scoring needs a column of queries and one of documents; found {list(chosen)} in {list(kinds)}"
        )
    if not is_text(kinds[chosen[0]]) and not pa.types.is_null(kinds[chosen[0]]):
        raise ValueError(
            f"column {chosen[0]!r}: expected a query's text in each row, found {kinds[chosen[0]]}"
        )
    return chosen


def check_new_column(kinds: Mapping[str, pa.DataType], options: RowScoring) -> str:
    """The name of the column that is added.

    Args:
        kinds: The input's columns and their types.
        options: How it is scored.

    Raises:
        ValueError: If the input has such a column, or there is one document, which has no margin.
    """
    several = len(options.columns) > 2 or is_list(kinds[options.columns[1]])
    if options.margins and not several:
        raise ValueError("margins need at least two documents in each row; found one column of texts")
    name = LABEL if options.margins else SCORES if several else SCORE
    if name in kinds:
        raise ValueError(f"already has a column {name!r}; rename or drop it")
    return name


def score_facts(
    model: Reranker, source: Files, pieces: Sequence[WorkPiece], options: RowScoring
) -> dict[str, Any]:
    """The facts that the output depends on; see :func:`ray_st.runtime.encode.job.facts_of`."""
    recorded = asdict(options)
    del recorded["batch_size"]
    return {
        "model": scorer_hash(model),
        "input": files_hash(source),
        "input_files": len(source.files),
        "rows": sum(piece.rows for piece in pieces),
        "parts": len(pieces),
        **recorded,
        "columns": list(options.columns),
    }


def score_piece(model: Reranker, piece: WorkPiece, options: RowScoring, folder: OutputFolder) -> int:
    """Scores a piece and writes its file; see :func:`write_scored`.

    Args:
        model: The model.
        piece: What to score.
        options: How to score it.
        folder: The output folder.

    Returns:
        The number of rows.
    """
    with folder.writing(piece.name) as stream:
        return write_scored(model, [piece], options, stream)


def write_scored(
    model: Reranker, pieces: Iterable[WorkPiece], options: RowScoring, target: pa.NativeFile | str
) -> int:
    """Writes a Parquet file with all columns of the input, and that of scores.

    Args:
        model: The model.
        pieces: What to score.
        options: How to score it.
        target: The file's path, or a stream.

    Returns:
        The number of rows.

    Raises:
        SourceError: If a row is unusable, naming file, row and column; or if a file has changed.
    """
    with ExitStack() as stack:
        writer, total = None, 0
        for piece in pieces:
            rows = 0
            for written in scored_tables(model, piece, options):
                writer = writer or stack.enter_context(pq.ParquetWriter(target, written.schema))
                writer.write_table(written)
                rows += len(written)
            if rows != piece.rows:
                raise SourceError(
                    f"{piece.part.name}: {rows} rows where {piece.rows} were counted: the file has changed."
                )
            total += rows
        return total


def scored_tables(model: Reranker, piece: WorkPiece, options: RowScoring) -> Iterator[pa.Table]:
    """The rows of a piece with their scores, a few thousand at a time; see :func:`write_scored`."""
    for table in windows(piece.part.read(raise_for, numbered=True)):
        for column in options.columns:
            check_texts(piece.part.name, table, column)
        name, scores = score_column(model, piece.part.name, table, options)
        yield table.drop_columns([ROW]).append_column(name, scores)


def score_column(model: Reranker, file: str, table: pa.Table, options: RowScoring) -> tuple[str, pa.Array]:
    """Name and values of the column of scores.

    Args:
        model: The model.
        file: The file, for errors.
        table: Rows without missing texts.
        options: How to score them.

    Raises:
        SourceError: If a row has fewer than two documents, of which margins are wanted.
    """
    query, *others = (table[name] for name in options.columns)
    several = len(others) > 1 or is_list(others[0].type)
    documents = _together([column.to_pylist() for column in others])
    counts = np.array([len(some) for some in documents], dtype=np.int64)
    queries = query.to_pylist()
    pairs = [(text, other) for text, some in zip(queries, documents, strict=True) for other in some]
    scores = _scores(model, pairs, options)
    if options.margins:
        if len(short := np.flatnonzero(counts < 2)):
            row = table[ROW][int(short[0])].as_py()
            raise_for(BadRow(file, row, f"margins need two documents or more, found {counts[short[0]]}"))
        return LABEL, _margins(scores, counts, in_lists=any(is_list(column.type) for column in others))
    return (SCORES, _lists(scores, counts)) if several else (SCORE, pa.array(scores))


def _scores(model: Reranker, pairs: list[tuple[str, str]], options: RowScoring) -> np.ndarray:
    if not pairs:
        return np.empty(0, dtype=np.float32)
    found = np.asarray(model.predict(pairs, **options.for_predict()), dtype=np.float32)
    scores = found.reshape(-1)
    if len(scores) != len(pairs):
        raise ValueError(f"The model must give one score a pair; got {found.shape} for {len(pairs)} pairs.")
    if len(bad := np.flatnonzero(~np.isfinite(scores))):
        raise ValueError(f"The model's score of {pairs[bad[0]]!r:.160} is {scores[bad[0]]}.")
    return scores


def _together(columns: Sequence[list[Any]]) -> list[list[str]]:
    """The documents of each row, in the order of the columns."""
    return [
        [text for cell in cells for text in ([cell] if isinstance(cell, str) else cell)]
        for cells in zip(*columns, strict=True)
    ]


def _lists(values: np.ndarray, counts: np.ndarray) -> pa.Array:
    ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(ends, pa.array(values))


def _margins(scores: np.ndarray, counts: np.ndarray, in_lists: bool) -> pa.Array:
    """The first score of each row minus each of the others: a number for two columns of texts, else lists."""
    first = np.cumsum(counts) - counts
    others = np.ones(len(scores), dtype=bool)
    others[first] = False
    margins = (np.repeat(scores[first], counts) - scores)[others]
    return _lists(margins, counts - 1) if in_lists or (counts > 2).any() else pa.array(margins)


def _holds_texts(kind: pa.DataType) -> bool:
    return is_text(kind) or pa.types.is_null(kind) or (is_list(kind) and is_text(kind.value_type))
