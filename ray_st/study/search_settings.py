"""What must stay the same for a search to continue: written into its folder at the start, compared later."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray_st.study.journal import RecordError, as_json
from ray_st.util.atomic import write_whole

SETTINGS = "search.json"

ID, FOUND = "id", "found"
"""Keys in a search's settings: its unique identifier, and facts about its encoded data."""

MEANING = ("directions", "objective", "ray_scope")
"""Settings that say what the values of a search mean."""

_FIRST_SETTINGS = ("space", "directions", "seed", "ray_scope", "population")
"""Settings of searches that have no :data:`ID`."""


def check_settings(folder: Path, settings: Mapping[str, Any]) -> str:
    """Records a new search's settings, or checks that those of an existing one are the same.

    Args:
        folder: The search's folder.
        settings: What must stay the same, as plain values.

    Returns:
        The search's unique identifier; empty if it was started by a version without one.

    Raises:
        RecordError: If they differ; names what differs.
    """
    now = json.loads(json.dumps(settings))
    if not (folder / SETTINGS).exists():
        search_id = uuid.uuid4().hex[:12]
        _write(folder, {ID: search_id, **now})
        return search_id
    then = _read(folder)
    if ID not in then:  # the other settings were not recorded
        now = {name: value for name, value in now.items() if name in then or name in _FIRST_SETTINGS}
    _check_same(folder, {name: value for name, value in then.items() if name not in (ID, FOUND)}, now)
    return str(then.get(ID, ""))


def check_found(folder: Path, found: Mapping[str, Any]) -> None:
    """Records facts about a search's encoded data, or checks that they are the same as before.

    Args:
        folder: The search's folder.
        found: The facts, as plain values.

    Raises:
        RecordError: If they differ; names what differs.
    """
    then = _read(folder)
    if FOUND in then:
        _check_same(folder, then[FOUND], json.loads(json.dumps(found)))
    else:
        _write(folder, {**then, FOUND: found})


def check_comparable(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raises if the values of an earlier search mean something else than this one's.

    Args:
        folder: The earlier search's folder.
        settings: What this search's values mean, by the names of its settings.

    Raises:
        RecordError: Naming what differs.
    """
    then = _read(folder) if (folder / SETTINGS).exists() else {}
    if ID not in then:
        return  # earlier versions did not record it
    differing = _differences(
        {name: then.get(name) for name in MEANING}, {name: settings.get(name) for name in MEANING}
    )
    if differing:
        raise RecordError(
            f"warm_start: the values of {folder} cannot be compared with this search's: "
            f"{'; '.join(differing)}."
        )


def _read(folder: Path) -> dict[str, Any]:
    path = folder / SETTINGS
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecordError(f"{path} is damaged ({error}). Start the search under another name.") from error
    if not isinstance(found, dict):
        raise RecordError(f"{path} does not hold a search's settings. Start the search under another name.")
    return found


def _write(folder: Path, settings: Mapping[str, Any]) -> None:
    write_whole(folder / SETTINGS, json.dumps(settings, indent=1))


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} was {as_json(then.get(name))}, now {as_json(now.get(name))}"
        for name in dict.fromkeys([*then, *now])
        if then.get(name) != now.get(name)
    ]


def _check_same(folder: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    differing = _differences(then, now)
    if differing:
        raise RecordError(
            f"A search named {folder.name!r} exists with other settings: {'; '.join(differing)}. Start "
            "this one under another name, or use the earlier settings to continue it."
        )
