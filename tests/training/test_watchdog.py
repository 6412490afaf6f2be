from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainerCallback

from ray_st.training.callbacks.watchdog import (
    GROWTH,
    PATIENCE,
    RECENT,
    STEP_LIMIT_S,
    Watchdog,
    at_rest,
    learned_limit,
    stacks,
)
from ray_st.util.endings import Hang

QUIET = SimpleNamespace(should_log=False, should_evaluate=False, should_save=False)
LOGGING = SimpleNamespace(should_log=True, should_evaluate=False, should_save=False)
SAVING = SimpleNamespace(should_log=False, should_evaluate=False, should_save=True)


def at(step: int) -> Any:
    return SimpleNamespace(global_step=step, max_steps=100)


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
    assert str(found) == "rank 1 has made no progress for 11 s (limit 10 s), in step 2"
    assert str(waiting) == "rank 1 has made no progress for 11 s (limit 10 s), waiting for the data of step 2"


def test_checkpoints_and_evaluations_may_take_longer(watchdog: Watchdog) -> None:
    watchdog.on_step_begin(None, at(0), QUIET)
    watchdog.on_step_end(None, at(1), SAVING)
    assert look(watchdog, 20.0) is None
    watchdog.on_save(None, at(1), SAVING)
    assert look(watchdog, 20.0) is not None
    watchdog.on_save(None, at(100), SAVING)
    assert look(watchdog, 20.0) is None, "the end of training waits for evaluations"


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


class Clock:
    """The time, which passes only when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Loop:
    """A training loop with steps of a given length, and a watchdog that learns it."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.watchdog = Watchdog(0, lambda hang: None, clock=self.clock, **options)
        self.watchdog.on_train_begin(None, at(0), QUIET)
        self.done = 0

    def step(self, seconds: float, waits: float = 0.0, control: Any = QUIET) -> None:
        self.clock.now += waits
        self.watchdog.on_step_begin(None, at(self.done), control)
        self.clock.now += seconds
        self.done += 1
        self.watchdog.on_step_end(None, at(self.done), control)

    def survives(self, seconds: float) -> bool:
        return self.watchdog.look(self.clock.now + seconds) is None


@pytest.mark.parametrize(
    ("recent", "limit"),
    [
        ([], STEP_LIMIT_S),
        ([0.1], STEP_LIMIT_S),
        ([STEP_LIMIT_S / GROWTH], STEP_LIMIT_S),
        ([1.0, 100.0, 2.0], 100 * GROWTH),
    ],
)
def test_the_limit_follows_from_the_longest_step_and_never_falls_below_a_floor(
    recent: list[float], limit: float
) -> None:
    assert learned_limit(recent) == limit


def test_steps_of_many_minutes_are_learned_from_the_first() -> None:
    loop = Loop()
    assert loop.survives(STEP_LIMIT_S * PATIENCE - 1)
    assert not loop.survives(STEP_LIMIT_S * PATIENCE + 1)
    loop.step(900)
    assert loop.survives(8_999)
    assert not loop.survives(9_001)


def test_a_step_that_grows_tenfold_goes_on() -> None:
    loop = Loop()
    for seconds in (1, 10, 60, 600, 3_000):
        loop.watchdog.on_step_begin(None, at(loop.done), QUIET)
        assert loop.survives(seconds)
        loop.step(seconds)


def test_a_slow_compilation_is_forgotten() -> None:
    loop = Loop()
    loop.step(1_000)
    assert loop.survives(9_000)
    for _ in range(RECENT):
        loop.step(1)
    assert loop.survives(STEP_LIMIT_S - 1)
    assert not loop.survives(STEP_LIMIT_S + 1)


def test_waiting_for_data_is_learned_too() -> None:
    loop = Loop()
    loop.step(1)
    loop.step(1, waits=200)
    assert loop.survives(1_999)
    assert not loop.survives(2_001)


def test_evaluations_checkpoints_and_rests_say_nothing_of_steps() -> None:
    loop = Loop()
    loop.step(1)
    loop.step(1, control=SAVING)
    loop.clock.now += 3_000
    loop.watchdog.on_prediction_step(None, at(loop.done), QUIET)
    loop.clock.now += 3_000
    loop.watchdog.on_save(None, at(loop.done), QUIET)
    with at_rest([loop.watchdog]):
        loop.clock.now += 50_000
    assert not loop.survives(STEP_LIMIT_S + 1)


def test_what_the_user_sets_is_not_changed() -> None:
    loop = Loop(limit_s=10.0)
    loop.step(60)
    assert loop.survives(9)
    assert not loop.survives(11)


def test_batches_of_an_accumulated_step_are_progress() -> None:
    loop = Loop()
    loop.step(1)
    loop.watchdog.on_step_begin(None, at(1), QUIET)
    for _ in range(8):
        loop.clock.now += 200
        assert loop.survives(0)
        loop.watchdog.on_substep_end(None, at(1), QUIET)
    assert loop.survives(1_999)
