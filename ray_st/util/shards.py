"""Validates the index of weights that are split over several files."""

from __future__ import annotations

import json
from pathlib import Path

INDICES = "*.safetensors.index.json"


def check_shards(folder: Path) -> None:
    """Verifies that weight indices in a folder name only safetensors files of that folder.

    Raises:
        ValueError: If an index is damaged, or names a file that is elsewhere, of another type, or missing.
    """
    for index in sorted(folder.glob(INDICES)):
        for name in _named(index):
            if Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
                raise ValueError(
                    f"{index} names the file {name!r}: parts of weights must be .safetensors files in the "
                    "index's own folder. The folder is not opened; fetch it anew from where it comes."
                )
            if not (folder / name).is_file():
                raise ValueError(f"{index} names the file {name!r}, which is not there.")


def _named(index: Path) -> list[str]:
    try:
        parts = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        if not parts or not all(isinstance(name, str) for name in parts):
            raise TypeError("weight_map maps no names to files")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is no index of weights: {error!r}.") from error
    return sorted(set(parts))
