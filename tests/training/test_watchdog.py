from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainerCallback

from ray_st.training.callbacks.watchdog import PATIENCE, Watchdog, at_rest, stacks
from ray_st.util.endings import Hang

QUIET = SimpleNamespace(should_log=False, should_evaluate=False, should_save=False)
LOGGING = SimpleNamespace(should_log=True, should_evaluate=False, should_save=False)
SAVING = SimpleNamespace(should_log=False, should_evaluate=False, should_save=True)


def at(step: int) -> Any:
    return SimpleNamespace(global_step=step)


@pytest.fixture
def watchdog() -> Watchdog:
    return Watchdog(1, lambda hang: None, limit_s=10.0)


def look(watchdog: Watchdog, after: float) -> Hang | None:
    return watchdog.look(time.monotonic() + after)


def test_the_first_step_of_a_process_may_take_longer(watchdog: Watchdog) -> None:
    watchdog.on_train_begin(None, at(0), QUIET)
    watchdog.on_step_begin(None, at(0), QUIET)
    assert look(watchdog, 20.0) is None
    assert look(watchdog, 10.0 * PATIENCE + 1) is not None


def test_a_step_that_takes_too_long_is_a_hang(watchdog: Watchdog) -> None:
    watchdog.on_step_begin(None, at(0), QUIET)
    watchdog.on_step_end(None, at(1), QUIET)
    waiting = look(watchdog, 11.0)
    watchdog.on_step_begin(None, at(1), QUIET)
    assert look(watchdog, 9.0) is None
    found = look(watchdog, 11.0)
    assert found is not None
    assert waiting is not None
    assert (found.rank, found.step, found.phase) == (1, 2, "step")
    assert str(found) == "rank 1 has made no progress for 11 s, in step 2"
    assert str(waiting) == "rank 1 has made no progress for 11 s, waiting for the data of step 2"


def test_checkpoints_and_evaluations_may_take_longer(watchdog: Watchdog) -> None:
    watchdog.on_step_begin(None, at(0), QUIET)
    watchdog.on_step_end(None, at(1), SAVING)
    assert look(watchdog, 20.0) is None
    watchdog.on_save(None, at(1), SAVING)
    assert look(watchdog, 20.0) is not None


def test_a_step_that_is_logged_is_an_ordinary_one(watchdog: Watchdog) -> None:
    watchdog.on_step_begin(None, at(0), QUIET)
    watchdog.on_step_end(None, at(1), LOGGING)
    assert look(watchdog, 11.0) is not None


def test_nothing_is_watched_before_and_after_training(watchdog: Watchdog) -> None:
    assert look(watchdog, 1e6) is None
    watchdog.on_train_begin(None, at(0), QUIET)
    watchdog.on_train_end(None, at(9), QUIET)
    assert look(watchdog, 1e6) is None


def test_it_calls_for_help_once() -> None:
    heard: list[Hang] = []
    called = threading.Event()
    watchdog = Watchdog(0, lambda hang: (heard.append(hang), called.set()), limit_s=0.01)
    watchdog.on_step_begin(None, at(0), QUIET)
    watchdog.on_step_end(None, at(1), QUIET)
    watchdog.start()
    assert called.wait(10)
    watchdog.stop()
    assert len(heard) == 1


def test_stacks_show_where_each_thread_is() -> None:
    reached, go_on = threading.Event(), threading.Event()

    def waiting_for_a_peer() -> None:
        reached.set()
        go_on.wait()

    thread = threading.Thread(target=waiting_for_a_peer, name="training")
    thread.start()
    reached.wait()
    found = stacks()
    go_on.set()
    thread.join()
    assert "thread 'training'" in found
    assert "waiting_for_a_peer" in found
    assert "test_stacks_show_where_each_thread_is" in found


def test_who_waits_for_others_may_take_any_time(watchdog: Watchdog) -> None:
    watchdog.on_step_begin(None, at(0), QUIET)
    watchdog.on_step_end(None, at(1), QUIET)
    with at_rest([TrainerCallback(), watchdog]):
        assert look(watchdog, 1e6) is None
    assert look(watchdog, 9.0) is None
    assert look(watchdog, 11.0) is not None
    watchdog.on_train_end(None, at(1), QUIET)
    with at_rest([watchdog]):
        pass
    assert look(watchdog, 1e6) is None
