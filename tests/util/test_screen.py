from __future__ import annotations

import logging
from typing import Any

import pytest
from tqdm import tqdm

from ray_st import LoggingHandler
from ray_st.util import screen
from ray_st.util.events import notes
from ray_st.util.screen import BarMove, LineStream, Screen, SentBar, shown


def test_lines_go_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().show("a line")
    assert capsys.readouterr() == ("a line\n", "")


def test_lines_stand_above_the_bar(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Screen()
    shown.show(BarMove(0, 10))
    shown.show("a line")
    shown.show(BarMove(10, 10, "loss 0.5", closed=True))
    out, err = capsys.readouterr()
    assert out == "a line\n"
    assert err.splitlines()[-1].rpartition("\r")[2].startswith("loss 0.5: 100%")


def test_a_bar_that_a_failed_run_left_open_ends(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Screen()
    shown.show(BarMove(3, 10))
    shown.close()
    shown.show("what went wrong")
    out, err = capsys.readouterr()
    assert (out, err[-1]) == ("what went wrong\n", "\n")
    assert "3/10" in err


@pytest.mark.parametrize(
    ("terminal", "modules", "bar"),
    [(False, {}, False), (True, {}, True), (False, {"ipykernel.zmqshell": None}, True)],
)
def test_where_there_can_be_a_bar(
    terminal: bool, modules: dict[str, None], bar: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen.sys.stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(screen.sys, "modules", modules)
    assert screen.has_bar() is bar


def test_a_bar_sends_its_moves_now_and_then_and_the_last_ones_always() -> None:
    moves: list[BarMove] = []
    bar = SentBar(moves.append, 5, every_s=60)
    bar.set_description("loss 0.5")
    for _ in range(5):
        bar.update()
    bar.close()
    assert moves == [
        BarMove(1, 5, "loss 0.5"),
        BarMove(5, 5, "loss 0.5"),
        BarMove(5, 5, "loss 0.5", closed=True),
    ]


def test_events_of_this_process_stand_above_the_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with shown() as console:
        console.show(BarMove(1, 10))
        notes.info("a line")
    notes.info("after it")
    assert capsys.readouterr().out == "a line\nafter it\n"


@pytest.mark.parametrize(
    ("written", "lines"),
    [
        (["one\n"], ["one"]),
        (["on", "e\ntwo\nthr", "ee"], ["one", "two", "three"]),
        (["\n\n"], ["", ""]),
        (["1 of 9\r2 of 9\r", "9 of 9\n"], ["9 of 9"]),
        (["as on Windows\r\n"], ["as on Windows"]),
        (["over\rand"], ["and"]),
        ([], []),
    ],
)
def test_lines(written: list[str], lines: list[str]) -> None:
    taken: list[str] = []
    with LineStream(taken.append) as stream:
        for text in written:
            assert stream.write(text) == len(text)
    assert taken == lines


def test_print_and_logging_write_to_it() -> None:
    taken: list[str] = []
    with LineStream(taken.append) as stream:
        print("some", "words", file=stream, flush=True)
        handler = logging.StreamHandler(stream)
        handler.emit(logging.makeLogRecord({"msg": "a record", "levelno": logging.WARNING}))
    assert taken == ["some words", "a record"]


def test_records_appear_above_a_bar(capsys: Any) -> None:
    logger = logging.Logger("rows")
    handler = LoggingHandler(logging.INFO)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger.addHandler(handler)
    with tqdm(total=2, file=None) as bar:
        logger.info("half of %d", 2)
        logger.debug("not this")
        bar.update()
    assert capsys.readouterr().out == "INFO half of 2\n"
