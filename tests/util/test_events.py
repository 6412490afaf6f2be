from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from ray_st.util import events


@pytest.fixture
def said() -> Any:
    lines: list[str] = []
    events.send_to(lines.append)
    yield lines
    events.send_to(None)
    events.set_context()


def test_text_is_the_message_alone(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(events.LOG_FORMAT, raising=False)
    events.event("train.figures", "step 3/10", step=3)
    assert said == ["step 3/10"]


def test_json_has_code_level_context_and_facts(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(events.LOG_FORMAT, "json")
    events.set_context(run="sts", rank=1)
    events.event("workers.lost", "two\nlines", cause="node", folder=pytest)
    (line,) = said
    found = json.loads(line)
    assert "\n" not in line
    assert found["event"] == "workers.lost"
    assert found["level"] == "warning"
    assert (found["run"], found["rank"], found["cause"]) == ("sts", 1, "node")
    assert found["time"].endswith("+00:00")
    assert isinstance(found["folder"], str)


def test_figures_that_json_has_no_value_for_become_text(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(events.LOG_FORMAT, "json")
    events.event("eval.figures", "", figures={"nan": float("nan"), "inf": float("inf"), "fine": 0.5})
    assert json.loads(said[0], parse_constant=pytest.fail)["figures"] == {
        "nan": "NaN",
        "inf": "Infinity",
        "fine": 0.5,
    }


def test_an_unknown_code_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'step\.taken' is no event"):
        events.event("step.taken", "")


def test_every_level_belongs_to_an_event() -> None:
    assert {*events.WARNINGS, *events.ERRORS} <= set(events.EVENTS)


def test_lines_go_to_standard_output_by_default(capsys: Any) -> None:
    events.notes.info("hello")
    assert capsys.readouterr().out == "hello\n"


@pytest.mark.parametrize("stderr_takes_it", [True, False])
def test_a_line_that_cannot_be_written_ends_nothing(
    stderr_takes_it: bool, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    class Full:
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr("sys.stdout", Full())
        if not stderr_takes_it:
            full.setattr("sys.stderr", Full())
        events.notes.info("hello")
    assert capsys.readouterr().err == ("hello\n" if stderr_takes_it else "")


# ---- routed, filtered and silenced with logging ----


class Kept(logging.Handler):
    """A handler of the user."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def messages(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture
def kept() -> Iterator[Kept]:
    """A handler that stands nowhere after the test; the root logger's level is as before, the others' unset."""
    handler, root = Kept(), logging.getLogger()
    level = root.level
    yield handler
    for name in ("ray_st", "ray_st.events", "ray_st.events.hang"):
        logging.getLogger(name).setLevel(logging.NOTSET)
        logging.getLogger(name).removeHandler(handler)
    root.setLevel(level)
    root.removeHandler(handler)


def say_all() -> None:
    events.notes.info("a note")
    events.notes.warning("warning: a note")
    events.event("train.figures", "step 1/2", step=1)
    events.event("hang.seen", "rank 1 hangs", rank=1)


ALL = ["a note", "warning: a note", "step 1/2", "rank 1 hangs"]


def test_the_root_loggers_handlers_do_not_show_a_line_again(said: list[str], kept: Kept) -> None:
    logging.getLogger().addHandler(kept)
    say_all()
    assert (said, kept.messages) == (ALL, [])


def test_a_handler_of_the_package_replaces_the_console(said: list[str], kept: Kept) -> None:
    events.notes.info("before")
    logging.getLogger("ray_st").addHandler(kept)
    say_all()
    logging.getLogger("ray_st").removeHandler(kept)
    events.notes.info("after")
    assert (said, kept.messages) == (["before", "after"], ALL)
    assert [record.levelname for record in kept.records] == ["INFO", "WARNING", "INFO", "WARNING"]
    assert {record.module for record in kept.records} == {"test_events"}


def test_a_handler_that_does_nothing_leaves_all_to_the_root_logger(said: list[str], kept: Kept) -> None:
    logging.getLogger().addHandler(kept)
    nothing = logging.NullHandler()
    logging.getLogger("ray_st").addHandler(nothing)
    say_all()
    logging.getLogger("ray_st").removeHandler(nothing)
    assert (said, kept.messages) == ([], ALL)


@pytest.mark.parametrize(("name", "taken"), [("ray_st.events", ALL), ("ray_st.events.hang", ALL[3:])])
def test_a_handler_of_events_comes_on_top(name: str, taken: list[str], said: list[str], kept: Kept) -> None:
    logging.getLogger(name).addHandler(kept)
    say_all()
    assert (said, kept.messages) == (ALL, taken)


@pytest.mark.parametrize(
    ("name", "level", "left"),
    [
        ("ray_st", logging.WARNING, ["warning: a note", "rank 1 hangs"]),
        ("ray_st.events", logging.WARNING, ["warning: a note", "rank 1 hangs"]),
        ("ray_st", logging.CRITICAL, []),
        ("ray_st.events.hang", logging.CRITICAL, ALL[:3]),
        ("", logging.CRITICAL, ALL),
    ],
)
def test_levels_silence(name: str, level: int, left: list[str], said: list[str], kept: Kept) -> None:
    events.notes.info("first")
    logging.getLogger(name).setLevel(level)
    say_all()
    assert said == ["first", *left]


def test_the_level_of_modules_stays(said: list[str]) -> None:
    """It decides whether models show progress bars."""
    say_all()
    assert logging.getLogger("ray_st").level == logging.NOTSET
    assert not logging.getLogger("ray_st.models.sentence_transformer").isEnabledFor(logging.INFO)


def test_json_of_any_record() -> None:
    record = logging.makeLogRecord({"msg": "%d rows", "args": (3,), "levelname": "ERROR"})
    try:
        raise OSError("gone")
    except OSError as error:
        record.exc_info = (type(error), error, error.__traceback__)
    found = json.loads(events.JsonFormatter().format(record))
    assert (found["event"], found["level"], found["message"]) == ("note", "error", "3 rows")
    assert found["exception"].endswith("OSError: gone")


def test_a_record_of_another_process_is_logged_once_in_its_words(
    said: list[str], kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a worker sends it and the driver takes it; a handler that both processes have does not take it twice."""
    monkeypatch.setenv(events.LOG_FORMAT, "json")
    logging.getLogger("ray_st").addHandler(kept)
    sent: list[bytes] = []
    events.set_context(run="sts", rank=1)
    events.send_records_to(lambda record: sent.append(pickle.dumps(record)))
    events.event("workers.lost", "workers were lost", folder=pytest, figure=float("inf"))
    assert (said, kept.messages) == ([], [])

    events.set_context(run="sts")
    events.send_to(said.append)
    logging.getLogger("ray_st").removeHandler(kept)
    (record,) = map(pickle.loads, sent)
    events.relayed(record)
    found = json.loads(said[0])
    assert (found["event"], found["rank"], found["figure"]) == ("workers.lost", 1, "Infinity")
    logging.getLogger("ray_st.events.workers").setLevel(logging.ERROR)
    events.relayed(record)
    logging.getLogger("ray_st.events.workers").setLevel(logging.NOTSET)
    assert len(said) == 1
