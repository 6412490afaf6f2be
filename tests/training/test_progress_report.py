from __future__ import annotations

import types
from typing import Any

import pytest
import torch
from transformers import TrainerControl, TrainerState

from ray_st.training.callbacks import progress_report
from ray_st.training.callbacks.progress_report import ProgressReport
from ray_st.util.events import notes

ARGS: Any = types.SimpleNamespace(
    per_device_train_batch_size=4,
    world_size=2,
    gradient_accumulation_steps=3,
    device="cpu",
    bf16=True,
    tf32=None,
    fp16=False,
)
CONTROL = TrainerControl()
THREADS = f"cpu, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}"


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


class FakeBar:
    def __init__(self, total: int) -> None:
        self.total, self.at, self.text, self.closed = total, 0, "", False

    def update(self, n: int = 1) -> None:
        self.at += n

    def set_description(self, desc: str) -> None:
        self.text = desc

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress_report, "time", clock)
    return clock


def state(step: int, first: bool = True) -> TrainerState:
    return TrainerState(global_step=step, max_steps=50, is_world_process_zero=first)


def walk(report: ProgressReport, clock: Clock, first: bool = True, start: int = 0) -> None:
    """Four steps of two seconds each, a loss after the second, an evaluation at the end."""
    report.on_train_begin(ARGS, state(start, first), CONTROL)
    for step in range(start + 1, start + 5):
        clock.now += 2
        report.on_step_end(ARGS, state(step, first), CONTROL)
        if step == start + 2:
            report.on_log(ARGS, state(step, first), CONTROL, logs={"loss": 0.51239, "epoch": 0.1})
    report.on_log(
        ARGS, state(start + 4, first), CONTROL, logs={"eval_ndcg": 0.123456, "epoch": 0.2, "eval_n": 7}
    )
    report.on_train_end(ARGS, state(start + 4, first), CONTROL)


def test_plain_lines(clock: Clock) -> None:
    lines: list[str] = []
    walk(ProgressReport(None, lines.append, every_s=5), clock)
    assert lines == [
        f"2 workers, each: {THREADS}, bfloat16 autocast; training for 50 steps",
        "step 3/50  loss 0.5124  12 samples/s",
        "step 4/50  eval_ndcg 0.1235  eval_n 7",
    ]


def test_a_bar_that_goes_on_from_a_checkpoint(clock: Clock) -> None:
    bars: list[FakeBar] = []
    lines: list[str] = []

    def open_bar(total: int) -> FakeBar:
        bars.append(FakeBar(total))
        return bars[-1]

    walk(ProgressReport(open_bar, lines.append), clock, start=20)
    (bar,) = bars
    assert (bar.total, bar.at, bar.closed) == (50, 24, True)
    assert bar.text == "loss 0.5124  12 samples/s"  # of this run's own steps
    assert lines == [
        f"2 workers, each: {THREADS}, bfloat16 autocast; going on after step 20 of 50 steps",
        "step 24/50  eval_ndcg 0.1235  eval_n 7",
    ]


def test_only_the_first_rank_speaks(clock: Clock) -> None:
    lines: list[str] = []

    def no_bar(total: int) -> FakeBar:
        raise AssertionError("a bar on another rank")

    walk(ProgressReport(no_bar, lines.append), clock, first=False)
    assert lines == []


def test_the_global_batch_is_what_the_user_said(clock: Clock) -> None:
    lines: list[str] = []
    report = ProgressReport(None, lines.append)
    args: Any = types.SimpleNamespace(**{**vars(ARGS), "global_train_batch_size": 7})
    report.on_train_begin(args, state(0), CONTROL)
    clock.now += 10
    report.on_step_end(args, state(10), CONTROL)
    assert lines[1:] == ["step 10/50  21 samples/s"]


def test_empty_logs_write_nothing(clock: Clock) -> None:
    lines: list[str] = []
    ProgressReport(None, lines.append).on_log(ARGS, state(1), CONTROL, logs=None)
    assert lines == []


def test_a_line_is_written_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    notes.info("step 1")
    assert capsys.readouterr().out == "step 1\n"
