"""CONTRIBUTING.md names files, commands and names that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()


def test_its_paths_exist() -> None:
    paths = re.findall(r"\b((?:ray_st|tests|docs|benchmarks)/[\w./]*)", PAGE)
    assert [path for path in paths if not (ROOT / path.rstrip(".")).exists()] == []


def test_its_tables_of_names_are_in_the_files_that_it_gives() -> None:
    """A row of the table of parts: where a part goes, and the name of the table or class that lists it."""
    rows = re.findall(r"^\| .+? \| .+? \| `(\w+)` in `(ray_st/[\w./]+)` \|", PAGE, re.MULTILINE)
    assert rows
    assert [
        (name, path) for name, path in rows if not re.search(rf"\b{name}\b", (ROOT / path).read_text())
    ] == []


def test_its_make_targets_exist() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"\bmake ([a-z][a-z-]+)", PAGE)) <= set(targets)
