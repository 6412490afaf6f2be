"""What a scheduler learns from the exit code, and what programs and people read."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from ray_st.cli import main, train
from ray_st.training.checkpoint.lease import RunInUse
from ray_st.util.endings import (
    CTRL_C,
    FAILED,
    INTERRUPTED,
    OK,
    OUT_OF_RETRIES,
    USER_ERROR,
    Interrupted,
    OutOfRetries,
)
from ray_st.util.events import LOG_FORMAT

ENDINGS = {
    "success": (None, OK, None),
    "refused": (ValueError("no\nsuch column"), USER_ERROR, "run.refused"),
    "in use": (RunInUse("The run's folder is in use"), USER_ERROR, "run.refused"),
    "out of retries": (OutOfRetries("workers were lost"), OUT_OF_RETRIES, "run.failed"),
    "interrupted": (Interrupted("the run was told to stop"), INTERRUPTED, "run.interrupted"),
    "Ctrl-C": (KeyboardInterrupt("stopped after step 5"), CTRL_C, "run.interrupted"),
    "Ctrl-C early": (KeyboardInterrupt(), CTRL_C, "run.interrupted"),
    "stopped early": (SystemExit(signal.SIGTERM), INTERRUPTED, "run.interrupted"),
}


@pytest.fixture(params=list(ENDINGS))
def ending(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str | None]:
    error, code, event = ENDINGS[request.param]

    def run(options: Any) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(train, "run", run)
    monkeypatch.setenv(LOG_FORMAT, "text")  # and restored afterwards
    return code, event


def test_people_read_one_line(ending: tuple[int, str | None], capsys: Any) -> None:
    code, event = ending
    assert main(["train", "run.yaml"]) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == (1 if event else 0)


def test_programs_read_the_event(ending: tuple[int, str | None], capsys: Any) -> None:
    code, event = ending
    assert main(["train", "run.yaml", "--log-format", "json"]) == code
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["event"], line["exit_code"]) for line in lines] == ([(event, code)] if event else [])


@pytest.mark.parametrize("error", [RuntimeError("a bug"), SystemExit(3)])
def test_anything_else_is_raised(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(options: Any) -> None:
        raise error

    monkeypatch.setattr(train, "run", run)
    with pytest.raises(type(error)):
        main(["train", "run.yaml"])


def test_codes_differ_and_are_documented() -> None:
    codes = (OK, FAILED, USER_ERROR, OUT_OF_RETRIES, INTERRUPTED)
    assert len(set(codes)) == len(codes)
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    assert all(f"\n| {code} | " in text for code in codes)
