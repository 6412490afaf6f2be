from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from ray_st.training.checkpoint.sample_log import SampleLog, SampleLogError, read_ledger
from ray_st.util.endings import LeaseLost


def steps(path: Path) -> list[int]:
    return [line["step"] for line in read_ledger(path)]


def test_what_is_done_again_is_written_again(tmp_path: Path) -> None:
    ledger = SampleLog(tmp_path / "ledger.jsonl")
    for step in (1, 2, 3):
        ledger.write(step, [[step, step + 1]])
    ledger.rewind(1)
    ledger.write(2, [[7]])
    assert [line["rows"] for line in read_ledger(ledger.path)] == [[[1, 2]], [[7]]]


def test_storage_that_is_away_for_a_while_costs_no_line(tmp_path: Path) -> None:
    ledger = SampleLog(tmp_path / "run" / "ledger.jsonl")
    (tmp_path / "run").write_text("no folder")
    ledger.write(1, [[1]])
    (tmp_path / "run").unlink()
    (tmp_path / "run").mkdir()
    ledger.write(2, [[2]])
    assert steps(ledger.path) == [1, 2]


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system writes what has room and says how much that was; with no room at all it is an error."""
    ledger = SampleLog(tmp_path / "ledger.jsonl")
    ledger.write(1, [[1]])
    room = [5]

    class Full:
        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *error: Any) -> None:
            self.stream.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.stream, name)

        def write(self, data: bytes) -> int:
            if not room:
                raise OSError(errno.ENOSPC, "No space left on device")
            return int(self.stream.write(data[: room.pop()]))

    whole = Path.open
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", lambda *args, **options: Full(whole(*args, **options)))
        ledger.write(2, [[2]])
        ledger.write(3, [[3]])
    assert steps(ledger.path) == [1]
    ledger.write(4, [[4]])
    assert steps(ledger.path) == [1, 2, 3, 4]


def test_a_line_that_a_crash_cut_short_is_left_out(tmp_path: Path) -> None:
    ledger = SampleLog(tmp_path / "ledger.jsonl")
    ledger.write(1, [[1]])
    with ledger.path.open("a") as stream:
        stream.write('{"step": 2, "ro')
    assert steps(ledger.path) == [1]


def test_who_lost_the_folder_writes_no_line(tmp_path: Path) -> None:
    def refuse() -> None:
        raise LeaseLost("taken")

    ledger = SampleLog(tmp_path / "ledger.jsonl")
    ledger.write(1, [[1]])
    lost = SampleLog(ledger.path, refuse)
    with pytest.raises(LeaseLost):
        lost.write(2, [[2]])
    with pytest.raises(LeaseLost):
        lost.rewind(0)
    assert steps(ledger.path) == [1]


@pytest.mark.parametrize(
    "garbage", [b"\x00\x00\xff", b"{", b"[1]", b'{"step": "2", "rows": []}', b'{"step": 2, "rows": [3]}']
)
def test_a_line_of_garbage_is_named_and_keeps_no_run_from_going_on(
    tmp_path: Path, garbage: bytes, capsys: Any
) -> None:
    ledger = SampleLog(tmp_path / "ledger.jsonl")
    ledger.write(1, [[1]])
    whole = ledger.path.read_bytes() + garbage + b"\n"
    ledger.path.write_bytes(whole)
    ledger.write(3, [[3]])
    with pytest.raises(SampleLogError, match=r"ledger.jsonl, line 2 is no line of a ledger: b.*Repair"):
        steps(ledger.path)
    ledger.rewind(3)
    assert steps(ledger.path) == [1, 3]
    said = capsys.readouterr().out
    assert "line 2 is no line" in said
    assert "lacks the lines of 1 of the 3 steps" in said
    aside = tmp_path / "ledger-damaged-after-3.jsonl"
    assert aside.read_bytes().startswith(whole)


def test_steps_without_a_line_are_counted(tmp_path: Path, capsys: Any) -> None:
    ledger = SampleLog(tmp_path / "ledger.jsonl")
    ledger.rewind(0)
    assert capsys.readouterr().out == ""
    ledger.rewind(5)
    assert "lacks the lines of 5 of the 5 steps" in capsys.readouterr().out
