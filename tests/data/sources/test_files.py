from __future__ import annotations

import gzip
import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from ray_st.data.sources import Chosen, Files, Joined, Limits, SourceError, Table
from ray_st.data.sources.source_kinds import first_duplicate

ROWS = [
    {"a": "one", "b": "first", "score": 1.0},
    {"a": 'a "quoted" word', "b": "NA", "score": 0.5},
    {"a": "two, three", "b": "zwölf", "score": 0.0},
]
TABLE = pa.Table.from_pylist(ROWS)
CSV = 'a,b,score\none,first,1.0\n"a ""quoted"" word",NA,0.5\n"two, three",zwölf,0\n'


def write_all(folder: Path) -> None:
    Path(folder, "t.csv").write_text(CSV)
    Path(folder, "crlf.csv").write_bytes(b"\xef\xbb\xbf" + CSV.replace("\n", "\r\n").encode())
    Path(folder, "t.csv.gz").write_bytes(gzip.compress(CSV.encode()))
    plain = "\n".join("\t".join(map(str, row.values())) for row in ROWS)
    Path(folder, "t.tsv").write_text("a\tb\tscore\n" + plain)
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    Path(folder, "t.jsonl").write_text("\n\n".join(lines))
    Path(folder, "t.json").write_text("[" + ",\n".join(lines) + "]")
    pq.write_table(TABLE, folder / "t.parquet", row_group_size=2)
    coded = TABLE.set_column(0, "a", TABLE["a"].dictionary_encode()).cast(
        pa.schema(
            [("a", pa.dictionary(pa.int32(), pa.string())), ("b", pa.large_string()), ("score", pa.float64())]
        )
    )
    feather.write_feather(coded, folder / "t.feather", compression="lz4")
    with pa.ipc.new_stream(folder / "t.arrow", TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=2)


