"""Tables of metrics for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def table(columns: Sequence[str], figures: Sequence[Mapping[str, float]]) -> str:
    """Formats metrics: a row per metric, a column per evaluation, and the change if there are two.

    Args:
        columns: Headings of the evaluations.
        figures: Metrics by name of each evaluation, all with the same names.
    """
    heads = [*columns, "change"] if len(figures) == 2 else list(columns)
    rows = [(name, [f"{value:.4f}" for value in _row(name, figures)]) for name in figures[0]]
    if len(figures) == 2:
        rows = [(name, [*cells, f"{_change(name, figures):+.4f}"]) for name, cells in rows]
    width = max(len(name) for name, _ in rows)
    lines = [" " * width + "".join(f"{head:>10}" for head in heads)]
    return "\n".join(
        lines + [f"{name:<{width}}" + "".join(f"{cell:>10}" for cell in cells) for name, cells in rows]
    )


def _row(name: str, figures: Sequence[Mapping[str, float]]) -> list[float]:
    return [float(measured[name]) for measured in figures]


def _change(name: str, figures: Sequence[Mapping[str, float]]) -> float:
    before, after = _row(name, figures)
    return after - before
