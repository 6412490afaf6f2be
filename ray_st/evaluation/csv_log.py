"""Appends the metrics of one evaluation to a CSV file."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from pathlib import Path

logger = logging.getLogger(__name__)


def append_row(folder: str | Path, file: str, headers: Sequence[str], row: Sequence[float]) -> None:
    """Appends a row to a CSV file, preceded by headers if the file's last headers are others.

    Args:
        folder: Folder of the file; created if missing.
        file: Its name.
        headers: Names of the columns.
        row: One value for each column.
    """
    path = Path(folder) / file
    path.parent.mkdir(parents=True, exist_ok=True)
    known = _last_headers(path)
    if known is not None and known != list(headers):
        logger.warning("%s has other columns; a second line of headers is added to it.", path)
    with path.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        if known != list(headers):
            writer.writerow(headers)
        writer.writerow(row)


def _last_headers(path: Path) -> list[str] | None:
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8") as stream:
        found = [row for row in csv.reader(stream) if row[:1] == ["epoch"]]
    return found[-1] if found else None
