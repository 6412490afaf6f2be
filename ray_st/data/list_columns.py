"""List columns, which other trainers use for negatives and their scores, and how to spread them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_st.util.arrow import is_list, is_number, is_text

_SHOWN = 4


def how_to_spread(types: Mapping[str, Any], label: str | None) -> str | None:
    """A function for ``datasets.Dataset.map`` that spreads lists of texts and joins their scores.

    Args:
        types: Arrow type of each column, in order.
        label: The label column, which is kept unchanged.

    Returns:
        The function as source code, with an explanation; None if no column holds lists of texts.
    """
    if not any(is_list(kind) and is_text(kind.value_type) for kind in types.values()):
        return None
    entries, scores = [], []
    for name, kind in types.items():
        if name == label or not is_list(kind):
            entries.append(f'"{name}": row["{name}"]')
        elif is_number(kind.value_type):
            scores.append(f'*row["{name}"][:{1 if _is_positive(name) else _SHOWN}]')
        elif _is_positive(name):
            entries.append(f'"{name}": row["{name}"][0]')
        else:
            pairs = f'enumerate(row["{name}"][:{_SHOWN}], 1)'
            entries.append(f'**{{f"{name}_{{n}}": text for n, text in {pairs}}}')
    if scores:
        entries.append(f'"scores": [{", ".join(scores)}]')
    lines = "".join(f"        {entry},\n" for entry in entries)
    return (
        "A loss takes one text from each column. Spread lists over columns, with a number of texts that "
        f"every row has ({_SHOWN} here):\n\ndef spread(row):\n    return {{\n{lines}    }}\n\ndataset = "
        "dataset.map(spread, remove_columns=dataset.column_names)\n"
    )


def _is_positive(name: str) -> bool:
    return name.lower().startswith("pos")
