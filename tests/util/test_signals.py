"""Who has Ctrl-C and SIGTERM while a run lasts, and that the user has them afterwards."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ray_st.util.endings import Interrupted
from ray_st.util.signals import STOPS, StopSignals, handlers_kept


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOPS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    for thread in threading.enumerate():
        if thread.name == "ray_st-stop":
            thread.join()


def test_handlers_are_put_back_whatever_happens() -> None:
    def change() -> None:
        for number in STOPS:
            signal.signal(number, lambda number, frame: None)

    with handlers_kept():
        change()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == (
        signal.default_int_handler,
        signal.SIG_DFL,
    )

    def fail(error: type[BaseException]) -> None:
        with handlers_kept():
            change()
            raise error

    for error in (ValueError, KeyboardInterrupt, SystemExit):
        with pytest.raises(error):
            fail(error)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_unhandled_sigterm_closes_what_is_open() -> None:
    with pytest.raises(SystemExit) as raised, handlers_kept():
        send(signal.SIGTERM)
    assert raised.value.code == signal.SIGTERM


@pytest.mark.parametrize("number", STOPS)
def test_the_first_signal_asks_and_the_user_has_the_next(number: signal.Signals, capsys: Any) -> None:
    asked: list[bool] = []
    signals = StopSignals(lambda: asked.append(True))

    def run() -> None:
        with signals.taken():
            assert signals.by is None
            send(number)
            assert (asked, signals.by) == ([True], number)
            assert f"{number.name}: the run stops after a checkpoint" in capsys.readouterr().out
            send(number)

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run()
    assert asked == [True]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Interrupted)]
)
def test_who_stopped_a_run_tells_how_it_ends(number: int, error: type[BaseException]) -> None:
    def run() -> None:
        with StopSignals(bool).taken():
            send(number)
            raise Interrupted("stopped after step 5")

    with pytest.raises(error, match="stopped after step 5"):
        run()


def test_handlers_of_the_users_keep_ctrl_c() -> None:
    pressed: list[int] = []

    def mine(number: int, frame: Any) -> None:
        pressed.append(number)

    signal.signal(signal.SIGINT, mine)
    signals = StopSignals(bool)
    with signals.taken():
        send(signal.SIGINT)
    assert (pressed, signals.by) == ([signal.SIGINT], None)
    assert signal.getsignal(signal.SIGINT) is mine


def test_a_thread_leaves_signals_alone() -> None:
    def run(body: Callable[[], None]) -> None:
        thread = threading.Thread(target=body)
        thread.start()
        thread.join()

    def look() -> None:
        with handlers_kept(), StopSignals(bool).taken():
            seen.append(signal.getsignal(signal.SIGINT))

    seen: list[Any] = []
    run(look)
    assert seen == [signal.default_int_handler]


APART = """
import os, subprocess
from ray_st.util.signals import children_apart
before = os.getpgrp()
with children_apart():
    child = subprocess.Popen(["sleep", "60"])
print(before == os.getpid(), os.getpgrp() == before, os.getpgid(child.pid) == before)
child.kill()
"""


@pytest.mark.parametrize(
    ("command", "said"), [("{0}; true", "False True False"), ("exec {0}", "True True True")]
)
def test_children_have_a_group_of_their_own_unless_this_process_leads_its(command: str, said: str) -> None:
    python = shlex.join([sys.executable, "-c", APART])
    done = subprocess.run(
        ["sh", "-c", command.format(python)],
        capture_output=True,
        text=True,
        check=True,
        start_new_session=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.strip() == said
