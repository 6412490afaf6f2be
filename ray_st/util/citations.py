"""The papers that losses and model cards cite, each stored once, in ``citations.bib`` next to this file."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path


def cited(*keys: str) -> str:
    """BibTeX entries of some papers, concatenated.

    Args:
        keys: Keys of entries in ``citations.bib``.

    Returns:
        The entries, each on its own lines; empty if there are no keys.
    """
    return "".join(f"\n{_entries()[key]}\n" for key in keys)


@cache
def _entries() -> dict[str, str]:
    text = Path(__file__).with_name("citations.bib").read_text(encoding="utf-8")
    return {found[1]: found[0] for found in re.finditer(r"^@\w+{([^,\s]+),\n.*?^}$", text, re.M | re.S)}
