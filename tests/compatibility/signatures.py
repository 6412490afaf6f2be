"""Documented callables and their parameters, compared with ours."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from compatibility.table import Row

Notes = Mapping[str, tuple[str, str]]


def read(text: str) -> dict[str, list[str]]:
    """Callables with their parameters, from lines such as ``name(first, second)``."""
    return {
        name: [part for part in parameters.replace(" ", "").split(",") if part]
        for name, parameters in re.findall(r"([\w.]+)\(([^)]*)\)", text)
    }


def lacking(found: Any, documented: list[str]) -> list[str]:
    """Documented parameters that ours does not take, or not in the documented order."""
    ours = inspect.signature(found).parameters
    names = [name for name in ours if name != "self"]
    wanted = [name.lstrip("*") for name in documented]
    return [name for name in wanted if name not in names] or (
        [] if names[: len(wanted)] == wanted or documented[-1:] == ["**kwargs"] else wanted
    )


def rows(documented: Mapping[str, list[str]], notes: Notes) -> list[Row]:
    """A row for each callable."""
    return [
        Row(f"{name}({', '.join(parameters)})", *notes.get(name, ("same", "")))
        for name, parameters in documented.items()
    ]
