"""A search in figures: Optuna's own, and those of how its trials ran."""

from __future__ import annotations

import functools
import importlib
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import accumulate
from typing import Any

import optuna
from optuna import visualization
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    json_to_distribution,
)

from ray_st.study.journal import TrialRecord, objective_names
from ray_st.study.objective import finite

go: Any = importlib.import_module("plotly.graph_objects")
subplots: Any = importlib.import_module("plotly.subplots")

COLOURS = {
    "COMPLETE": "#2a9d4b",
    "PRUNED": "#e09f3e",
    "FAIL": "#c1292e",
    "RUNNING": "#3a6ea5",
    "went on": "#c9d3dc",
}
_ROW_HEIGHT = 18


SYMBOLS = {"COMPLETE": "circle", "PRUNED": "x", "FAIL": "cross", "RUNNING": "circle-open"}
WORDS = {"COMPLETE": "complete", "PRUNED": "stopped early", "FAIL": "failed", "RUNNING": "running"}


@dataclass(frozen=True)
class Plot:
    """A figure with its place in a report.

    Args:
        title: Its heading.
        note: How to read it, in a sentence.
        draw: Draws the figure.
    """

    title: str
    note: str
    draw: Callable[[], Any]


def plots(study: optuna.Study, trials: Sequence[TrialRecord]) -> Iterator[Plot]:
    """The figures that there is something to show in.

    Args:
        study: Optuna's study.
        trials: The trials, by number.
    """
    names = objective_names(len(study.directions))
    complete = [trial for trial in trials if trial.state == "COMPLETE"]
    if complete and len(names) in (2, 3):
        draw = functools.partial(visualization.plot_pareto_front, study, target_names=names)
        yield Plot("Front", "No trial is better in all objectives than one of the front.", draw)
    for place, name in enumerate(names):
        yield from _of_objective(study, trials, place, name, len(names) > 1)
    if len(names) == 1 and any(trial.history for trial in trials):
        yield Plot(
            "Learning curves",
            "The objective at each evaluation of a trial; stopped trials end early.",
            functools.partial(learning_curves, trials, names[0]),
        )
    if any(trial.history for trial in trials):
        note = "How many trials came to each evaluation, and what became of them there."
        yield Plot("Rungs", note, functools.partial(rungs, trials))
    if any(trial.spans for trial in trials):
        note = "When each trial ran, and how many ran at a time."
        yield Plot("Time line", note, functools.partial(time_line, trials))


def _of_objective(
    study: optuna.Study, trials: Sequence[TrialRecord], place: int, name: str, several: bool
) -> Iterator[Plot]:
    """The figures of one objective."""
    shown = [trial for trial in trials if trial.objectives and finite(trial.objectives)]
    if not shown:
        return
    suffix = f": {name}" if several else ""
    maximize = study.directions[place] == optuna.study.StudyDirection.MAXIMIZE
    missing = len(trials) - len(shown)
    without = f" {missing} trial(s) without an evaluation are left out." if missing else ""
    for title, note, draw in (
        (
            "History",
            "The objective of each trial, stopped ones where they ended, and the best complete one so far.",
            functools.partial(history, shown, place, name, maximize),
        ),
        (
            "Parallel coordinates",
            "A line for each trial; drag along an axis.",
            functools.partial(parallel, shown, place, name),
        ),
        (
            "Slices",
            "The objective over each parameter; stopped trials where they ended.",
            functools.partial(slices, shown, place, name),
        ),
    ):
        yield Plot(title + suffix, note + without, draw)
    complete = [trial for trial in trials if trial.state == "COMPLETE"]
    if len({trial.objectives[place] for trial in complete}) > 1 and any(trial.params for trial in complete):
        note = "How much of what is good about the best complete trials each parameter explains (PED-ANOVA)."
        yield Plot("Importances" + suffix, note, functools.partial(_importances, study, place, name, several))


def _importances(study: optuna.Study, place: int, name: str, several: bool) -> Any:
    """The importances for an objective; for one of several, their evaluator takes low values for good."""
    sign = -1 if study.directions[place] == optuna.study.StudyDirection.MAXIMIZE else 1
    target = (lambda trial: sign * float(trial.values[place])) if several else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of that, and of conditional parameters with few trials
        return visualization.plot_param_importances(study, target=target, target_name=name)


def history(trials: Sequence[TrialRecord], place: int, name: str, maximize: bool) -> Any:
    """An objective of each trial, marked by how it ended, and the best of the complete ones so far.

    Args:
        trials: Trials with a value.
        place: Which objective.
        name: What it is called.
        maximize: Whether more is better.
    """
    figure = go.Figure(
        [
            _marks(some, [trial.number for trial in some], [trial.objectives[place] for trial in some])
            for some in _by_state(trials)
        ]
    )
    complete = [trial for trial in trials if trial.state == "COMPLETE"]
    best = accumulate((trial.objectives[place] for trial in complete), max if maximize else min)
    figure.add_trace(
        go.Scatter(
            x=[trial.number for trial in complete],
            y=list(best),
            name="best so far",
            mode="lines",
            line={"shape": "hv", "color": COLOURS["RUNNING"]},
        )
    )
    return figure.update_layout(xaxis_title="trial", yaxis_title=name)


