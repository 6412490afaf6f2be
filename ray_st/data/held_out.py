"""Names of splits that are not meant for training."""

from __future__ import annotations

import re
from collections.abc import Iterable

_HELD_OUT = frozenset({"test", "testing", "validation", "valid", "val", "dev", "eval", "evaluation"})


def held_out(names: Iterable[str]) -> list[str]:
    """The names of held-out data: ``test``; next to a ``train…`` also ``test_sft`` or ``validation-2``.

    Args:
        names: Names of datasets.
    """
    first = {name: re.split(r"[^a-z]+", str(name).lower())[0] for name in names}
    beside_train = "train" in first.values()
    return [
        name
        for name, word in first.items()
        if word in _HELD_OUT and (beside_train or str(name).lower() == word)
    ]
