"""Markdown of a card: tables, lists, and texts of others in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_LONGEST = 300


def table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; line breaks, bars and tags in its cells are replaced, long texts are cut."""
    lines = [
        [_cell(name) for name in names],
        ["---"] * len(names),
        *([_cell(v) for v in row] for row in rows),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: Any) -> str:
    text = " ".join(str(value).split())
    text = text if len(text) <= _LONGEST else text[:_LONGEST].rstrip() + " …"
    return text.replace("|", "\\|").replace("<", "&lt;")


def facts(known: Mapping[str, Any]) -> str:
    """A Markdown list of what is known by name; what is empty is left out."""
    return "\n".join(f"- **{name}:** {value}" for name, value in known.items() if value)


def folded(summary: str, text: str) -> str:
    """A part that is opened with a click."""
    return f"<details><summary>{summary}</summary>\n\n{text}\n\n</details>"


def figure(value: Any, digits: int = 4) -> str:
    """A figure of a table; a dash where there is none."""
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)
