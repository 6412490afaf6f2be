"""A search in figures: Optuna's own, and those of how its trials ran."""

from __future__ import annotations

import functools
import importlib
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import optuna
from optuna import visualization

from ray_st.tune.records import TrialRecord, objective_names

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


@dataclass(frozen=True)
class Plot:
    """A figure with its place in a report.

    Args:
        title: Its heading.
        note: How to read it, in a sentence.
        figure: The figure.
    """

    title: str
    note: str
    figure: Any


def plots(study: optuna.Study, trials: Sequence[TrialRecord]) -> Iterator[Plot]:
    """The figures that there is something to show in.

    Args:
        study: Optuna's study.
        trials: The trials, by number.
    """
    complete = [trial for trial in study.get_trials(deepcopy=False) if trial.values and _ended(trial)]
    names = objective_names(len(study.directions))
    if complete and len(names) in (2, 3):
        front = visualization.plot_pareto_front(study, target_names=names)
        yield Plot("Front", "No trial is better in all objectives than one of the front.", front)
    for place, name in enumerate(names) if complete else ():
        yield from _of_objective(study, complete, place, name, len(names) > 1)
    if any(trial.intermediate_values for trial in study.get_trials(deepcopy=False)):
        curves = visualization.plot_intermediate_values(study)
        curves.update_layout(xaxis_title="evaluation", yaxis_title=names[0])
        yield Plot(
            "Learning curves",
            "The objective at each evaluation of a trial; stopped trials end early.",
            curves,
        )
    if any(trial.history for trial in trials):
        yield Plot(
            "Rungs", "How many trials came to each evaluation, and what became of them there.", rungs(trials)
        )
    if any(trial.spans for trial in trials):
        yield Plot("Time line", "When each trial ran, and how many ran at a time.", time_line(trials))


def _ended(trial: optuna.trial.FrozenTrial) -> bool:
    return trial.state == optuna.trial.TrialState.COMPLETE


def _of_objective(
    study: optuna.Study, complete: Sequence[Any], place: int, name: str, several: bool
) -> Iterator[Plot]:
    """Optuna's figures of one objective."""
    target = functools.partial(_value, place=place) if several else None
    given: dict[str, Any] = {"target": target, "target_name": name}
    suffix = f": {name}" if several else ""
    for title, note, draw in (
        ("History", "The objective of each complete trial, and the best so far.", "optimization_history"),
        (
            "Parallel coordinates",
            "A line for each complete trial; drag along an axis.",
            "parallel_coordinate",
        ),
        ("Slices", "The objective over each parameter; darker points are later trials.", "slice"),
    ):
        figure = getattr(visualization, f"plot_{draw}")(study, **given)
        yield Plot(title + suffix, note, figure)
    if len({trial.values[place] for trial in complete}) > 1 and any(trial.params for trial in complete):
        figure = _importances(study, place, name, several)
        note = "How much of what is good about the best complete trials each parameter explains (PED-ANOVA)."
        yield Plot("Importances" + suffix, note, figure)


def _importances(study: optuna.Study, place: int, name: str, several: bool) -> Any:
    """The importances for an objective; for one of several, their evaluator takes low values for good."""
    sign = -1 if study.directions[place] == optuna.study.StudyDirection.MAXIMIZE else 1
    target = (lambda trial: sign * _value(trial, place)) if several else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of that, and of conditional parameters with few trials
        return visualization.plot_param_importances(study, target=target, target_name=name)


def _value(trial: optuna.trial.FrozenTrial, place: int) -> float:
    return float(trial.values[place])


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
