"""The report of a search: one HTML file that holds all it shows, for any browser, without a network."""

from __future__ import annotations

import html
import importlib
import importlib.util
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ray_st.study.confirmed import Confirmed
from ray_st.study.confirmed_table import describe_confirmed, describe_luck, finalist_rows
from ray_st.study.study import Study
from ray_st.study.trial_record import WORDS, TrialRecord, stages
from ray_st.study.trial_table import table_rows
from ray_st.util.atomic import write_whole
from ray_st.util.events import notes

if TYPE_CHECKING:
    from ray_st.study.plots import Plot

REPORT = "report.html"

DRAWING = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, OSError),
    *(RuntimeError, TypeError, ValueError),
)
"""What drawing a figure may raise on unforeseen parameters; a picture must not cost a search."""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #1d2630; }}
body {{ max-width: 1100px; margin: 2em auto; padding: 0 1em; }}
h2 {{ margin: 1.6em 0 0; }}
p.note {{ color: #5a6672; margin: 0; }}
table {{ border-collapse: collapse; font-size: 13px; }}
th, td {{ padding: .2em .8em .2em 0; text-align: left; white-space: nowrap; }}
th, td {{ border-bottom: 1px solid #e3e8ed; }}
div.wide {{ overflow-x: auto; }}
</style>
<script>{script}</script>
</head>
<body>
<h1>{title}</h1>
<p>{summary}</p>
{confirmed}
{stages}
{plots}
<h2>Trials</h2>
<div class="wide">{table}</div>
</body>
</html>
"""


def write_report(folder: Path, study: Study, objectives: int, confirmed: Confirmed | None = None) -> bool:
    """Writes ``report.html`` into a search's folder; says so if plotly is not there to draw it.

    Args:
        folder: The folder.
        study: The search's study.
        objectives: How many objectives there are.
        confirmed: Its finalists, trained again; None if none were.

    Returns:
        Whether it was written; a line says why not.
    """
    if importlib.util.find_spec("plotly") is None:
        notes.info(f"{REPORT} needs plotly: pip install 'ray-st[plots]'")
        return False
    try:
        page = _page(folder.name, study, objectives, confirmed)
        write_whole(folder / REPORT, page.encode(errors="replace"))
    except DRAWING as error:  # a full disk, or what no figure is to blame for
        notes.warning(f"warning: {folder / REPORT} cannot be written ({type(error).__name__}: {error})")
        return False
    return True


def _page(name: str, study: Study, objectives: int, confirmed: Confirmed | None) -> str:
    from ray_st.study.plots import plots

    sections = [_section(plot) for plot in plots(study.study, study.records)]
    return _PAGE.format(
        title=html.escape(f"Search {name}"),
        script=importlib.import_module("plotly.offline").get_plotlyjs(),
        summary=html.escape(summary(study, objectives)),
        confirmed=confirmed_section(study, objectives, confirmed),
        stages=schedule_table(study),
        plots="\n".join(sections),
        table=table(study.records, objectives),
    )


def summary(study: Study, objectives: int) -> str:
    """The result in a few words.

    Args:
        study: The study.
        objectives: How many objectives there are.
    """
    records, best = study.records, study.best()
    counts = Counter(record.state for record in records)
    words = ", ".join(f"{counts[state]} {word}" for state, word in WORDS.items() if counts[state])
    violating = sum(not record.is_feasible for record in records)
    words += f"; {violating} violate a constraint" if violating else ""
    found = ""
    if best:
        one = f"Best: trial {best[0].number} with {best[0].objectives[0]:.6g}."
        found = f" {one if objectives == 1 else f'{len(best)} trials on the front.'}"
    rows, seconds = sum(record.samples for record in records), sum(record.seconds for record in records)
    ended = f" No more were needed: {study.terminated}." if study.terminated else ""
    return (
        f"{len(records)} trials: {words}.{found} {rows:,} training rows, {seconds:,.0f} s of trials.{ended}"
    )


def confirmed_section(study: Study, objectives: int, confirmed: Confirmed | None) -> str:
    """The finalists as an HTML table, or a line that says that the best value is partly luck.

    Args:
        study: The search's study.
        objectives: How many objectives there are; with several, the result is a front, and nothing is said.
        confirmed: The finalists; None if none were trained again.
    """
    if confirmed is not None and confirmed.finalists:
        words, rows = html.escape(describe_confirmed(confirmed)), finalist_rows(confirmed)
        return f'<h2>Confirmed</h2>\n<p class="note">{words}</p>\n<div class="wide">{_html(rows)}</div>'
    best = study.best()
    if objectives > 1 or not best:
        return ""
    complete = sum(record.state == "COMPLETE" for record in study.records)
    return f'<p class="note">{html.escape(describe_luck(complete, best[0]))}</p>'


def schedule_table(study: Study) -> str:
    """An HTML table of the values the best trial's weights were trained with; empty if they never changed.

    Args:
        study: The study.
    """
    path = stages(study.records, study.best()[0].number) if study.best() else []
    if len(path) < 2:
        return ""
    names = list(dict.fromkeys(name for _, _, values in path for name in values))
    head = ["after evaluation", "as trial", *names]
    rows = [[evaluation, number, *(values.get(n, "") for n in names)] for evaluation, number, values in path]
    return f'<h2>Schedule of the best trial</h2>\n<div class="wide">{_html([head, *rows])}</div>'


def table(trials: Sequence[TrialRecord], objectives: int) -> str:
    """The trials as an HTML table.

    Args:
        trials: The trials.
        objectives: How many objectives there are.
    """
    return _html([[*row[:-1], str(row[-1])[:200]] for row in table_rows(trials, objectives)])


def _html(rows: Sequence[Sequence[object]]) -> str:
    head, *rest = rows
    return f"<table>{_cells('th', head)}{''.join(_cells('td', row) for row in rest)}</table>"


def _cells(tag: str, values: Sequence[object]) -> str:
    shown = (f"{value:.6g}" if isinstance(value, float) else str(value) for value in values)
    return f"<tr>{''.join(f'<{tag}>{html.escape(value)}</{tag}>' for value in shown)}</tr>"


def _section(plot: Plot) -> str:
    try:
        figure = plot.draw()
        figure.update_layout(
            title=None, margin={"t": figure.layout.margin.t or 30}
        )  # the heading is its title
        drawing = figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False})
    except DRAWING as error:
        said = f"{plot.title} could not be drawn ({type(error).__name__}: {error})"
        notes.warning(f"warning: {REPORT}: {said}; nothing else of the search is harmed")
        drawing = f"<p>{html.escape(said)}</p>"
    heading = f'<h2>{html.escape(plot.title)}</h2>\n<p class="note">{html.escape(plot.note)}</p>'
    return f'{heading}\n<div class="wide">{drawing}</div>'
