from __future__ import annotations

import json
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
    events.tell("note", "step 3/10", step=3)
    assert said == ["step 3/10"]


def test_json_has_code_level_context_and_facts(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(events.LOG_FORMAT, "json")
    events.set_context(run="sts", rank=1)
    events.tell("workers.lost", "two\nlines", cause="node", folder=pytest)
    (line,) = said
    found = json.loads(line)
    assert "\n" not in line
    assert found["event"] == "workers.lost"
    assert found["level"] == "warning"
    assert (found["run"], found["rank"], found["cause"]) == ("sts", 1, "node")
    assert found["time"].endswith("+00:00")
    assert isinstance(found["folder"], str)


def test_figures_that_json_has_no_value_for_become_text(monkeypatch: pytest.MonkeyPatch) -> None:
    line = events.as_json("eval.figures", "", figures={"nan": float("nan"), "inf": float("inf"), "fine": 0.5})
    assert json.loads(line, parse_constant=pytest.fail)["figures"] == {
        "nan": "NaN",
        "inf": "Infinity",
        "fine": 0.5,
    }


def test_an_unknown_code_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"'step\.taken' is no event"):
        events.as_json("step.taken", "")


def test_every_level_belongs_to_an_event() -> None:
    assert {*events.WARNINGS, *events.ERRORS} <= set(events.EVENTS)


def test_lines_go_to_standard_output_by_default(capsys: Any) -> None:
    events.tell("note", "hello")
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
        events.tell("note", "hello")
    assert capsys.readouterr().err == ("hello\n" if stderr_takes_it else "")
