"""The log of a training run as a table: a row for each step at which there was something to say."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

LOSS = "Training loss"
_SPEED = ("_runtime", "_per_second", "_compilation_time")
_PREFIX = "eval_"
MOST_ROWS = 100
"""Rows of the table; of more, those with evaluations are kept, and of the others as many as fit, evenly."""


def log_rows(history: Sequence[Mapping[str, Any]], primary: Collection[str]) -> list[dict[str, Any]]:
    """The rows of the log.

    Args:
        history: Entries of transformers' ``log_history``.
        primary: Names of the metrics by which the evaluators compare models; all others are left out, unless there is
            none.

    Returns:
        For each step a dict with ``Epoch``, ``Step`` and figures by name.
    """
    rows: dict[int, dict[str, Any]] = {}
    for entry in history:
        figures = _figures(entry, primary)
        if figures and "step" in entry:
            step = int(entry["step"])
            rows.setdefault(step, {"Epoch": entry.get("epoch"), "Step": step}).update(figures)
    return _fewer([rows[step] for step in sorted(rows)])


def _figures(entry: Mapping[str, Any], primary: Collection[str]) -> dict[str, Any]:
    figures = {LOSS: entry["loss"]} if "loss" in entry else {}
    evaluated = {
        name: value
        for name, value in entry.items()
        if name.startswith(_PREFIX) and not name.endswith(_SPEED) and isinstance(value, int | float)
    }
    chosen = {name for name in evaluated if name.removeprefix(_PREFIX) in primary or name.endswith("_loss")}
    shown = chosen if primary else set(evaluated)
    return figures | {name: value for name, value in evaluated.items() if name in shown}


def _fewer(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if len(rows) <= MOST_ROWS:
        return rows
    evaluated = [any(name.startswith(_PREFIX) for name in row) for row in rows]
    others = [i for i, has in enumerate(evaluated) if not has]
    room = max(MOST_ROWS - sum(evaluated), 0)
    stride = -(-len(others) // room) if room else len(others) + 1
    kept = set(others[stride - 1 :: stride])
    return [row for i, row in enumerate(rows) if evaluated[i] or i in kept]


def seconds_spent(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds of training and of evaluation, as far as the log says."""
    training = [float(entry["train_runtime"]) for entry in history if "train_runtime" in entry]
    evaluation = [
        float(value) for entry in history for name, value in entry.items() if _is_evaluation_time(name)
    ]
    return {"Training": sum(training), "Evaluation": sum(evaluation)} if training else {}


def _is_evaluation_time(name: str) -> bool:
    return name.startswith(_PREFIX) and name.endswith("_runtime")
