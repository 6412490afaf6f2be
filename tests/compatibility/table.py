"""Tables of names: what each is called, what became of it, and what there is to say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

STATES = {
    "same": "as documented",
    "differs": "available, with the difference that is noted",
    "new": "not in the documentation",
    "no effect": "accepted; a warning says that it is not needed, or why it is ignored",
    "refused": "an error says why, and what to do instead",
    "absent": "not available; the note says what to use instead",
}


@dataclass(frozen=True)
class Row:
    """One name.

    Args:
        name: As users write it.
        state: One of :data:`STATES`.
        note: What there is to say, as Markdown; may be empty.
    """

    name: str
    state: str
    note: str = ""

    def __post_init__(self) -> None:
        assert self.state in STATES, f"{self.name}: {self.state}"


@dataclass(frozen=True)
class Section:
    """One table.

    Args:
        title: Its heading.
        intro: A paragraph before it.
        rows: Its rows.
    """

    title: str
    intro: str
    rows: Sequence[Row]

    def text(self) -> str:
        """The section as Markdown."""
        counts = Counter(row.state for row in self.rows)
        count = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
        lines = [
            f"| `{row.name}` | {row.state} | {row.note.replace('|', chr(92) + '|')} |" for row in self.rows
        ]
        head = ["| name | state | note |", "| --- | --- | --- |"]
        return "\n".join([f"## {self.title}", "", self.intro, "", f"{count}.", "", *head, *lines, ""])
