"""The figures of a search's report: importances and fronts are Optuna's, others show stopped trials too."""

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

from ray_st.study.constraints import describe_violations
from ray_st.study.objective import finite
from ray_st.study.trial_record import WORDS, TrialRecord, objective_names

express: Any = importlib.import_module("plotly.express")
go: Any = importlib.import_module("plotly.graph_objects")
subplots: Any = importlib.import_module("plotly.subplots")

COLOURS = {
    "COMPLETE": "#2a9d4b",
    "PRUNED": "#e09f3e",
    "FAIL": "#c1292e",
    "RUNNING": "#3a6ea5",
    "went on": "#c9d3dc",
}
SYMBOLS = {"COMPLETE": "circle", "PRUNED": "x", "FAIL": "cross", "RUNNING": "circle-open"}
INFEASIBLE = "violates a constraint"
_INFEASIBLE_LOOK = "#7b6d8d", "diamond-open"
_MARKS: dict[str, Any] = {
    "color": "ended",
    "symbol": "ended",
    "hover_name": "hover",
    "color_discrete_map": {
        **{word: COLOURS[state] for state, word in WORDS.items()},
        INFEASIBLE: _INFEASIBLE_LOOK[0],
    },
    "symbol_map": {
        **{word: SYMBOLS[state] for state, word in WORDS.items()},
        INFEASIBLE: _INFEASIBLE_LOOK[1],
    },
}
"""How plotly marks trials by how they ended, and those that violate a constraint."""

_ROW_HEIGHT = 18
_AXIS_NAMES = 70
"""Pixels for what stands above parallel coordinates: each axis's name and end."""


@dataclass(frozen=True)
class Plot:
    """A figure of a report.

    Args:
        title: Its heading.
        note: How to read it, in a sentence.
        draw: Draws the figure.
    """

    title: str
    note: str
    draw: Callable[[], Any]


def plots(study: optuna.Study, trials: Sequence[TrialRecord]) -> Iterator[Plot]:
    """The figures that have something to show.

    Args:
        study: Optuna's study.
        trials: The trials, by number.
    """
    names = objective_names(len(study.directions))
    if any(trial.state == "COMPLETE" for trial in trials) and len(names) in (2, 3):
        draw = functools.partial(visualization.plot_pareto_front, study, target_names=names)
        note = "No trial is better in all objectives than one of the front."
        grey = " Grey ones violate a constraint." if any(not trial.is_feasible for trial in trials) else ""
        yield Plot("Front", note + grey, draw)
    for place, name in enumerate(names):
        yield from _of_objective(study, trials, place, name, len(names) > 1)
    evaluated = [trial for trial in trials if trial.history]
    if len(names) == 1 and evaluated:
        note = "The objective at each evaluation of a trial; stopped trials end early."
        yield Plot("Learning curves", note, functools.partial(learning_curves, evaluated, names[0]))
    if evaluated:
        note = "How many trials reached each evaluation, and how they ended there."
        yield Plot("Rungs", note, functools.partial(rungs, trials))
    if any(trial.spans for trial in trials):
        note = "When each trial ran, in a row for each slot of the cluster, and how many ran at a time."
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
    best_so_far = functools.partial(history, maximize=maximize)
    for title, note, draw in (
        (
            "History",
            "The objective of each trial, where it ended, and the best complete one so far.",
            best_so_far,
        ),
        ("Parallel coordinates", "A line for each trial; drag along an axis.", parallel),
        ("Slices", "The objective over each parameter; stopped trials where they ended.", slices),
    ):
        yield Plot(title + suffix, note + without, functools.partial(draw, shown, place, name))
    complete = [trial for trial in trials if trial.state == "COMPLETE"]
    if len({trial.objectives[place] for trial in complete}) > 1 and any(trial.params for trial in complete):
        note = "How much of what is good about the best complete trials each parameter explains (PED-ANOVA)."
        yield Plot(f"Importances{suffix}", note, functools.partial(_importances, study, place, name, several))


