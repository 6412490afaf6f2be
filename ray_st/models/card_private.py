"""What a model's card must not hold: secrets, and where things are on somebody's machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

_NAMES = re.compile(
    r"token$|secret|password|api_?key|credential|_dir$|_path$|_url$|^hub_|resume_from|^run_name$|_folder$"
)
_TOKENS = re.compile(r"\b(hf_\w{8,}|gh[opsu]_\w{16,}|sk-[\w-]{16,}|AKIA\w{12,})|://[^/\s]*@")
PATH, SECRET = "(path)", "(secret)"


def publishable(value: Any) -> Any:
    """A copy of settings as a card may show them.

    What has the name of a secret or of a place is left out; texts that are paths, or look like keys, are replaced.

    Args:
        value: A value; mappings, lists and tuples are searched.
    """
    if isinstance(value, Mapping):
        shown = {name: inner for name, inner in value.items() if not _NAMES.search(str(name))}
        return {str(name): publishable(inner) for name, inner in shown.items()}
    if isinstance(value, list | tuple):
        return [publishable(inner) for inner in value]
    if not isinstance(value, str):
        return value
    if _TOKENS.search(value):
        return SECRET
    return PATH if _is_path(value) else value


def _is_path(text: str) -> bool:
    begins = text.startswith(("~", "./", "../", ".\\", "..\\", "file:"))
    return begins or PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute()