NAMES = ["t.csv", "crlf.csv", "t.csv.gz", "t.tsv", "t.jsonl", "t.json", "t.parquet", "t.feather", "t.arrow"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("limits", [Limits(), Limits(rows=1), Limits(bytes=1)])
def test_every_format_gives_the_same_rows(tmp_path: Path, rows_of: Any, name: str, limits: Limits) -> None:
    write_all(tmp_path)
    source = Files(name, limits=limits)
    assert source.columns() == {"a": pa.string(), "b": pa.string(), "score": pa.float64()}
    assert rows_of(source) == ROWS
    assert sum(part.count() for part in source.parts()) == 3
    assert [row["source_row"] for row in rows_of(source, numbered=True)] == [0, 1, 2]
    assert all(part.local for part in source.parts())


@pytest.mark.parametrize("name", NAMES)
def test_every_format_through_another_file_system(tmp_path: Path, rows_of: Any, name: str) -> None:
    write_all(tmp_path)
    store = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    assert rows_of(Files(name, filesystem=store)) == ROWS
    assert rows_of(Files(f"file://{tmp_path}/{name}")) == ROWS


def test_plain_text_is_one_column(tmp_path: Path, rows_of: Any) -> None:
    Path("t.txt").write_text("one\n\ntwo\r\nthree")
    assert [row["text"] for row in rows_of(Files("t.txt"))] == ["one", "", "two", "three"]


def test_only_the_chosen_columns_are_read_and_checked(tmp_path: Path, rows_of: Any) -> None:
    pq.write_table(pa.table({"a": ["x"], "z": [1]}), "1.parquet")
    pq.write_table(pa.table({"z": ["word"], "a": ["y"]}), "2.parquet")
    with pytest.raises(
        SourceError, match=r"2\.parquet: column 'z' is of type string; expected int64, as in 1\.parq"
    ):
        Files("*.parquet").columns()
    assert rows_of(Chosen(Files("*.parquet"), ["a"])) == [{"a": "x"}, {"a": "y"}]


def test_a_csv_without_header_with_another_delimiter(tmp_path: Path, rows_of: Any) -> None:
    Path("t.csv").write_text("a;1\nb;2\n")
    source = Files("t.csv", names=["text", "label"], delimiter=";")
    assert rows_of(source) == [{"text": "a", "label": 1}, {"text": "b", "label": 2}]


def test_types_are_told_widened_over_files_or_declared(tmp_path: Path, rows_of: Any) -> None:
    Path("1.csv").write_text("a,b,c,d,e\nx,,1,true,7\n")
    Path("2.csv").write_text("a,b,c,d,e\ny,2.5,1.5,false,8\n")
    source = Files("?.csv", types={"e": "string"})
    kinds = [pa.string(), pa.float64(), pa.float64(), pa.bool_(), pa.string()]
    assert list(source.columns().values()) == kinds
    assert rows_of(source)[0] == {"a": "x", "b": None, "c": 1.0, "d": True, "e": "7"}
    with pytest.raises(SourceError, match="unknown type 'sting'"):
        Files("?.csv", types={"e": "sting"}).columns()


def test_parquet_is_cut_at_row_groups(tmp_path: Path, rows_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_st.data.sources.parquet.UNIT_BYTES", 1)
    write_all(tmp_path)
    parts = Files("t.parquet").parts()
    assert [part.count() for part in parts] == [2, 1]
    assert rows_of(Files("t.parquet"), numbered=True)[2]["source_row"] == 2


def test_tables_stay_small_and_a_large_cell_does_not_multiply() -> None:
    texts = ["x"] * 50 + ["y" * 400_000] * 8 + ["z"] * 50
    pq.write_table(pa.table({"a": texts}), "t.parquet")
    Path("t.csv").write_text("a\n" + "\n".join(texts))
    Path("t.jsonl").write_text("\n".join(json.dumps({"a": text}) for text in texts))
    for name in ("t.parquet", "t.csv", "t.jsonl"):
        (part,) = Files(name, limits=Limits(rows=30, bytes=1_000_000)).parts()
        tables = list(part.read())
        assert [text for table in tables for text in table["a"].to_pylist()] == texts
        assert max(map(len, tables)) <= 30
        assert max(table.nbytes for table in tables) <= 1_001_000


def test_a_repeated_long_text_takes_the_memory_of_one() -> None:
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 5000, pa.int32()), ["x" * 1_000_000])
    pq.write_table(pa.table({"a": column}), "t.parquet")
    (part,) = Files("t.parquet", limits=Limits(bytes=4_000_000)).parts()
    before = pa.total_allocated_bytes()
    pool = pa.default_memory_pool()
    rows = peak = 0
    for table in part.read():
        rows += len(table)
        peak = max(peak, pa.total_allocated_bytes() - before)
    assert rows == 5000
    assert peak < 40_000_000
    assert pool.bytes_allocated() - before < 20_000_000


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl", "txt", "arrow"])
def test_a_cell_over_the_limit_is_named(kind: str) -> None:
    table = pa.table({"text": ["ok", "x" * 3000, "fine"]})
    if kind == "parquet":
        pq.write_table(table, "t.parquet")
    elif kind == "arrow":
        feather.write_feather(table, "t.arrow")
    elif kind == "jsonl":
        Path("t.jsonl").write_text("\n".join(map(json.dumps, table.to_pylist())))
    else:
        Path(f"t.{kind}").write_text("text\n" * (kind == "csv") + "\n".join(table["text"].to_pylist()))
    (part,) = Files(f"t.{kind}", limits=Limits(cell=2000)).parts()
    with pytest.raises(
        SourceError, match=rf"t\.{kind}, row 1, column 'text': a value of 3,000 bytes; at most 2,000"
    ):
        list(part.read())
    aside: list[Any] = []
    assert [text for table in part.read(aside.append) for text in table["text"].to_pylist()] == ["ok", "fine"]
    assert [(bad.file, bad.row, bad.column) for bad in aside] == [(f"t.{kind}", 1, "text")]


def test_a_line_without_end_is_not_held() -> None:
    Path("t.csv").write_text("a,b\nx,y\n" + "z" * 5000 + "\nlast,row\n")
    (part,) = Files("t.csv", limits=Limits(cell=500)).parts()
    aside: list[Any] = []
    assert [table.to_pylist() for table in part.read(aside.append)] == [
        [{"a": "x", "b": "y"}, {"a": "last", "b": "row"}]
    ]
    assert str(aside[0]) == "t.csv, line 3: the line is longer than 2,000 bytes"


