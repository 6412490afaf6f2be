"""Comparing an evaluator with the peer's: its numbers, defaults and files."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest


def close(expected: Any) -> Any:
    return pytest.approx(expected, abs=1e-6, rel=1e-6)


def plain(default: Any) -> Any:
    return list(default) if isinstance(default, tuple) else getattr(default, "__name__", default)


def written(folder: Path) -> dict[str, list[list[str]]]:
    return {path.name: list(csv.reader(path.read_text().splitlines())) for path in folder.glob("*.csv")}


def assert_same_files(mine: Path, other: Path) -> None:
    ours, theirs = written(mine), written(other)
    assert ours.keys() == theirs.keys()
    assert ours
    for name, rows in ours.items():
        assert rows[0] == theirs[name][0]
        for row, expected in zip(rows[1:], theirs[name][1:], strict=True):
            assert list(map(float, row)) == close(list(map(float, expected)))
