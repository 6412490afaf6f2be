"""Draws the panels of a Grafana board from what a Prometheus knows: titles, places, legends and units are the board's.

Grafana draws more beautifully; this shows without one what each panel would have to show.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

COLUMN_PX, ROW_PX = 50, 36
"""Of Grafana's grid, which has 24 columns."""

FORMATS = {"percentunit": ".1%", "s": ".3~s"}
"""By unit, in d3's language."""

Series = list[dict[str, Any]]


def draw(board: Path, series: Callable[[str], Series], page: Path) -> None:
    """Writes a page with all panels of a board.

    Args:
        board: The board's JSON.
        series: Gives the series of an expression, in the form of Prometheus' ``query_range``.
        page: HTML file to write.
    """
    parts = []
    for panel in json.loads(board.read_text())["panels"]:
        at = panel["gridPos"]
        area = f"{at['y'] + 1} / {at['x'] + 1} / span {at['h']} / span {at['w']}"
        figure = draw_panel(panel, series).to_html(
            full_html=False, include_plotlyjs=not parts, config={"displayModeBar": False}
        )
        parts.append(f'<div style="grid-area: {area}">{figure}</div>')
    grid = f"display: grid; grid-template-columns: repeat(24, {COLUMN_PX}px); grid-auto-rows: {ROW_PX}px"
    page.write_text(f'<!doctype html><body style="margin: 0"><div style="{grid}">{"".join(parts)}</div>')


def draw_panel(panel: Mapping[str, Any], series: Callable[[str], Series]) -> go.Figure:
    """One panel.

    Args:
        panel: As the board describes it.
        series: As for :func:`draw`.
    """
    width, height = panel["gridPos"]["w"] * COLUMN_PX, panel["gridPos"]["h"] * ROW_PX
    form = FORMATS.get(panel["fieldConfig"]["defaults"].get("unit", ""), ".4~g")
    figure = go.Figure(layout={"template": "plotly_white", "width": width, "height": height})
    figure.update_layout(title={"text": f"<b>{panel['title']}</b>", "font": {"size": 13}}, font={"size": 10})
    figure.update_layout(
        margin={"l": 55, "r": 15, "t": 40, "b": 10}, showlegend=True, legend={"orientation": "h"}
    )
    figure.update_yaxes(tickformat=form)
    for target in panel["targets"]:
        for one in series(target["expr"]):
            name = re.sub(
                r"{{(\w+)}}", lambda found, one=one: one["metric"].get(found[1], ""), target["legendFormat"]
            )
            times, values = zip(*one["values"], strict=True)
            if panel["type"] == "stat":
                figure.add_trace(
                    go.Indicator(
                        value=float(values[-1]),
                        number={"valueformat": form, "font": {"size": 28}},
                        title=name,
                    )
                )
            else:
                figure.add_trace(
                    go.Scatter(
                        x=[datetime.fromtimestamp(time, UTC) for time in times],
                        y=[float(value) for value in values],
                        name=name,
                    )
                )
    return figure
