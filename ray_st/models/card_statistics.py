"""What a card says of a column of a data set: its type, and how its values are spread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from ray_st.models.card_text import figure

_MOST_CLASSES = 10


def column_statistics(
    name: str, values: Sequence[Any], count_tokens: Callable[[list[str]], list[int]] | None
) -> dict[str, str]:
    """A row of the table of a data set's columns.

    Args:
        name: The column's name.
        values: Some of its values.
        count_tokens: Counts the tokens of texts; None counts characters.
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
