"""The report of a search: one HTML file that holds all it shows, for any browser, without a network."""

from __future__ import annotations

import html
import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_st.study.journal import TrialRecord, describe_changes, legs, objective_names
from ray_st.study.study import Study
from ray_st.util.atomic import write_whole
from ray_st.util.events import notes

if TYPE_CHECKING:
    from ray_st.study.plots import Plot

REPORT = "report.html"

DRAWING = (ArithmeticError, AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError)
"""What drawing a figure may raise on parameters that nobody has thought of. A search took hours; its result does not hang on
a picture of it."""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #1d2630; max-width: 1100px; margin: 2em auto; padding: 0 1em; }}
h2 {{ margin: 1.6em 0 0; }}
p.note {{ color: #5a6672; margin: 0; }}
table {{ border-collapse: collapse; font-size: 13px; }}
th, td {{ padding: .2em .8em .2em 0; text-align: left; border-bottom: 1px solid #e3e8ed; white-space: nowrap; }}
div.wide {{ overflow-x: auto; }}
</style>
<script>{script}</script>
</head>
<body>
<h1>{title}</h1>
<p>{summary}</p>
{legs}
{plots}
<h2>Trials</h2>
<div class="wide">{table}</div>
</body>
</html>
"""


def write_report(folder: Path, study: Study, objectives: int) -> bool:
    """Writes ``report.html`` into a search's folder; says so if plotly is not there to draw it.

    Args:
        folder: The folder.
        study: The search's study.
        objectives: How many objectives there are.

    Returns:
        Whether it was written.
    """
    if importlib.util.find_spec("plotly") is None:
        notes.info(f"{REPORT} needs plotly: pip install 'ray-st[plots]'")
        return False
    from ray_st.study.plots import plots

    sections = [_section(plot) for plot in plots(study.study, study.records)]
    page = _PAGE.format(
        title=html.escape(f"Search {folder.name}"),
        script=importlib.import_module("plotly.offline").get_plotlyjs(),
        summary=html.escape(summary(study, objectives)),
        legs=went_through(study),
        plots="\n".join(sections),
        table=table(study.records, objectives),
    )
    try:
        write_whole(folder / REPORT, page.encode(errors="replace"))
    except OSError as error:  # a full disk
        notes.warning(f"warning: {folder / REPORT} cannot be written ({error})")
        return False
    return True


def summary(study: Study, objectives: int) -> str:
    """What was found, in a few words.

    Args:
        study: The study.
        objectives: How many objectives there are.
    """
    records = study.records
    counts = {state: sum(record.state == state for record in records) for state in _STATES}
    words = ", ".join(f"{count} {_STATES[state]}" for state, count in counts.items() if count)
    best = study.best()
    found = f" Best: trial {best[0].number} with {best[0].objectives[0]:.6g}." if best else ""
    if objectives > 1:
        found = f" {len(best)} trials on the front." if best else ""
    rows, seconds = sum(record.samples for record in records), sum(record.seconds for record in records)
    return f"{len(records)} trials: {words}.{found} {rows:,} training rows, {seconds:,.0f} s of trials."


def went_through(study: Study) -> str:
    """As HTML, with which values the best trial's weights were trained from when on; empty if they stayed the same.

    Args:
        study: The study.
    """
    path = legs(study.records, study.best()[0].number) if study.best() else []
    if len(path) < 2:
        return ""
    names = list(dict.fromkeys(name for _, _, values in path for name in values))
    rows = [
        _cells("td", [evaluation, number, *(values.get(name, "") for name in names)])
        for evaluation, number, values in path
    ]
    head = _cells("th", ["after evaluation", "as trial", *names])
    return (
        f'<h2>Schedule of the best trial</h2>\n<div class="wide"><table>{head}{"".join(rows)}</table></div>'
    )


_STATES = {"COMPLETE": "complete", "PRUNED": "stopped early", "FAIL": "failed", "RUNNING": "running"}


def table(trials: Sequence[TrialRecord], objectives: int) -> str:
    """The trials as an HTML table.

    Args:
        trials: The trials.
        objectives: How many objectives there are.
    """
    names = list(dict.fromkeys(name for trial in trials for name in trial.values))
    head = [
        "trial",
        "state",
        *objective_names(objectives),
        "evaluations",
        "seconds",
        *names,
        "changes",
        "reason",
    ]
    rows = [_cells("th", head)]
    for trial in trials:
        scores = trial.objectives or ("",) * objectives
        values = [trial.values.get(name, "") for name in names]
        facts = [len(trial.history), round(trial.seconds, 1)]
        last = [describe_changes(trial), trial.reason[:200]]
        rows.append(_cells("td", [trial.number, trial.state, *scores, *facts, *values, *last]))
    return f"<table>{''.join(rows)}</table>"


def _cells(tag: str, values: Sequence[Any]) -> str:
    shown = (f"{value:.6g}" if isinstance(value, float) else str(value) for value in values)
    return f"<tr>{''.join(f'<{tag}>{html.escape(value)}</{tag}>' for value in shown)}</tr>"


def _section(plot: Plot) -> str:
    try:
        figure = plot.draw().update_layout(title=None, margin={"t": 30})  # the heading is its title
        drawing = figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False})
    except DRAWING as error:
        said = f"{plot.title} could not be drawn ({type(error).__name__}: {error})"
        notes.warning(f"warning: {REPORT}: {said}; nothing else of the search is harmed")
        drawing = f"<p>{html.escape(said)}</p>"
    heading = f'<h2>{html.escape(plot.title)}</h2>\n<p class="note">{html.escape(plot.note)}</p>'
    return f'{heading}\n<div class="wide">{drawing}</div>'