def _importances(study: optuna.Study, place: int, name: str, several: bool) -> Any:
    """The importances for an objective; with several, their evaluator takes low values for good ones."""
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
    values = [trial.objectives[place] for trial in trials]
    points = {"trial": [trial.number for trial in trials], name: values, **_looks(trials)}
    figure = express.scatter(points, x="trial", y=name, **_MARKS)
    complete = [trial for trial in trials if trial.state == "COMPLETE" and trial.is_feasible]
    best = accumulate((trial.objectives[place] for trial in complete), max if maximize else min)
    return figure.add_scatter(
        x=[trial.number for trial in complete],
        y=list(best),
        name="best so far",
        mode="lines",
        line={"shape": "hv", "color": COLOURS["RUNNING"]},
    )


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
        some = [trial for trial in trials if axis.name in trial.params]
        values = [trial.objectives[place] for trial in some]
        points = {"x": axis.values(some), "y": values, **_looks(some)}
        for trace in express.scatter(points, x="x", y="y", **_MARKS).data:
            figure.add_trace(trace.update(showlegend=column == 1), row=1, col=column)
        figure.update_xaxes(title=axis.title, range=axis.span, **axis.ticks, row=1, col=column)
    return figure.update_yaxes(title=name, row=1, col=1)


def parallel(trials: Sequence[TrialRecord], place: int, name: str) -> Any:
    """A line for each trial through how it ended, the parameters that all trials have, and an objective.

    Args:
        trials: Trials with a value.
        place: Which objective.
        name: What it is called.
    """
    states = list(dict.fromkeys(trial.state for trial in trials))
    values = [trial.objectives[place] for trial in trials]
    ended = {
        "label": "ended",
        "values": [states.index(trial.state) for trial in trials],
        "tickvals": list(range(len(states))),
        "ticktext": [WORDS[state] for state in states],
        "range": [-0.5, len(states) - 0.5],
    }
    shared = [axis for axis in axes_of(trials) if all(axis.name in trial.params for trial in trials)]
    dimensions = [
        ended,
        *({"label": a.title, "values": a.values(trials), "range": a.span, **a.ticks} for a in shared),
        {"label": name, "values": values, "range": _widened(min(values), max(values))},
    ]
    lines = go.Parcoords(dimensions=dimensions, line={"color": values, "showscale": True})
    return go.Figure(lines).update_layout(margin={"t": _AXIS_NAMES})


def learning_curves(trials: Sequence[TrialRecord], name: str) -> Any:
    """The objective at each evaluation of each trial, coloured by how it ended.

    Args:
        trials: Trials with evaluations.
        name: What the objective is called.
    """
    events = [(trial, event) for trial in trials for event in trial.history]
    points = {
        "evaluation": [event["evaluation"] for _, event in events],
        name: [event["objectives"][0] for _, event in events],
        "trial": [trial.number for trial, _ in events],
        **_looks([trial for trial, _ in events]),
    }
    return express.line(points, x="evaluation", y=name, line_group="trial", markers=True, **_MARKS)


def _looks(trials: Sequence[TrialRecord]) -> dict[str, list[str]]:
    """The columns that :data:`_MARKS` names."""
    ended = [WORDS[trial.state] if trial.is_feasible else INFEASIBLE for trial in trials]
    return {"ended": ended, "hover": [_hover(trial) for trial in trials]}


@dataclass(frozen=True)
class Axis:
    """A parameter's axis: as long as its space, even if there are few trials.

    Args:
        name: The parameter.
        title: What is written at the axis.
        span: Its two ends.
        ticks: The labels of choices as plotly's options; empty for numbers.
        place: Where a value is on the axis.
    """

    name: str
    title: str
    span: list[float]
    ticks: dict[str, list[Any]]
    place: Callable[[Any], float]

    @classmethod
    def of(cls, name: str, kind: BaseDistribution) -> Axis:
        """The axis of a parameter that is drawn from a distribution."""
        if isinstance(kind, FloatDistribution | IntDistribution):
            place = math.log10 if kind.log else float
            span = _widened(place(kind.low), place(kind.high))
            return cls(name, f"log10 {name}" if kind.log else name, span, {}, place)
        assert isinstance(kind, CategoricalDistribution)
        labels = [str(choice) for choice in kind.choices]
        ticks: dict[str, list[Any]] = {"tickvals": list(range(len(labels))), "ticktext": labels}
        return cls(name, name, [-0.5, len(labels) - 0.5], ticks, kind.to_internal_repr)

    def values(self, trials: Sequence[TrialRecord]) -> list[float]:
        """Where trials are on the axis."""
        return [self.place(trial.params[self.name]) for trial in trials]


def axes_of(trials: Sequence[TrialRecord]) -> list[Axis]:
    """The axes of the parameters of some trials.

    Args:
        trials: The trials.
    """
    kinds = {name: text for trial in trials for name, text in trial.distributions.items()}
    return [Axis.of(name, json_to_distribution(text)) for name, text in kinds.items()]