class TestBadText:
    CSV = b'a,b\none,two\n\nthree\nfo\xffur,five\n"two\nlines",six\nseven,eight,nine\nten,eleven\n'

    def test_a_ragged_line_is_named(self) -> None:
        Path("t.csv").write_bytes(self.CSV)
        with pytest.raises(
            SourceError, match=r"t\.csv, line 4: expected 2 fields, found 1\. Correct.*bad_rows="
        ):
            list(Files("t.csv").parts()[0].read())

    def test_bad_rows_are_put_aside_and_counted(self, rows_of: Any) -> None:
        Path("t.csv").write_bytes(self.CSV)
        aside: list[Any] = []
        rows = rows_of(Files("t.csv"), aside.append, numbered=True)
        assert [(row["a"], row["source_row"]) for row in rows] == [("one", 0), ("two\nlines", 3), ("ten", 5)]
        assert [(bad.row, bad.line) for bad in aside] == [(1, 4), (2, 5), (4, 8)]
        assert aside[1].reason.startswith("not UTF-8: byte 3 of the line")
        assert aside[1].raw == "fo\\xffur,five"
        assert aside[2].raw == "seven,eight,nine"
        assert len(rows) + len(aside) == Files("t.csv").parts()[0].count()

    def test_a_quotation_mark_that_is_never_closed(self) -> None:
        Path("t.csv").write_text('a,b\n1,2\n3,"4\n5,6\n')
        with pytest.raises(
            SourceError, match=r"line 3: a quotation mark is never closed \(read up to line 4\)"
        ):
            list(Files("t.csv").parts()[0].read())
        Path("u.csv").write_text('a,b\n1,"x" y\n')
        with pytest.raises(SourceError, match=r"line 2: .*quoted: false"):
            list(Files("u.csv").parts()[0].read())

    def test_an_open_quotation_mark_ends_at_the_limit(self) -> None:
        Path("t.csv").write_text('a,b\n1,"2\n' + "3,4\n" * 1000)
        aside: list[Any] = []
        tables = list(Files("t.csv", limits=Limits(cell=100)).parts()[0].read(aside.append))
        assert len(aside) == 1
        assert "quotation mark not closed" in aside[0].reason
        assert sum(map(len, tables)) == 1000 - 99  # those that the text of one record took in

    def test_a_value_of_another_type(self) -> None:
        Path("t.csv").write_text("a,score\n" + "x,1\n" * 1200 + "y,many\nz,2\n")
        part = Files("t.csv").parts()[0]
        with pytest.raises(
            SourceError, match=r"line 1202, column 'score': expected int64.*'many'.*types: \{score"
        ):
            list(part.read())
        aside: list[Any] = []
        assert sum(map(len, part.read(aside.append))) == 1201
        assert [(bad.row, bad.line, bad.column) for bad in aside] == [(1200, 1202, "score")]

    def test_a_stray_word_in_a_label_column_does_not_make_it_text(self) -> None:
        Path("t.csv").write_text("a,label\nx,1\ny,one\nz,2\n")
        assert Files("t.csv").columns()["label"] == pa.int64()

    def test_json_lines(self) -> None:
        lines = [
            '{"a": "x", "n": 1}',
            "[1]",
            '{"a": "y"',
            '{"a": 3, "n": 1}',
            '{"a": "z", "n": 2}',
            '{"a": "\\ud800"}',
        ]
        Path("t.jsonl").write_text("\n".join(lines))
        part = Files("t.jsonl").parts()[0]
        with pytest.raises(SourceError, match=r"t\.jsonl, line 2: expected an object.*found \[1\] \(list\)"):
            list(part.read())
        aside: list[Any] = []
        (table,) = part.read(aside.append)
        assert table.to_pylist() == [{"a": "x", "n": 1}, {"a": "z", "n": 2}]
        assert sorted(bad.line for bad in aside) == [2, 3, 4, 6]

    def test_a_key_that_comes_late_is_not_lost(self, rows_of: Any) -> None:
        Path("t.jsonl").write_text('{"a": "x"}\n' * 1100 + '{"a": "y", "b": "late"}\n')
        with pytest.raises(SourceError, match=r"line 1101: key 'b' is not in the first rows.*types: \{b"):
            rows_of(Files("t.jsonl"))
        assert rows_of(Chosen(Files("t.jsonl"), ["a"]))[-1] == {"a": "y"}
        rows = rows_of(Files("t.jsonl", types={"b": "string"}))
        assert (rows[0], rows[-1]) == ({"a": "x", "b": None}, {"a": "y", "b": "late"})

    def test_types_of_no_column(self) -> None:
        Path("t.csv").write_text("a,score\n1,2\n")
        with pytest.raises(SourceError, match=r"t\.csv: no column 'scroe'; did you mean 'score'"):
            Files("t.csv", types={"scroe": "float64"}).columns()

    def test_utf_16(self) -> None:
        Path("t.csv").write_text("a,b\n1,2\n", encoding="utf-16")
        with pytest.raises(SourceError, match=r"t\.csv: is in UTF-16"):
            Files("t.csv").columns()

    def test_a_header_that_cannot_be(self) -> None:
        Path("t.csv").write_text("a,a\n1,2\n")
        with pytest.raises(SourceError, match="the header has 'a' twice"):
            Files("t.csv").columns()


