from __future__ import annotations

import logging

import pytest

from ray_st.util.line_stream import LineStream


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
