"""Files whose rows were counted: read from anywhere on, they give the rows and faults of a read from the start."""

from __future__ import annotations

import gzip
import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ray_st.data.located import read_located
from ray_st.data.sources import Chosen, Files, Limits, Part, SourceError, row_index

BOM = b"\xef\xbb\xbf"
SCRAPS = [
    b"a",
    b"word ",
    b'"',
    b'""',
    b",",
    b"\t",
    b"\r",
    b"\n",
    b"\n",
    b"\r\n",
    b"\xff",
    b"\xc3\xa9",
    b"\0",
    b" ",
    b"[1]",
]
GOOD = [
    b"one,two\n",
    b'"x, y","two\nlines"\r\n',
    b'"said ""no""",\n',
    b"\n",
    b" \n",
    b"three\tfour\n",
    b"\xe2\x80\xa8,z\n",
]
LINES = [
    b'{"a": "x"}',
    b' {"a": "x", "b": "y"} ',
    b"[1]",
    b'{"a": ',
    b"",
    b" \t",
    b"\xff",
    b'{"a": 3}',
    b'{"c": 1}',
    b"3",
    b"\r",
]


@pytest.fixture(autouse=True)
def close_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_index, "MARK_ROWS", 3)


def a_table(rng: random.Random) -> bytes:
    """Well-formed rows, scraps of syntax and long lines, in any order."""
    rows = [rng.choice(GOOD) for _ in range(rng.randrange(20))]
    for _ in range(rng.randrange(6)):
        scrap = b"".join(rng.choice(SCRAPS) for _ in range(rng.randrange(12)))
        rows.insert(rng.randrange(len(rows) + 1), scrap + rng.choice([b"\n", b"\r\n", b""]))
    for _ in range(rng.randrange(2)):
        rows.insert(rng.randrange(len(rows) + 1), rng.choice([b"long ", b'"', b"\r"]) * 90 + b"\n")
    return b"".join(rows)


def lines_of(rng: random.Random) -> bytes:
    first = [rng.choice([b"", b"\n", b" \n"]), b'{"a": "x", "b": "y"}\n']
    ends = [rng.choice(LINES) + rng.choice([b"\n", b"\n", b"\r\n"]) for _ in range(rng.randrange(25))]
    long = [b'{"a": "' + b"x" * 500 + b'"}\n'] * rng.randrange(2)
    return b"".join([*first, *ends, *long, rng.choice(LINES)])


KINDS: dict[str, tuple[Callable[[random.Random], bytes], dict[str, Any]]] = {
    "t.csv": (lambda rng: b"a,b\n" + a_table(rng), {}),
    "names.csv": (lambda rng: a_table(rng) or b"\n", {"names": ("a", "b")}),
    "plain.csv": (lambda rng: b"a,b\r\n" + a_table(rng), {"quoted": False}),
    "t.tsv": (lambda rng: b"a\tb\n" + a_table(rng), {}),
    "quoted.tsv": (lambda rng: b"a\tb\n" + a_table(rng), {"quoted": True}),
    "t.jsonl": (lines_of, {}),
    "t.txt": (lambda rng: a_table(rng) or b"\n", {}),
}


def rows_in(part: Part) -> list[dict[str, Any]]:
    """All rows with their numbers, files and faults."""
    tables = list(read_located(part))
    return pa.concat_tables(tables, promote_options="permissive").to_pylist() if tables else []


@pytest.mark.parametrize("name", KINDS)
def test_a_read_from_anywhere_equals_a_slice_of_the_whole(name: str) -> None:
    make, options = KINDS[name]
    faults = 0
    for seed in range(60):
        rng = random.Random(seed)
        Path(name).write_bytes(rng.choice([b"", BOM]) + make(rng))
        (part,) = Files(name, limits=Limits(rows=4, cell=rng.choice([20, 1000])), **options).parts()
        counted, whole = part.counted(), rows_in(part)
        assert counted.seekable
        assert counted.uncounted == 0
        assert counted.count() == len(whole)
        assert rows_in(counted) == whole
        faults += sum(row["source_fault"] is not None for row in whole)
        for _ in range(8):
            start = rng.randrange(len(whole) + 1)
            stop = rng.randrange(start, len(whole) + 1)
            there = counted.within(start, stop)
            assert there.count() == stop - start
            assert rows_in(there) == whole[start:stop]
            first = rng.randrange(stop - start + 1)
            assert rows_in(there.within(first, stop - start)) == whole[start + first : stop]
    assert faults > 20


def test_slices_of_files_are_counted_too() -> None:
    Path("t.csv").write_text("a,b\n" + "".join(f'x{row},"y\n{row}"\n' for row in range(50)))
    (part,) = Chosen(Files("t.csv"), ["c"], {"b": "c"}).parts()
    counted = part.within(5, 40).counted()
    assert counted.count() == 35
    assert [row["c"] for row in rows_in(counted.within(3, 6))] == ["y\n8", "y\n9", "y\n10"]
    assert [row["source_row"] for row in rows_in(counted.within(30, 50))] == [35, 36, 37, 38, 39]


def test_a_row_is_read_from_the_nearest_mark() -> None:
    Path("t.jsonl").write_text("".join(json.dumps({"a": f"{row}"}) + "\n" for row in range(100)))
    (part,) = Files("t.jsonl").parts()
    there = part.counted().within(50, 52)
    Path("t.jsonl").write_bytes(
        b"\xff" * Path("t.jsonl").read_bytes().index(b'{"a": "48"}') + b'{"a": "new"}\n' * 9
    )
    assert [row["a"] for row in rows_in(there)] == ["new", "new"]


def test_what_cannot_be_counted_stays_as_it_is() -> None:
    Path("t.json").write_text('\n[{"a": "x"},\n{"a": "y"}]')
    (part,) = Files("t.json").parts()
    assert not part.counted().seekable
    assert rows_in(part.counted()) == rows_in(part)
    Path("t.csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n"))
    (packed,) = Files("t.csv.gz").parts()
    assert (packed.uncounted, packed.counted()) == (0, packed)


def test_nothing_is_counted_when_a_file_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_index.RowIndex, "of", lambda starts: pytest.fail("counted"))
    Path("t.csv").write_text("a,b\n1,2\n")
    source = Files("t.csv")
    source.columns()
    (part,) = source.parts()
    assert part.uncounted == 8
    assert not part.seekable


def test_a_file_that_is_written_anew_is_not_counted() -> None:
    Path("t.csv").write_text("a,b\n1,2\n")
    (part,) = Files("t.csv").parts()
    Path("t.csv").write_text("a,b\n1,2\n3,4\n")
    with pytest.raises(SourceError, match=r"t\.csv: it was removed or written anew"):
        part.counted()


def test_files_without_rows() -> None:
    Path("t.csv").write_text("a,b\n\n")
    Path("t.jsonl").write_text("\n \n")
    for name in ("t.csv", "t.jsonl"):
        (part,) = Files(name, types={"a": "string"}).parts()
        assert part.counted().count() == 0
        assert rows_in(part.counted()) == []


def test_an_index_is_small() -> None:
    Path("t.txt").write_text("a line\n" * 30_000)
    (part,) = Files("t.txt").parts()
    unit: Any = part.counted().unit
    assert unit.index.places.nbytes == 16 * 10_000
    assert len(pickle.dumps(unit.between(20_000, 30_000))) < 2_000