def test_text_in_columns_is_checked_to_be_utf_8() -> None:
    bad = pa.Array.from_buffers(pa.string(), 3, pa.array([b"ok", b"\xff\xfe", b"x"]).buffers())
    table = pa.table({"a": bad})
    pq.write_table(table, "t.parquet")
    with pa.ipc.new_file("t.arrow", table.schema) as writer:
        writer.write_table(table)
    for name in ("t.parquet", "t.arrow"):
        part = Files(name).parts()[0]
        with pytest.raises(
            SourceError, match=rf"{name}, row 1, column 'a': expected a text in UTF-8, found.*xff"
        ):
            list(part.read())
        aside: list[Any] = []
        assert [table.to_pylist() for table in part.read(aside.append)] == [[{"a": "ok"}, {"a": "x"}]]
        assert [bad.row for bad in aside] == [1]


class TestFilesThatDiffer:
    def write(self, odd: pa.Table) -> Files:
        for number in range(5):
            table = odd if number == 2 else pa.table({"a": ["x"], "score": [1.0]})
            pq.write_table(table, f"{number}.parquet")
        return Files("*.parquet")

    def test_type(self) -> None:
        source = self.write(pa.table({"a": ["x"], "score": ["high"]}))
        with pytest.raises(
            SourceError, match=r"2\.parquet: column 'score' is of type string; expected double, as in 0"
        ):
            source.columns()

    def test_missing(self) -> None:
        with pytest.raises(SourceError, match=r"2\.parquet: column 'score' is missing; found \['a'\]"):
            self.write(pa.table({"a": ["x"]})).parts()

    def test_extra(self) -> None:
        with pytest.raises(SourceError, match=r"2\.parquet: column 'b' is not in 0\.parquet"):
            self.write(pa.table({"a": ["x"], "score": [1.0], "b": [1]})).columns()

    def test_harmless(self, rows_of: Any) -> None:
        source = self.write(pa.table({"score": pa.array([None]), "a": pa.array(["y"]).dictionary_encode()}))
        assert rows_of(source)[2] == {"a": "y", "score": None}


@pytest.mark.parametrize("keep", [0.5, 0.9])
@pytest.mark.parametrize("name", ["t.parquet", "t.feather", "t.arrow", "t.csv.gz"])
def test_a_broken_file_is_named(tmp_path: Path, rows_of: Any, name: str, keep: float) -> None:
    write_all(tmp_path)
    data = Path(name).read_bytes()
    Path(name).write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(SourceError, match=rf"{name}(: cannot be read as|, row|, line)"):
        rows_of(Files(name))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "nowhere.csv"}, r"nowhere\.csv: no such file; paths"),
        ({"path": "*.nothing"}, "no such file; the pattern matches none"),
        ({"path": "empty.csv"}, r"empty\.csv: the file is empty"),
        ({"path": "folder"}, "folder: no such file; the folder holds none"),
        ({"path": []}, "no paths"),
        ({"path": "nosuch://x/y.csv"}, "no file system opens it"),
        ({"path": ["t.csv", "t.jsonl"]}, r"t\.jsonl: its suffix says json, but that of t\.csv says csv"),
        ({"path": "odd.data"}, "set `format`"),
        ({"path": "t.csv", "format": "cvs"}, "did you mean 'csv'"),
        ({"path": "t.csv", "format": "parquet"}, r"t\.csv: cannot be read as Parquet"),
        ({"path": "t.csv", "format": "json"}, r"t\.csv: .*columns|t\.csv.*not JSON"),
        ({"path": "t.jsonl", "delimiter": ";"}, "`delimiter` is for CSV"),
        ({"path": "t.csv", "delimiter": "::"}, "one character"),
    ],
)
def test_what_cannot_be_read_is_refused(
    tmp_path: Path, rows_of: Any, options: dict[str, Any], message: str
) -> None:
    write_all(tmp_path)
    Path("folder").mkdir()
    Path("empty.csv").touch()
    Path("odd.data").write_text("a\n1\n")
    with pytest.raises(SourceError, match=message):
        rows_of(Files(**options))