def slices(trials: Sequence[TrialRecord], place: int, name: str) -> Any:
    """An objective over each parameter, over all of its space, trials marked by how they ended.

    Args:
        trials: Trials with a value.
        place: Which objective.
        name: What it is called.
    """
    axes = axes_of(trials)
    figure = subplots.make_subplots(rows=1, cols=max(len(axes), 1), shared_yaxes=True)
    for column, axis in enumerate(axes, 1):
        for some in _by_state([trial for trial in trials if axis.name in trial.params]):
            marks = _marks(some, axis.values(some), [trial.objectives[place] for trial in some])
            figure.add_trace(marks.update(showlegend=column == 1), row=1, col=column)
        figure.update_xaxes(title=axis.title, range=axis.span, **axis.ticks, row=1, col=column)
    figure.update_yaxes(title=name, row=1, col=1)
    return figure


def parallel(trials: Sequence[TrialRecord], place: int, name: str) -> Any:
    """A line for each trial through how it ended, those parameters that all have, and an objective.

    Args:
        trials: Trials with a value.
        place: Which objective.
        name: What it is called.
    """
    states = list(dict.fromkeys(trial.state for trial in trials))
    values = [trial.objectives[place] for trial in trials]
    ended: dict[str, Any] = {
        "label": "ended",
        "values": [states.index(trial.state) for trial in trials],
        "tickvals": list(range(len(states))),
        "ticktext": [WORDS[state] for state in states],
        "range": [-0.5, len(states) - 0.5],
    }
    dimensions = [ended]
    for axis in axes_of(trials):
        if all(axis.name in trial.params for trial in trials):
            dimensions.append(
                {"label": axis.title, "values": axis.values(trials), "range": axis.span, **axis.ticks}
            )
    dimensions.append({"label": name, "values": values, "range": _widened(min(values), max(values))})
    return go.Figure(go.Parcoords(dimensions=dimensions, line={"color": values, "showscale": True}))


def learning_curves(trials: Sequence[TrialRecord], name: str) -> Any:
    """The objective at each evaluation of each trial, coloured by how it ended.

    Args:
        trials: The trials.
        name: What the objective is called.
    """
    figure = go.Figure()
    for some in _by_state([trial for trial in trials if trial.history]):
        for place, trial in enumerate(some):
            figure.add_trace(
                go.Scatter(
                    x=[event["evaluation"] for event in trial.history],
                    y=[event["objectives"][0] for event in trial.history],
                    mode="lines+markers",
                    name=WORDS[trial.state],
                    legendgroup=trial.state,
                    showlegend=place == 0,
                    text=_hover(trial),
                    hovertemplate="%{text}<br>%{y}<extra></extra>",
                    line={"color": COLOURS[trial.state]},
                    marker={"symbol": SYMBOLS[trial.state]},
                )
            )
    return figure.update_layout(xaxis_title="evaluation", yaxis_title=name)


def _by_state(trials: Sequence[TrialRecord]) -> list[list[TrialRecord]]:
    """The trials, those that ended alike together."""
    groups = [[trial for trial in trials if trial.state == state] for state in WORDS]
    return [group for group in groups if group]


def _marks(trials: Sequence[TrialRecord], x: Sequence[float], y: Sequence[float]) -> Any:
    """A mark for each of some trials that ended alike."""
    state = trials[0].state
    return go.Scatter(
        x=x,
        y=y,
        mode="markers",
        name=WORDS[state],
        legendgroup=state,
        marker={"symbol": SYMBOLS[state], "color": COLOURS[state], "size": 8},
        text=[_hover(trial) for trial in trials],
        hovertemplate="%{text}<extra></extra>",
    )