def _widened(low: float, high: float) -> list[float]:
    """A range with a little room; a single value is in its middle."""
    room = 0.05 * (high - low) or 0.05 * abs(low) or 1.0
    return [low - room, high + room]


def rungs(trials: Sequence[TrialRecord]) -> Any:
    """For each evaluation, how many trials continued after it, and how many ended there, by how they ended.

    Args:
        trials: The trials.
    """
    counts = Counter(
        (rung, "went on" if len(trial.history) > rung else trial.state)
        for trial in trials
        for rung in range(1, len(trial.history) + 1)
    )
    evaluations = list(range(1, 1 + max(rung for rung, _ in counts)))
    bars = [
        go.Bar(name=word, x=evaluations, y=[counts[rung, word] for rung in evaluations], marker_color=colour)
        for word, colour in COLOURS.items()
        if any(word == found for _, found in counts)
    ]
    figure = go.Figure(bars).update_layout(barmode="relative", legend_title="ended")
    return figure.update_xaxes(title="evaluation", dtick=1).update_yaxes(title="trials")


def time_line(trials: Sequence[TrialRecord]) -> Any:
    """When each trial ran, a row for each slot, and below it how many ran at a time.

    Args:
        trials: The trials.
    """
    figure = subplots.make_subplots(
        rows=2, shared_xaxes=True, row_heights=[0.75, 0.25], vertical_spacing=0.06
    )
    spans = slots(trials)
    bars = {
        "trial": [str(span.trial.number) for span in spans],
        "slot": [span.slot for span in spans],
        "from": [_moment(span.begin) for span in spans],
        "to": [_moment(span.end) for span in spans],
        "ended": [span.trial.state for span in spans],
        "hover": [_hover(span.trial) for span in spans],
    }
    drawn = express.timeline(
        bars,
        "from",
        "to",
        "slot",
        color="ended",
        text="trial",
        color_discrete_map=COLOURS,
        hover_name="hover",
    )
    drawn.update_traces(textposition="inside", insidetextanchor="middle")
    figure.add_traces(drawn.data, rows=1, cols=1)
    moments, running = busy(trials)
    figure.add_scatter(
        x=[_moment(moment) for moment in moments],
        y=running,
        line={"shape": "hv", "color": COLOURS["RUNNING"]},
        fill="tozeroy",
        showlegend=False,
        hovertemplate="%{y} at a time<extra></extra>",
        row=2,
        col=1,
    )
    figure.update_xaxes(type="date")
    figure.update_yaxes(title="slot", autorange="reversed", dtick=1, row=1, col=1)
    figure.update_yaxes(title="running", rangemode="tozero", row=2, col=1)
    rows = 1 + max((span.slot for span in spans), default=0)
    return figure.update_layout(barmode="overlay", height=260 + _ROW_HEIGHT * min(rows, 80))


@dataclass(frozen=True)
class Span:
    """A stretch of time in which a trial ran.

    Args:
        trial: The trial.
        slot: The row it is drawn in, from 0.
        begin: Seconds since 1970.
        end: Likewise.
    """

    trial: TrialRecord
    slot: int
    begin: float
    end: float


def slots(trials: Sequence[TrialRecord]) -> list[Span]:
    """When trials ran, each stretch in the first row that is free then: as many rows as ran at a time.

    Args:
        trials: The trials.
    """
    stretches = sorted((begin, end, trial.number) for trial in trials for begin, end in trial.spans)
    by_number = {trial.number: trial for trial in trials}
    free_from: list[float] = []
    found = []
    for begin, end, number in stretches:
        slot = next((row for row, moment in enumerate(free_from) if moment <= begin), len(free_from))
        free_from[slot:] = [end, *free_from[slot + 1 :]]
        found.append(Span(by_number[number], slot, begin, end))
    return found


def busy(trials: Sequence[TrialRecord]) -> tuple[list[float], list[int]]:
    """How many trials ran at a time: the moments when that changed, and the number from each on.

    Args:
        trials: The trials.
    """
    changes: Counter[float] = Counter()
    for trial in trials:
        for begin, end in trial.spans:
            changes[begin] += 1
            changes[end] -= 1
    moments = sorted(changes)
    return moments, list(accumulate(changes[moment] for moment in moments))


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)


def _hover(trial: TrialRecord) -> str:
    values = "".join(f"<br>{name}: {value}" for name, value in trial.values.items())
    beyond = "" if trial.is_feasible else f"<br>violates {describe_violations(trial)}"
    return f"trial {trial.number}: {', '.join(f'{value:.6g}' for value in trial.objectives)}{beyond}{values}"
