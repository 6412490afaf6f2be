"""Datasets from the files of other trainers: FlagEmbedding, Tevatron and BEIR."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ray_st.readers.json_objects import JsonObject, read_objects
from ray_st.readers.judged_queries import JudgedQuery, Shape, as_dataset
from ray_st.readers.text_rows import ReaderError, Row, read_rows

if TYPE_CHECKING:
    from datasets import Dataset

Paths = str | Path | Sequence[str | Path]


def read_flag_embedding(
    files: Paths,
    output_format: str = "triplet",
    num_negatives: int | None = None,
    output_scores: bool = False,
    arrow_file: str | Path | None = None,
) -> Dataset:
    """Reads FlagEmbedding's training data: JSON Lines with ``query``, ``pos``, ``neg``, and scores.

    ``pos`` and ``neg`` are lists of texts, ``pos_scores`` and ``neg_scores`` a teacher's scores, in lists
    of the same lengths; ``neg`` may be missing. Other fields are not read.

    Formats are those of ``mine_hard_negatives``, with a pair more:

    - "pair": ``query``, ``positive``; a row for each positive.
    - "triplet": ``query``, ``positive``, ``negative``; a row for each positive with each negative.
    - "n-tuple": ``query``, ``positive``, ``negative_1`` to ``negative_n``; a row for each positive, none for
      queries with fewer negatives.
    - "labeled-pair": ``query``, ``document``, ``label`` (1 or 0); a row for each document.
    - "labeled-list": ``query``, ``documents``, ``labels``; a row for each query, positives first.

    With scores, "triplet" and "n-tuple" get ``scores``, a list in the order of the documents; "pair" and
    "labeled-pair" get ``score``, and "labeled-list" ``scores``, in place of labels.

    Args:
        files: A file or several, plain or compressed by gzip.
        output_format: The format.
        num_negatives: Most negatives of a query, the first ones; by default all. An n-tuple needs it.
        output_scores: Whether to write the teacher's scores.
        arrow_file: An Arrow file to write the rows to, from which the dataset is mapped into memory, so that
            its size does not matter; by default rows are held in memory.

    Raises:
        ReaderError: If a file cannot be read, a field is missing or of another kind, or no query gives a row;
            naming file, line and field.
        ValueError: If there is no such format, or ``num_negatives`` does not fit it.
    """
    shape = Shape(output_format, num_negatives, output_scores)
    queries = (_flag_embedding(row, output_scores) for row in _objects(files))
    return as_dataset(queries, shape, arrow_file)


def read_tevatron(
    files: Paths,
    output_format: str = "triplet",
    num_negatives: int | None = None,
    titles: bool = True,
    arrow_file: str | Path | None = None,
) -> Dataset:
    """Reads Tevatron's training data: JSON Lines with queries and their passages.

    Each line has ``query``, ``positive_passages`` and ``negative_passages``. Passages are lists of objects
    with a ``text`` and, if they have one, a ``title``; ``negative_passages`` may be missing. ``query_id``
    and ``docid`` are not read.

    Args:
        files: A file or several, plain or compressed by gzip.
        output_format: As for :func:`read_flag_embedding`.
        num_negatives: Most negatives of a query, the first ones; by default all. An n-tuple needs it.
        titles: Whether to put titles before texts, with a space between them.
        arrow_file: As for :func:`read_flag_embedding`.

    Raises:
        ReaderError: If a file cannot be read, a field is missing or of another kind, or no query gives a row;
            naming file, line and field.
        ValueError: If there is no such format, or ``num_negatives`` does not fit it.
    """
    shape = Shape(output_format, num_negatives)
    return as_dataset((_tevatron(row, titles) for row in _objects(files)), shape, arrow_file)


def read_beir(
    folder: str | Path,
    split: str = "train",
    output_format: str = "pair",
    num_negatives: int | None = None,
    titles: bool = True,
    arrow_file: str | Path | None = None,
) -> Dataset:
    """Reads a dataset in the folder format of BEIR: ``corpus.jsonl``, ``queries.jsonl``, ``qrels/SPLIT.tsv``.

    Documents are relevant if their score in the qrels is above 0; those judged 0 are negatives. Labels are
    the scores. Only texts that the qrels name are held in memory, besides the qrels.

    Args:
        folder: The folder; its files may be compressed by gzip, with or without the ending ``.gz``.
        split: Name of the file of qrels.
        output_format: As for :func:`read_flag_embedding`. Few datasets have documents judged 0, which
            triplets and n-tuples need; others can be mined with ``mine_hard_negatives``.
        num_negatives: Most negatives of a query, the first ones; by default all. An n-tuple needs it.
        titles: Whether to put titles before texts, with a space between them.
        arrow_file: As for :func:`read_flag_embedding`.

    Raises:
        ReaderError: If a file cannot be read, a field is missing or of another kind, a query or document is
            in the qrels only, or no query gives a row; naming file, line and field.
        ValueError: If there is no such format, or ``num_negatives`` does not fit it.
    """
    shape = Shape(output_format, num_negatives)
    root = Path(folder).expanduser()
    judged: dict[str, list[Judgement]] = {}
    for row in read_rows(_there(root / "qrels", f"{split}.tsv"), "\t", csv.QUOTE_NONE):
        if row.fields[0] != "query-id":  # the line of headers
            one = Judgement.of(row)
            judged.setdefault(one.query, []).append(one)
    documents = {one.document for many in judged.values() for one in many}
    queries = _texts(_there(root, "queries.jsonl"), set(judged), titles=False)
    corpus = _texts(_there(root, "corpus.jsonl"), documents, titles)
    return as_dataset((_beir(many, queries, corpus) for many in judged.values()), shape, arrow_file)


@dataclass(frozen=True)
class Judgement:
    """A line of the qrels.

    Args:
        place: File and line, for errors.
        query: Id of the query.
        document: Id of the document.
        score: How relevant the document is; 0 if it is not.
    """

    place: str
    query: str
    document: str
    score: int

    @classmethod
    def of(cls, row: Row) -> Judgement:
        """Reads a line.

        Raises:
            ReaderError: If it does not hold the three fields.
        """
        if len(row.fields) != 3:
            raise ReaderError(
                f"{row.place}: expected three fields, query-id, corpus-id and score, separated by tabs; "
                f"found {len(row.fields)}."
            )
        query, document, word = (row.field(column) for column in range(3))
        try:
            return cls(row.place, query, document, int(word))
        except ValueError:
            raise ReaderError(
                f"{row.place}, field 'score': expected a whole number, found {word!r}."
            ) from None


def _objects(files: Paths) -> Iterator[JsonObject]:
    paths = [files] if isinstance(files, str | Path) else files
    return (row for path in paths for row in read_objects(Path(path).expanduser()))


def _flag_embedding(row: JsonObject, with_scores: bool) -> JudgedQuery:
    query, positives = row.text("query"), row.texts("pos")
    negatives = row.texts("neg") if row.has("neg") else []
    scores = None
    if with_scores:
        scores = row.numbers("pos_scores", len(positives), "pos")
        scores += row.numbers("neg_scores", len(negatives), "neg") if negatives else []
    labels = [1] * len(positives) + [0] * len(negatives)
    return JudgedQuery(row.place, query, [*positives, *negatives], labels, scores)


def _tevatron(row: JsonObject, titles: bool) -> JudgedQuery:
    query = row.text("query")
    positives = [_document(passage, titles) for passage in row.objects("positive_passages")]
    others = row.objects("negative_passages") if row.has("negative_passages") else []
    negatives = [_document(passage, titles) for passage in others]
    labels = [1] * len(positives) + [0] * len(negatives)
    return JudgedQuery(row.place, query, [*positives, *negatives], labels)


def _beir(judged: Sequence[Judgement], queries: dict[str, str], corpus: dict[str, str]) -> JudgedQuery:
    ordered = sorted(judged, key=lambda one: -one.score)
    for one in ordered:
        for key, texts, field, file in (
            (one.query, queries, "query-id", "queries.jsonl"),
            (one.document, corpus, "corpus-id", "corpus.jsonl"),
        ):
            if key not in texts:
                raise ReaderError(f"{one.place}, field {field!r}: {key!r} is not in {file}.")
    documents = [corpus[one.document] for one in ordered]
    labels = [one.score for one in ordered]
    return JudgedQuery(judged[0].place, queries[judged[0].query], documents, labels)


def _document(row: JsonObject, titles: bool) -> str:
    """The text of a document, after its title if it has one; one of both must not be empty."""
    title = row.fields.get("title") if titles else None
    if isinstance(title, str) and title.strip():
        text = row.fields.get("text")
        return f"{title} {text}".strip() if isinstance(text, str) and text.strip() else title
    return row.text("text")


def _texts(path: Path, wanted: set[str], titles: bool) -> dict[str, str]:
    """The wanted texts of a file by their ids."""
    found: dict[str, str] = {}
    for row in read_objects(path):
        key = row.key("_id")
        if key in wanted:
            found[key] = _document(row, titles)
    return found


def _there(folder: Path, name: str) -> Path:
    """A file, or the one of that name that ends in ``.gz``."""
    packed = folder / f"{name}.gz"
    return packed if packed.exists() and not (folder / name).exists() else folder / name
