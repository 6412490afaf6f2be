"""Markdown of a card: tables and lists, statistics of a dataset's columns, the log of a training run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

_LONGEST = 300


def table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; line breaks, bars and tags in its cells are escaped, and long texts are cut."""
    lines = [
        [_cell(name) for name in names],
        ["---"] * len(names),
        *([_cell(v) for v in row] for row in rows),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: object) -> str:
    text = " ".join(str(value).split())
    text = text if len(text) <= _LONGEST else text[:_LONGEST].rstrip() + " …"
    return text.replace("|", "\\|").replace("<", "&lt;")


def facts(known: Mapping[str, Any]) -> str:
    """A Markdown list of named facts; empty ones are left out."""
    return "\n".join(f"- **{name}:** {value}" for name, value in known.items() if value)


def folded(summary: str, text: str) -> str:
    """A collapsed section."""
    return f"<details><summary>{summary}</summary>\n\n{text}\n\n</details>"


def figure(value: object, digits: int = 4) -> str:
    """A number in a table; a dash for None."""
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


_MOST_CLASSES = 10


def column_statistics(
    name: str, values: Sequence[Any], count_tokens: Callable[[list[str]], list[int]] | None
) -> dict[str, str]:
    """A row of the table of a dataset's columns.

    Args:
        name: The column's name.
        values: Some of its values.
        count_tokens: Counts the tokens of texts; with None characters are counted.
    """
    kind, details = _describe([value for value in values if value is not None], count_tokens)
    return {"Column": name, "Type": kind, "Details": details}


def _describe(values: list[Any], count_tokens: Callable[[list[str]], list[int]] | None) -> tuple[str, str]:
    if not values:
        return "none", ""
    first = values[0]
    if isinstance(first, str):
        unit = "characters" if count_tokens is None else "tokens"
        sizes = [len(text) for text in values] if count_tokens is None else count_tokens(values)
        return "string", _spread(sizes, f" {unit}")
    if isinstance(first, bool | int):
        return type(first).__name__, _shares(values)
    if isinstance(first, float):
        return "float", _spread(values)
    if isinstance(first, list):
        return "list", _spread([len(value) for value in values], " elements")
    return type(first).__name__, ""


def _spread(sizes: Sequence[float], unit: str = "") -> str:
    least, most = figure(min(sizes), 2), figure(max(sizes), 2)
    return f"min {least}{unit}, mean {sum(sizes) / len(sizes):.2f}{unit}, max {most}{unit}"


def _shares(values: Sequence[int]) -> str:
    counts = Counter(values)
    if len(counts) > _MOST_CLASSES:
        return _spread(values)
    return ", ".join(f"{value}: {counts[value] / len(values):.1%}" for value in sorted(counts))


LOSS = "Training loss"
_SPEED = ("_runtime", "_per_second", "_compilation_time")
_PREFIX = "eval_"
MOST_ROWS = 100
"""Maximal rows of the log's table: all with evaluations, and of the others an even selection."""


def log_rows(history: Sequence[Mapping[str, Any]], primary: Collection[str]) -> list[dict[str, Any]]:
    """The rows of the log.

    Args:
        history: Entries of transformers' ``log_history``.
        primary: Names of the metrics by which the evaluators compare models; all others are left out, unless
            this is empty.

    Returns:
        For each step a dict with ``Epoch``, ``Step`` and metrics by name.
    """
    rows: dict[int, dict[str, Any]] = {}
    for entry in history:
        metrics = _metrics(entry, primary)
        if metrics and "step" in entry:
            step = int(entry["step"])
            rows.setdefault(step, {"Epoch": entry.get("epoch"), "Step": step}).update(metrics)
    return _fewer([rows[step] for step in sorted(rows)])


def _metrics(entry: Mapping[str, Any], primary: Collection[str]) -> dict[str, Any]:
    loss = {LOSS: entry["loss"]} if "loss" in entry else {}
    evaluated = {
        name: value
        for name, value in entry.items()
        if name.startswith(_PREFIX) and not name.endswith(_SPEED) and isinstance(value, int | float)
    }
    chosen = {name for name in evaluated if name.removeprefix(_PREFIX) in primary or name.endswith("_loss")}
    shown = chosen if primary else set(evaluated)
    return loss | {name: value for name, value in evaluated.items() if name in shown}


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
    """Seconds of training and of evaluation, if the log has them."""
    training = [float(entry["train_runtime"]) for entry in history if "train_runtime" in entry]
    values = ((name, value) for entry in history for name, value in entry.items() if name.startswith(_PREFIX))
    evaluation = sum(float(value) for name, value in values if name.endswith("_runtime"))
    return {"Training": sum(training), "Evaluation": evaluation} if training else {}