@dataclass(frozen=True)
class Axis:
    """A parameter's axis: as long as its space, however few trials there are.

    Args:
        name: The parameter.
        distribution: What it is drawn from.
    """

    name: str
    distribution: BaseDistribution

    @property
    def choices(self) -> list[str]:
        """What is written at the places of choices; empty for numbers."""
        kind = self.distribution
        return [str(choice) for choice in kind.choices] if isinstance(kind, CategoricalDistribution) else []

    @property
    def ticks(self) -> dict[str, list[Any]]:
        """How plotly writes the choices; nothing for numbers."""
        return {"tickvals": list(range(len(self.choices))), "ticktext": self.choices} if self.choices else {}

    @property
    def log(self) -> bool:
        """Whether powers of ten are equally far apart."""
        kind = self.distribution
        return isinstance(kind, FloatDistribution | IntDistribution) and kind.log

    @property
    def title(self) -> str:
        """What the axis is called."""
        return f"log10 {self.name}" if self.log else self.name

    @property
    def span(self) -> list[float]:
        """From where to where it goes."""
        kind = self.distribution
        if isinstance(kind, FloatDistribution | IntDistribution):
            return _widened(self._place(kind.low), self._place(kind.high))
        return [-0.5, len(self.choices) - 0.5]

    def values(self, trials: Sequence[TrialRecord]) -> list[float]:
        """Where trials are on the axis."""
        return [self._place(trial.params[self.name]) for trial in trials]

    def _place(self, value: Any) -> float:
        if isinstance(self.distribution, CategoricalDistribution):
            return self.distribution.to_internal_repr(value)
        return math.log10(value) if self.log else float(value)


def axes_of(trials: Sequence[TrialRecord]) -> list[Axis]:
    """The axes of the parameters of some trials.

    Args:
        trials: The trials.
    """
    kinds = {name: text for trial in trials for name, text in trial.distributions.items()}
    return [Axis(name, json_to_distribution(text)) for name, text in kinds.items()]


def _widened(low: float, high: float) -> list[float]:
    """A range with a little room; of a single value, with the value in the middle."""
    room = 0.05 * (high - low) or 0.05 * abs(low) or 1.0
    return [low - room, high + room]


def rungs(trials: Sequence[TrialRecord]) -> Any:
    """For each evaluation, how many trials went on after it, and how many ended there, by how they ended.

    Args:
        trials: The trials.
    """
    last = max(len(trial.history) for trial in trials)
    counts = [
        Counter(
            "went on" if len(trial.history) > rung else trial.state
            for trial in trials
            if len(trial.history) >= rung
        )
        for rung in range(1, last + 1)
    ]
    figure = go.Figure(
        [
            go.Bar(
                x=list(range(1, last + 1)),
                y=[count[word] for count in counts],
                name=word,
                marker_color=colour,
            )
            for word, colour in COLOURS.items()
            if any(count[word] for count in counts)
        ]
    )
    return figure.update_layout(
        barmode="stack", xaxis_title="evaluation", yaxis_title="trials", xaxis_dtick=1
    )


def time_line(trials: Sequence[TrialRecord]) -> Any:
    """When each trial ran, and below it how many ran at a time.

    Args:
        trials: The trials.
    """
    figure = subplots.make_subplots(
        rows=2, shared_xaxes=True, row_heights=[0.75, 0.25], vertical_spacing=0.06
    )
    for state in dict.fromkeys(trial.state for trial in trials):
        spans = [(trial, span) for trial in trials if trial.state == state for span in trial.spans]
        bars = go.Bar(
            y=[trial.number for trial, _ in spans],
            base=[_moment(span[0]) for _, span in spans],
            x=[1000 * (span[1] - span[0]) for _, span in spans],  # plotly's dates are in milliseconds
            text=[_hover(trial) for trial, _ in spans],
            textposition="none",
            hovertemplate="%{text}<extra></extra>",
            orientation="h",
            name=state,
            marker_color=COLOURS[state],
        )
        figure.add_trace(bars, row=1, col=1)
    moments, running = busy(trials)
    steps = go.Scatter(
        x=[_moment(moment) for moment in moments],
        y=running,
        line={"shape": "hv", "color": COLOURS["RUNNING"]},
        fill="tozeroy",
        showlegend=False,
        hovertemplate="%{y} at a time<extra></extra>",
    )
    figure.add_trace(steps, row=2, col=1)
    figure.update_xaxes(type="date")
    figure.update_yaxes(title="trial", autorange="reversed", row=1, col=1)
    figure.update_yaxes(title="running", rangemode="tozero", row=2, col=1)
    return figure.update_layout(barmode="overlay", height=260 + _ROW_HEIGHT * min(len(trials), 60))


def busy(trials: Sequence[TrialRecord]) -> tuple[list[float], list[int]]:
    """How many trials ran at a time: moments, and the number from each on.

    Args:
        trials: The trials.
    """
    changes: Counter[float] = Counter()
    for trial in trials:
        for begin, end in trial.spans:
            changes[begin] += 1
            changes[end] -= 1
    moments, running = sorted(changes), list[int]()
    for moment in moments:
        running.append((running[-1] if running else 0) + changes[moment])
    return moments, running


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)


def _hover(trial: TrialRecord) -> str:
    values = "".join(f"<br>{name}: {value}" for name, value in trial.values.items())
    return f"trial {trial.number}: {', '.join(f'{value:.6g}' for value in trial.objectives)}{values}"
