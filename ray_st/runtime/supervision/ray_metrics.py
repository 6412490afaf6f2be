"""The metrics that a run and a search export to Prometheus, through Ray's metrics."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from ray.util.metrics import Counter, Gauge

PREFIX = "ray_"
"""The prefix that Ray adds to names."""

STATES = ("RUNNING", "COMPLETE", "PRUNED", "FAIL")
"""The states of a trial."""

EVERY_S = 5.0
"""Seconds between two updates of a run's speed metrics."""


@dataclass(frozen=True)
class Metric:
    """A metric.

    Args:
        name: Its name, without Ray's prefix.
        help: Its description and unit.
        labels: Names of the labels that distinguish its series.
        counts: Whether it is a counter, exported with the suffix ``_total``.
    """

    name: str
    help: str
    labels: tuple[str, ...]
    counts: bool = False

    @property
    def exported(self) -> str:
        """The name under which Prometheus sees it."""
        return f"{PREFIX}{self.name}{'_total' if self.counts else ''}"


_RUN, _RANK = ("run",), ("run", "rank")

METRICS = (
    Metric("st_train_step", "Last optimizer step", _RUN),
    Metric("st_train_loss", "Mean training loss since the last logged step", _RUN),
    Metric("st_train_learning_rate", "Learning rate of the first parameter group", _RUN),
    Metric("st_train_samples_per_second", "Rows of global batches per second", _RUN),
    Metric("st_train_tokens_per_second", "Real (non-padding) tokens per second of a rank", _RANK),
    Metric("st_train_padding_share", "Share of a rank's computed tokens that are padding", _RANK),
    Metric("st_train_step_seconds", "Seconds per step, by part", ("run", "rank", "part")),
    Metric("st_train_data_wait_share", "Share of step time spent waiting for data", _RANK),
    Metric("st_train_rank_skew", "Forward time of the slowest rank divided by the mean of all ranks", _RUN),
    Metric("st_train_effective_time_ratio", "Share of the run's time spent in steps that count", _RUN),
    Metric("st_eval", "Metrics of the latest evaluation", ("run", "metric")),
    Metric("st_checkpoint_unixtime_seconds", "When the newest checkpoint was completed (Unix time)", _RUN),
    Metric("st_checkpoint_seconds", "Seconds spent writing the newest checkpoint", _RUN),
    Metric("st_checkpoint_pause_seconds", "Seconds that training stood still for a checkpoint", _RUN),
    Metric("st_checkpoint_step", "Step of the newest checkpoint", _RUN),
    Metric("st_workers_started", "Worker groups of the run that were started", _RUN, counts=True),
    Metric("st_restarts", "Worker groups that replaced a lost one, by cause", ("run", "cause"), counts=True),
    Metric("st_search_trials", "Trials of a search, by state", ("search", "state")),
    Metric("st_search_best_value", "Best value of a search's first objective", ("search",)),
    Metric(
        "st_search_pruned_share", "Share of a search's finished trials that were stopped early", ("search",)
    ),
)
"""All metrics. Dashboards, alerts and docs/operations.md use no others; a test compares them."""

_BY_NAME = {metric.name: metric for metric in METRICS}


@cache
def _made(name: str) -> Any:
    metric = _BY_NAME[name]
    return (Counter if metric.counts else Gauge)(metric.name, metric.help, metric.labels)


def show(name: str, value: float, **labels: str) -> None:
    """Sets a gauge.

    Args:
        name: One of :data:`METRICS`.
        value: Its value.
        labels: A value for each of its labels.
    """
    _made(name).set(value, labels)


def count(name: str, **labels: str) -> None:
    """Increments a counter by one; arguments as for :func:`show`."""
    _made(name).inc(1, labels)


class RunMetrics:
    """Exports the metrics of one run; see :class:`ray_st.training.callbacks.throughput.MetricSink`.

    Args:
        run: Its name.
        every_s: Seconds between two updates of its speed metrics.
    """

    def __init__(self, run: str, every_s: float = EVERY_S) -> None:
        self._run, self._every_s, self._last = run, every_s, 0.0

    def set(self, name: str, value: float, **labels: str) -> None:
        """Sets a metric."""
        show(name, value, run=self._run, **labels)

    def due(self) -> bool:
        """Whether to update speed metrics now: on the first call, and then every few seconds."""
        if time.monotonic() - self._last < self._every_s:
            return False
        self._last = time.monotonic()
        return True


def show_search(search: str, states: Mapping[str, int], best: float | None) -> None:
    """Exports the progress of a search.

    Args:
        search: Its name.
        states: Number of trials by state, one of :data:`STATES`; 0 for states not given.
        best: Best value of the first objective so far; None if there is none yet.
    """
    for state in STATES:
        show("st_search_trials", states.get(state, 0), search=search, state=state)
    if best is not None:
        show("st_search_best_value", best, search=search)
    finished = sum(trials for state, trials in states.items() if state != "RUNNING")
    if finished:
        show("st_search_pruned_share", states.get("PRUNED", 0) / finished, search=search)
