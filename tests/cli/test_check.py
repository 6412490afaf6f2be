from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from ray_st.cli import check, main
from ray_st.runtime.cluster import connection
from ray_st.runtime.data import checked_rows, counting

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning"
)  # Ray leaves sockets to the garbage collector

BAD = 'a,b,score\none,two,0.5\n"in\ntwo lines",,1\n \n,nothing,0.1\nthree,four\nfive,six,high\nseven,eight,0.2\n'
FAULTS = [
    (1, None, "b", "expected a text, found None (NoneType)"),
    (2, 5, None, "expected 3 fields, found 1"),
    (3, None, "a", "expected a text, found None (NoneType)"),
    (4, 7, None, "expected 3 fields, found 2"),
    (5, 8, "score", "expected double, as the first rows or `types` say, found 'high' (str)"),
]


def code_of(*arguments: str) -> int:
    try:
        return main(["check", *arguments])
    except SystemExit as stop:
        return int(str(stop.code))


@pytest.fixture(autouse=True)
def without_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where an earlier test of this process started Ray."""
    monkeypatch.setattr(connection, "connected_if_any", lambda: nullcontext(False))


@pytest.fixture(params=["here", "cluster"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where rows are checked; on the cluster, files are divided between tasks."""
    if request.param == "cluster":
        request.getfixturevalue("cluster")
        monkeypatch.setattr(connection, "connected_if_any", lambda: nullcontext(True))
        monkeypatch.setattr(counting, "HERE_BYTES", 0)
        monkeypatch.setattr(checked_rows, "PIECE_ROWS", 2)
    return str(request.param)


@pytest.mark.ray
def test_good_rows(run_file: str, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(run_file) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "train_dataset: 4 rows, 0 of them unusable" in lines
    assert "eval_dataset: 4 rows, 0 of them unusable" in lines
    assert lines[-1] == f"{run_file}: OK: all rows can be used"
    assert not Path("out/final").exists()


@pytest.mark.ray
def test_unusable_rows_are_listed(run_file: str, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.csv").write_text(BAD)
    path = str(Path("bad.csv").absolute())  # the cluster's tasks have another working directory
    source = f"data.train={{path: {path}, types: {{score: float64}}}}"
    assert code_of(run_file, source, "--list", "faults.jsonl") == 1
    out = capsys.readouterr().out
    assert "bad.csv, row 1, column 'b': expected a text, found None" in out
    assert "bad.csv, line 7: expected 3 fields, found 2" in out
    assert "train_dataset: 7 rows, 5 of them unusable" in out
    assert "OK" not in out
    listed = [json.loads(line) for line in Path("faults.jsonl").read_text().splitlines()]
    for entry, (row, line, column, reason) in zip(listed, FAULTS, strict=True):
        assert (entry["dataset"], entry["file"]) == ("train_dataset", path)
        assert (entry["row"], entry["line"], entry["column"]) == (row, line, column)
        assert entry["reason"].startswith(reason)


def test_the_result_as_json(
    run_file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "SHOWN", 2)
    Path("bad.csv").write_text(BAD)
    assert code_of(run_file, "data.train={path: bad.csv, types: {score: float64}}", "--json") == 1
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["rows"], found["unusable"]) == (11, 5)
    assert found["datasets"]["train_dataset"] == {"rows": 7, "unusable": 5}
    assert [entry["row"] for entry in found["first"]] == [1, 2]
    assert code_of(run_file, "--json") == 0


def test_the_console_shows_the_first_ones(run_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.csv").write_text("a,b,score\n" + "x,,1\n" * 30)
    assert code_of(run_file, "data.train={path: bad.csv, types: {b: string}}") == 1
    out = capsys.readouterr().out
    assert out.count("expected a text") == 20
    assert "… and 10 more; --list FILE writes all of them" in out


def test_progress(run_file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(check, "_PROGRESS_EVERY_S", 0)
    assert code_of(run_file) == 0
    assert "train_dataset: 4 rows, 0 of them unusable so far" in capsys.readouterr().out


ONE_CLASS = ["loss.name=BatchAllTripletLoss", "data.train={path: one.csv, columns: [a, label]}", "data.eval="]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data.train=nowhere.csv"], "data.train: nowhere.csv: no such file"),
        (["data.train.columns=[a, score]"], "data.train has text columns ['a']"),
        (["--list", "nowhere/list"], "--list: nowhere/list cannot be written"),
        (ONE_CLASS, "BatchAllTripletLoss learns from rows of different labels; the 3 usable rows of train"),
        (
            ["args={dataloader_drop_last: true, per_device_train_batch_size: 8}"],
            "fewer than a global batch of 8",
        ),
        (["data.train=damaged.parquet"], "damaged.parquet: cannot be read as Parquet"),
    ],
)
def test_it_refuses_what_training_would_refuse(
    run_file: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("one.csv").write_text("a,label\nx,1\ny,1\nz,1\n")
    Path("damaged.parquet").write_bytes(b"PAR1 nothing else")
    assert code_of(run_file, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("ray-st: ")
    assert error.count("\n") == 1


def test_rows_that_are_skipped_are_listed_and_the_rest_is_checked(
    run_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad.csv").write_text("a,b,score\nx,,1\ny,z,1\nz,a,2\n")
    drop = "args={bad_rows: skip, dataloader_drop_last: true, per_device_train_batch_size: 3}"
    assert code_of(run_file, "data.train={path: bad.csv, types: {b: string}}", drop) == 2
    shown = capsys.readouterr()
    assert "bad.csv, row 0, column 'b': expected a text" in shown.out
    assert "has 2 usable row(s), fewer than a global batch of 3" in shown.err
