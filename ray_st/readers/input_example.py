"""A training example."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(eq=False)
class InputExample:
    """Texts that belong together, and their label.

    Args:
        guid: A name for the example.
        texts: One text, a pair, a triplet, …; a list of strings.
        label: A number, or a vector to be learned.
    """

    guid: str = ""
    texts: list[str] | None = None
    label: Any = 0


def as_columns(examples: Iterable[InputExample], label: bool = True) -> dict[str, list[Any]]:
    """Examples as columns, as ``datasets.Dataset.from_dict`` and the trainer take them.

    Args:
        examples: Examples with the same number of texts.
        label: Whether to keep labels.

    Returns:
        ``sentence_0``, ``sentence_1``, … and, last, ``label``.

    Raises:
        ValueError: If an example has another number of texts than the first.
    """
    rows = [(example.texts or [], example.label) for example in examples]
    width = len(rows[0][0]) if rows else 0
    odd = next((row for row, (texts, _) in enumerate(rows) if len(texts) != width), None)
    if odd is not None:
        raise ValueError(
            f"Example {odd} has {len(rows[odd][0])} texts, the first has {width}; all need the same number."
        )
    columns: dict[str, list[Any]] = {
        f"sentence_{place}": [texts[place] for texts, _ in rows] for place in range(width)
    }
    return columns | ({"label": [value for _, value in rows]} if label else {})