class TestWholeNumbers:
    """Digits are whole numbers, exactly, however many there are."""

    @pytest.mark.parametrize(
        ("numbers", "kind"),
        [
            ([123_456_789_012_345_678, 123_456_789_012_345_679], pa.int64()),
            ([-(2**63), 2**63 - 1], pa.int64()),
            ([2**63, 3], pa.uint64()),
            ([2**64 - 1, 0], pa.uint64()),
        ],
    )
    @pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
    def test_are_kept(self, rows_of: Any, numbers: list[int], kind: pa.DataType, suffix: str) -> None:
        path = Path(f"t.{suffix}")
        if suffix == "csv":
            path.write_text("\n".join(["label", *map(str, numbers)]))
        elif suffix == "jsonl":
            path.write_text("\n".join(json.dumps({"label": number}) for number in numbers))
        else:
            pq.write_table(pa.table({"label": pa.array(numbers, kind)}), path)
        assert Files(str(path)).columns() == {"label": kind}
        assert [row["label"] for row in rows_of(Files(str(path)))] == numbers

    @pytest.mark.parametrize("text", ["label\n5\n18446744073709551616", "label\n1e3\n9007199254740993\n0.5"])
    def test_that_no_type_holds_are_refused_with_their_line(self, rows_of: Any, text: str) -> None:
        Path("t.csv").write_text(text)
        with pytest.raises(
            SourceError, match=r"t.csv, line 3, column 'label': expected \w+, .* found '[0-9]{16}"
        ):
            rows_of(Files("t.csv"))
        aside: list[Any] = []
        rows_of(Files("t.csv"), aside.append)
        assert [bad.row for bad in aside] == [1]

    def test_in_json(self, rows_of: Any) -> None:
        Path("t.jsonl").write_text('{"label": 18446744073709551616}\n{"label": 4}')
        with pytest.raises(
            SourceError, match=r"line 1, column 'label': expected int64.*found 18446744073709551616"
        ):
            rows_of(Files("t.jsonl"))

    def test_that_are_no_labels_are_words(self, rows_of: Any) -> None:
        Path("t.csv").write_text(f"id\n{'7' * 30}\n5")
        assert rows_of(Files("t.csv")) == [{"id": "7" * 30}, {"id": "5"}]
        Path("t.csv").write_text(f"id\n{'7' * 5000}")
        assert Files("t.csv").columns() == {"id": pa.string()}

    def test_of_two_files(self, rows_of: Any) -> None:
        Path("a.jsonl").write_text(f'{{"label": {2**63}}}')
        pq.write_table(pa.table({"label": pa.array([5], pa.uint32())}), "b.parquet")
        both = Joined([Files("a.jsonl"), Files("b.parquet")])
        assert rows_of(both) == [{"label": 2**63}, {"label": 5}]


KINDS_OF_TEXT = [
    pa.string_view(),
    pa.large_string(),
    pa.dictionary(pa.int8(), pa.large_string()),
    pa.dictionary(pa.int32(), pa.string_view()),
]


@pytest.mark.parametrize("kind", KINDS_OF_TEXT)
def test_texts_of_any_arrow_type_are_read(rows_of: Any, kind: pa.DataType) -> None:
    texts = ["short", None, "ünï", "", "a text of more than twelve bytes"]
    if pa.types.is_dictionary(kind):
        column = pa.array(texts).dictionary_encode()
        column = pa.DictionaryArray.from_arrays(column.indices, column.dictionary.cast(kind.value_type))
    else:
        column = pa.array(texts).cast(kind)
    table = pa.table({"a": column})
    with pa.ipc.new_file("t.arrow", table.schema) as writer:
        writer.write_table(table)
    for source in (Files("t.arrow"), Table(table), Table(table, limits=Limits(bytes=4))):
        assert source.columns() == {"a": pa.string()}
        assert [row["a"] for row in rows_of(source)] == texts
    assert [row["a"] for row in rows_of(Table(table.slice(2)))] == texts[2:]
    aside: list[Any] = []
    assert len(rows_of(Table(table, limits=Limits(cell=10)), aside.append)) == 4
    assert [(bad.row, bad.reason[:22]) for bad in aside] == [(4, "a value of 32 bytes; a")]


