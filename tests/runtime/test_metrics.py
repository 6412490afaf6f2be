"""Boards, alerts and the table in the documentation name what there is, and a live scrape has all of it."""

from __future__ import annotations

import json
import re
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from ray_st.runtime.supervision.ray_metrics import METRICS, STATES, count, show, show_search

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "clusters" / "monitoring"
EXPORTED = {metric.exported for metric in METRICS}


def names_in(expression: str) -> set[str]:
    """The metrics of a PromQL expression: words that are neither labels, functions nor keywords."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^]]*\]|\b(by|without|on)\s*\([^)]*\)', " ", expression)
    return {
        word
        for word in re.findall(r"\b([a-zA-Z_]\w*)\b(?!\s*\()", bare)
        if word not in ("by", "on", "without")
    }


def board_expressions(path: Path) -> Iterator[str]:
    board = json.loads(path.read_text())
    for panel in board["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["definition"].partition("(")[2].partition(",")[0]


def alert_expressions() -> Iterator[str]:
    for group in yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]:
        yield from (rule["expr"] for rule in group["rules"])


BOARDS = sorted(MONITORING.glob("*.json"))


@pytest.mark.parametrize("board", BOARDS, ids=lambda path: path.stem)
def test_boards_name_what_there_is(board: Path) -> None:
    for expression in board_expressions(board):
        found = names_in(expression)
        assert found, expression
        assert found <= EXPORTED, expression


def test_alerts_name_what_there_is() -> None:
    for expression in alert_expressions():
        found = names_in(expression)
        assert found, expression
        assert found <= EXPORTED, expression


def test_every_metric_is_on_a_board() -> None:
    shown = {
        name for board in BOARDS for expression in board_expressions(board) for name in names_in(expression)
    }
    assert shown == EXPORTED


def test_the_documentation_has_the_same_table() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    rows = dict(re.findall(r"^\| `(ray_st_\w+)` \| (.+?) \|", text, re.MULTILINE))
    assert rows == {metric.exported: metric.help for metric in METRICS}


def scraped() -> set[str]:
    """The names at the node's endpoint; the served example, which another test runs in this cluster, has its own."""
    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    return set(re.findall(r"^(ray_st_(?!serve_)\w+)\{", text, re.MULTILINE))


@pytest.mark.ray
def test_a_live_scrape_has_every_metric(cluster: Any) -> None:
    labels = {"run": "sts", "rank": "0", "part": "data", "metric": "eval_loss", "cause": "node"}
    for metric in METRICS:
        own = {label: labels[label] for label in metric.labels if label in labels}
        if "search" not in metric.labels:
            count(metric.name, **own) if metric.counts else show(metric.name, 1.5, **own)
    show_search("sts", {"RUNNING": 1, "COMPLETE": 2, "PRUNED": 2, "FAIL": 0}, best=0.8)
    pause = threading.Event()
    for _ in range(60):  # processes report every ten seconds
        found = scraped()
        if found >= EXPORTED:
            break
        pause.wait(0.5)
    assert found == EXPORTED


def test_a_state_without_trials_is_shown_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: dict[str, float] = {}

    def keep(name: str, value: float, **labels: str) -> None:
        shown[labels.get("state", name)] = value

    monkeypatch.setattr("ray_st.runtime.supervision.ray_metrics.show", keep)
    show_search("sts", {"RUNNING": 2}, best=None)
    show_search("sts", {"COMPLETE": 1, "PRUNED": 1}, best=0.5)
    assert {state: shown[state] for state in STATES} == {"RUNNING": 0, "COMPLETE": 1, "PRUNED": 1, "FAIL": 0}
    assert shown["st_search_pruned_share"] == 0.5


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ('sum by (run) (increase(a_total{run=~"$run"}[1h])) > 3', {"a_total"}),
        ("time() - max by (run) (b) > 7200", {"b"}),
        ('c{x="d"} / on (run) e', {"c", "e"}),
    ],
)
def test_names_are_found(expression: str, names: set[str]) -> None:
    assert names_in(expression) == names
