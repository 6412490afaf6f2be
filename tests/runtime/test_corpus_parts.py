"""A corpus job's parts without Ray: what is planned, what is refused, what a worker writes, what a folder remembers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_st import SentenceTransformer
from ray_st.data.sources import Files, Limits, SourceError
from ray_st.models import Pooling
from ray_st.runtime.encode.job import EncodeOptions, differences, facts_of, model_hash
from ray_st.runtime.encode.output_folder import JOB, MANIFEST, OutputError, OutputFolder
from ray_st.runtime.encode.work import (
    bounds_of,
    calibration_pieces,
    encode_piece,
    joined_bounds,
    vector_column,
    windows,
)
from ray_st.runtime.encode.work_plan import WorkPiece, choose_column, plan_pieces
from ray_st.util.search.quantize import quantize_embeddings

WORDS = ["good text", "bad weather", "a sunny day", "pasta", "man eats pasta and text"]


def write(path: Path, rows: int, first: int = 0, **columns: Any) -> None:
    texts = [WORDS[row % len(WORDS)] + " the" * (row % 7) for row in range(first, first + rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": range(first, first + rows), "text": texts, **columns}), path)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    write(tmp_path / "in/a.parquet", 25)
    write(tmp_path / "in/b.parquet", 0)
    write(tmp_path / "in/deep/c.parquet", 10, first=25)
    return tmp_path / "in"


def pieces_of(corpus: Path, part_rows: int = 10) -> list[WorkPiece]:
    return plan_pieces(Files(corpus), "text", part_rows)[1]


def test_pieces_hold_every_row_once(corpus: Path) -> None:
    column, pieces = plan_pieces(Files(corpus), None, 10)
    assert column == "text"
    assert [piece.rows for piece in pieces] == [10, 10, 5, 10]
    assert [piece.name for piece in pieces] == [f"part-00000{number}.parquet" for number in range(4)]
    ids = [row for piece in pieces for table in piece.part.read() for row in table["id"].to_pylist()]
    assert ids == list(range(35))


def test_other_formats_are_counted(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("".join(f"line {row}\n" for row in range(7)))
    assert [piece.rows for piece in plan_pieces(Files(tmp_path / "lines.txt"), None, 3)[1]] == [3, 3, 1]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda at: pq.write_table(pa.table({"id": [1], "txt": ["a"]}), at),
            r"d.parquet: column 'text' is missing",
        ),
        (
            lambda at: pq.write_table(pa.table({"id": ["x"], "text": ["a"]}), at),
            r"d.parquet: column 'id' is of type",
        ),
        (lambda at: at.write_bytes(b"PAR1 no"), r"d.parquet: cannot be read as Parquet"),
        (lambda at: at.touch(), r"d.parquet: the file is empty"),
        (
            lambda at: pq.write_table(pa.table({"id": [1, 2], "text": ["a", None]}), at),
            r"d.parquet: column 'text': 1 of 2 texts in row group 0 are missing",
        ),
    ],
    ids=["missing column", "other type", "damaged", "empty", "null texts"],
)
def test_one_odd_file_of_many_is_named(spoil: Any, message: str, corpus: Path) -> None:
    spoil(corpus / "d.parquet")
    with pytest.raises(SourceError, match=message):
        pieces_of(corpus)


@pytest.mark.parametrize(
    ("names", "asked", "message"),
    [
        (["id", "txt"], None, "no column 'text' to encode; did you mean 'txt'"),
        (["text", "embedding"], None, "already has a column `embedding`"),
        (["text"], "txt", "no column 'txt'"),
    ],
)
def test_columns_that_cannot_be_encoded(names: list[str], asked: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose_column(names, asked)


def test_what_else_cannot_be_planned(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="column 'id': expected texts, found int64"):
        plan_pieces(Files(corpus), "id")
    with pytest.raises(SourceError, match="part_rows must be at least 1; got 0"):
        plan_pieces(Files(corpus), None, 0)
    with pytest.raises(SourceError, match="no rows"):
        plan_pieces(Files(corpus / "b.parquet"), None)


@pytest.mark.parametrize("precision", ["float32", "int8", "uint8", "binary", "ubinary"])
def test_a_worker_writes_all_columns_and_the_vectors(
    precision: str, corpus: Path, tmp_path: Path, tiny_model: Any
) -> None:
    folder, options = OutputFolder.at(tmp_path), EncodeOptions("text", batch_size=4, precision=precision)
    piece = pieces_of(corpus)[1]
    ranges = np.stack([-np.ones(32), np.ones(32)])
    assert encode_piece(tiny_model, piece, options, folder, ranges) == 10
    written = pq.read_table(tmp_path / piece.name)
    assert written["id"].to_pylist() == list(range(10, 20))
    vectors = np.stack(written["embedding"].to_numpy())
    single = tiny_model.encode(written["text"].to_pylist(), batch_size=4)
    expected = quantize_embeddings(single, precision, ranges)
    np.testing.assert_array_equal(vectors, expected)
    assert vectors.dtype == expected.dtype
    assert written.column_names == ["id", "text", "embedding"]
    assert written.schema.field("embedding").type.list_size == expected.shape[1]


def test_a_row_without_text_is_named_and_nothing_is_left(tmp_path: Path, tiny_model: Any) -> None:
    (tmp_path / "rows.csv").write_text("text,n\ngood,1\n" * 1 + "bad,2\n,3\n")
    [piece] = plan_pieces(Files(tmp_path / "rows.csv"), "text")[1]
    out = tmp_path / "out"
    folder = OutputFolder.at(out)
    assert folder.begin({}) is None
    with pytest.raises(
        SourceError, match=r"rows.csv, row 2, column 'text': expected a text, found nothing\.$"
    ):
        encode_piece(tiny_model, piece, EncodeOptions("text"), folder)
    assert list(out.iterdir()) == []


def test_a_file_that_shrank_is_refused(corpus: Path, tmp_path: Path, tiny_model: Any) -> None:
    pieces = pieces_of(corpus)
    write(corpus / "a.parquet", 22)
    with pytest.raises(SourceError, match="2 rows where 5 were counted: the file has changed"):
        encode_piece(tiny_model, pieces[2], EncodeOptions("text"), OutputFolder.at(tmp_path))


def test_windows_join_small_tables_within_limits() -> None:
    tables = [pa.table({"n": [number] * 3}) for number in range(5)]
    assert [len(table) for table in windows(tables, Limits(rows=7))] == [6, 6, 3]
    assert [len(table) for table in windows(tables, Limits(bytes=50))] == [6, 6, 3]
    assert [len(table) for table in windows(tables, Limits(bytes=1))] == [3] * 5
    assert pa.concat_tables(windows(tables)).equals(pa.concat_tables(tables))


def test_ranges_do_not_depend_on_who_finds_them(corpus: Path, tiny_model: Any) -> None:
    pieces = calibration_pieces(pieces_of(corpus))
    assert sum(piece.rows for piece in pieces) == 35
    bounds = [bounds_of(tiny_model, piece, EncodeOptions("text")) for piece in pieces]
    np.testing.assert_array_equal(joined_bounds(bounds), joined_bounds(bounds[::-1]))
    texts = [text for piece in pieces for table in piece.part.read() for text in table["text"].to_pylist()]
    every = tiny_model.encode(texts)
    np.testing.assert_allclose(joined_bounds(bounds), [every.min(axis=0), every.max(axis=0)], atol=1e-6)


def test_the_sample_is_spread_and_bounded(tmp_path: Path) -> None:
    write(tmp_path / "long.parquet", 20_000)
    pieces = plan_pieces(Files(tmp_path / "long.parquet"), None, 100)[1]
    sample = calibration_pieces(pieces)
    assert len(sample) == 64
    assert sum(piece.rows for piece in sample) == 6400
    assert sample[-1].part.start == pieces[196].part.start
    assert [piece.rows for piece in calibration_pieces(pieces_of(tmp_path, 20_000))] == [8192]
    write(tmp_path / "short/one.parquet", 1)
    with pytest.raises(SourceError, match=r"one\.parquet: int8 and uint8 need at least two rows"):
        calibration_pieces(pieces_of(tmp_path / "short"))


def test_a_model_is_known_by_what_it_does(tiny_folder: Path, tiny_model: Any, tmp_path: Path) -> None:
    known = model_hash(tiny_model)
    tiny_model.encode(["used before"])
    tiny_model.save(tmp_path / "moved")
    assert model_hash(SentenceTransformer(tmp_path / "moved", device="cpu")) == known
    others = [SentenceTransformer(tiny_folder, device="cpu") for _ in range(4)]
    others[0].max_seq_length = 9
    others[1].prompts["query"] = "q: "
    others[2][0].auto_model.embeddings.word_embeddings.weight.data[3, 3] += 1e-3
    others[3][1] = Pooling(32, "cls")
    assert len({known, *map(model_hash, others)}) == 5


def test_facts_tell_jobs_apart(corpus: Path, tiny_model: Any) -> None:
    def facts(part_rows: int = 10, **options: Any) -> dict[str, Any]:
        source = Files(corpus)
        return facts_of(
            tiny_model, source, plan_pieces(source, None, part_rows)[1], EncodeOptions("text", **options)
        )

    then = facts()
    assert json.loads(json.dumps(then)) == then
    assert differences(then, facts(batch_size=2)) == []
    assert differences(then, facts(precision="int8")) == ["precision was 'float32', is 'int8'"]
    assert differences(then, facts(part_rows=5)) == ["parts was 4, is 7"]
    write(corpus / "b.parquet", 1)
    assert differences(then, facts()) == [
        "other input files, or changed ones",
        "rows was 35, is 36",
        "parts was 4, is 5",
    ]


def test_a_folder_goes_on_where_it_was(corpus: Path, tmp_path: Path, tiny_model: Any) -> None:
    pieces, folder = pieces_of(corpus), OutputFolder.at(tmp_path / "out")
    assert folder.begin({"model": 1}) is None
    folder.keep({"model": 1, "ranges": None})
    for piece in pieces[:3]:
        encode_piece(tiny_model, piece, EncodeOptions("text"), folder)
    (tmp_path / "out" / ".writing-0123").write_bytes(b"half")
    pq.write_table(pa.table({"id": [1]}), tmp_path / "out" / pieces[1].name)
    (tmp_path / "out" / pieces[2].name).write_bytes(b"PAR1 torn")
    assert folder.begin({"model": 1}) == {"model": 1, "ranges": None}
    assert not (tmp_path / "out" / ".writing-0123").exists()
    assert folder.done(pieces) == {pieces[0].name}
    with pytest.raises(OutputError, match=r"part-000001.parquet is missing or has other rows"):
        folder.finish({}, pieces)
    for piece in pieces[1:]:
        encode_piece(tiny_model, piece, EncodeOptions("text"), folder)
    folder.finish({"model": 1}, pieces)
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert [part["rows"] for part in manifest["files"]] == [10, 10, 5, 10]
    assert pq.read_table(tmp_path / "out")["id"].to_pylist() == list(range(35))


def test_folders_that_hold_something_else(tmp_path: Path) -> None:
    write(tmp_path / "other/x.parquet", 1)
    with pytest.raises(OutputError, match=r"holds other files \(x.parquet\); choose an empty or new folder"):
        OutputFolder.at(tmp_path / "other").begin({"model": 1})
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        OutputFolder.at(tmp_path / "file").begin({"model": 1})
    with pytest.raises(OutputError, match="no file system opens it"):
        OutputFolder.at("nowhere://bucket/x")
    folder = OutputFolder.at(f"file://{tmp_path}/new")
    assert folder.local
    folder.begin({"model": 1})
    folder.keep({"model": 1})
    with pytest.raises(OutputError, match=r"holds the output of another job: another model\. Choose"):
        folder.begin({"model": 2})
    (tmp_path / "new" / JOB).write_text("{torn")
    with pytest.raises(OutputError, match=r"_job\.json is damaged"):
        folder.begin({"model": 1})


def test_vectors_as_a_column() -> None:
    vectors = np.arange(6, dtype=np.int8).reshape(3, 2)
    assert vector_column(vectors).type == pa.list_(pa.int8(), 2)
    assert vector_column(vectors).to_pylist() == vectors.tolist()