def test_views_that_are_not_utf8_are_named() -> None:
    column = pa.array([b"ok", b"\xff\xfe"], pa.binary_view()).view(pa.string_view())
    with pytest.raises(SourceError, match=r"row 1, column 'a': expected a text in UTF-8"):
        list(Table(pa.table({"a": column})).parts()[0].read())


def test_a_wide_table_takes_time_in_proportion_to_its_width() -> None:
    """29 s for the header of 20,000 columns where each name was looked for in a list of all, 0.1 s without."""
    names = [f"c{number}" for number in range(20_000)]
    Path("t.csv").write_text(",".join(names) + "\n" + ",".join("x" * len(names)))
    began = time.process_time()
    assert list(Chosen(Files("t.csv"), rename={"c1": "text"}).columns())[:2] == ["c0", "text"]
    assert time.process_time() - began < 5


@pytest.mark.parametrize(("names", "double"), [("abcb", "b"), ("abba", "b"), ("abc", None), ("", None)])
def test_the_first_name_that_is_there_twice(names: str, double: str | None) -> None:
    assert first_duplicate(names) == double


class TestLinks:
    """Links to folders are followed; those that lead back are not."""

    def test_a_folder_that_links_to_itself_is_read_once(self, rows_of: Any) -> None:
        for name in ("d/e/f", "other"):
            Path(name).mkdir(parents=True)
        for place, path in enumerate(["d/a.csv", "d/e/b.csv", "d/e/f/c.csv", "other/o.csv"]):
            Path(path).write_text(f"n\n{place}\n")
        for link, to in (("d/self", "."), ("d/e/up", ".."), ("d/e/f/top", "../.."), ("d/more", "../other")):
            Path(link).symlink_to(to)
        found = ["d/a.csv", "d/e/b.csv", "d/e/f/c.csv", "d/more/o.csv"]
        for path in ("d", "d/", str(Path("d").resolve()), "d/**/*.csv", "./d"):
            assert [str(Path(file.name).resolve().relative_to(Path.cwd())) for file in Files(path).files] == [
                name.replace("d/more", "other") for name in found
            ]

    def test_on_a_file_system_below_a_folder(self) -> None:
        Path("d/e").mkdir(parents=True)
        Path("d/e/t.csv").write_text("n\n1\n")
        Path("d/e/up").symlink_to("..")
        below = fs.SubTreeFileSystem(str(Path.cwd()), fs.LocalFileSystem())
        assert [file.path for file in Files("d", filesystem=below).files] == ["d/e/t.csv"]

    def test_two_folders_that_link_to_each_other(self) -> None:
        for name, other in (("a", "b"), ("b", "a")):
            Path(name).mkdir()
            Path(name, "t.csv").write_text("n\n1\n")
            Path(name, "link").symlink_to(f"../{other}")
        assert [file.name for file in Files("a").files] == ["a/link/t.csv", "a/t.csv"]


class TestLongLines:
    LIMITS = Limits(cell=100)

    def test_are_named_where_no_row_tells_the_columns(self) -> None:
        Path("t.jsonl").write_text(json.dumps({"a": "x" * 1000}))
        with pytest.raises(
            SourceError, match=r"t.jsonl, line 1: the line is longer than 400 bytes; of 1 row"
        ):
            Files("t.jsonl", limits=self.LIMITS).columns()

    def test_in_a_list_are_named_with_a_way_out(self) -> None:
        Path("t.json").write_text(json.dumps([{"a": "x" * 10}] * 100))
        with pytest.raises(
            SourceError, match=r"t.json, line 1: .* longer than 400 bytes, .* one list; .*jq -c"
        ):
            Files("t.json", limits=self.LIMITS).columns()

    def test_beside_others_are_put_aside(self, rows_of: Any) -> None:
        lines = [json.dumps({"a": "x" * size}) for size in (1000, 2)]
        Path("t.jsonl").write_text("\n".join(lines))
        aside: list[Any] = []
        assert rows_of(Files("t.jsonl", limits=self.LIMITS), aside.append) == [{"a": "xx"}]
        assert [bad.row for bad in aside] == [0]
