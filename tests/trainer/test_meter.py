"""Figures of a run, from its loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ray_st.training.callbacks.stop_consensus import StopConsensus
from ray_st.training.callbacks.throughput import PARTS, Goodput, Throughput
from ray_st.util.booked import Booked
from ray_st.util.endings import StopRequest


class Recorded:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}
        self.labels: dict[str, set[tuple[tuple[str, str], ...]]] = {}

    def set(self, name: str, value: float, **labels: str) -> None:
        self.values.setdefault(name, []).append(value)
        self.labels.setdefault(name, set()).add(tuple(sorted(labels.items())))

    def due(self) -> bool:
        return True


@pytest.fixture
def measured(make: Any, sent: Any, fresh_accelerator: None, tmp_path: Path) -> tuple[Any, Recorded, Booked]:
    arguments = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 2}
    trainer = sent(make(arguments=arguments, eval_dataset=make().train_dataset))
    sink, booked = Recorded(), Booked()
    roll_call = StopConsensus(trainer.worker, StopRequest(), pace=lambda: meter.pace(), every_s=0.0)
    tally = Goodput(1000.0, booked.total_at, booked.book, lambda: 1100.0)
    meter = Throughput(trainer, sink, lambda: roll_call.skew, tally, wall=lambda: 1100.0)
    trainer.add_callback(meter)
    trainer.add_callback(roll_call)
    trainer.train()
    return trainer, sink, booked


def test_every_figure_of_a_run_is_set(measured: Any) -> None:
    from ray_st.runtime.supervision.ray_metrics import METRICS

    _, sink, _ = measured
    named = {
        metric.name: metric
        for metric in METRICS
        if metric.name.startswith(("st_train", "st_eval", "st_checkpoint"))
    }
    assert set(sink.values) == set(named)
    for name, labels in sink.labels.items():
        for found in labels:
            assert {key for key, _ in found} | {"run"} == set(named[name].labels), name


def test_the_parts_add_up(measured: Any) -> None:
    trainer, sink, booked = measured
    parts = {dict(labels)["part"] for labels in sink.labels["st_train_step_seconds"]}
    assert parts == set(PARTS)
    assert min(sink.values["st_train_step_seconds"]) >= 0
    assert max(booked.totals) == trainer.state.global_step
    in_steps = sum(sink.values["st_train_step_seconds"])
    assert booked.totals[trainer.state.global_step] >= in_steps
    assert sink.values["st_train_effective_time_ratio"][-1] == pytest.approx(
        max(booked.totals.values()) / 100
    )


def test_tokens_rows_and_checkpoints(measured: Any) -> None:
    trainer, sink, _ = measured
    assert sink.values["st_train_step"] == [1, 2, 3]
    assert sink.values["st_checkpoint_step"] == [1, 2, 3]
    assert set(sink.values["st_checkpoint_unixtime_seconds"]) == {1100.0}
    assert all(0 <= share < 1 for share in sink.values["st_train_padding_share"])
    assert min(sink.values["st_train_tokens_per_second"]) > 0
    assert min(sink.values["st_train_samples_per_second"]) > 0
    assert sink.values["st_train_rank_skew"][-1] == 1.0
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert sink.values["st_train_loss"] == logged


def test_it_lets_go_of_the_model(measured: Any) -> None:
    trainer, _, _ = measured
    assert not trainer.model.first._forward_pre_hooks
    assert not trainer.model_wrapped._forward_hooks
