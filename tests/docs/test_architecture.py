"""The picture in docs/architecture.md is what the imports are."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from test_layers import FILES, FRIENDS, LAYERS, imports, is_door, module_of, part_of

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
MARKS = {"ray": "ray", "collectives": "torch.distributed"}
"""What a mark behind a part's name says that it imports."""


def boxes() -> list[dict[str, str]]:
    """The parts of each box of the picture, from the top, with their marks."""
    (picture,) = re.findall(r"```text\n(┌.*?)```", PAGE, re.DOTALL)
    found: list[dict[str, str]] = []
    for line in picture.splitlines():
        if line.startswith("┌"):
            found.append({})
        elif line.startswith("│"):
            parts = re.findall(r"(\w+)(?: \((\w+)\))?", line)
            found[-1] |= dict(parts)
    return found


def floors() -> list[set[str]]:
    """The same from the table of the layer test."""
    levels = sorted(set(LAYERS.values()), reverse=True)
    return [{part for part, level in LAYERS.items() if level == wanted} for wanted in levels]


BOXES = boxes()
FLOOR = {part: -place for place, box in enumerate(BOXES) for part in box}


def outside(path: Path) -> Iterator[str]:
    """The modules that a file imports."""
    yield from imports(ast.parse(path.read_text()), module_of(path), path.name == "__init__.py")


ARROWS = {
    (part_of(module_of(path)), part_of(name))
    for path in FILES
    if not is_door(path)
    for name in outside(path)
    if name.split(".")[0] == "ray_st"
}
"""Which part imports which, read from all files."""


def test_the_boxes_are_the_layers() -> None:
    assert [set(box) for box in BOXES] == floors(), "draw docs/architecture.md as tests/test_layers.py has it"


def test_every_import_goes_to_a_box_below() -> None:
    across = {
        (mine, other)
        for mine, other in ARROWS
        if mine in FLOOR and other in FLOOR and mine != other and FLOOR[mine] <= FLOOR[other]
    }
    assert {arrow for arrow in across if not set(arrow) <= FRIENDS} == set()


def test_every_arrow_is_an_import() -> None:
    assert PAGE.count("▼") == len(BOXES) - 1
    for upper, lower in pairwise(BOXES):
        assert {(mine, other) for mine, other in ARROWS if mine in upper and other in lower}, (upper, lower)


@pytest.mark.parametrize("mark", MARKS)
def test_marked_parts_are_those_that_import_it(mark: str) -> None:
    marked = {part for box in BOXES for part, said in box.items() if said == mark}
    module = MARKS[mark]
    using = {
        part_of(module_of(path))
        for path in FILES
        if any(f"{name}.".startswith(f"{module}.") for name in outside(path))
    }
    assert using == marked


def test_every_part_is_described() -> None:
    table = PAGE[PAGE.index("| part | holds |") :].partition("\n\n")[0]
    described = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert described == {part for part in LAYERS if not part.startswith("_")}


def test_the_paths_that_it_names_exist() -> None:
    """A bare file name is in the folder of a path before it in the same paragraph."""
    missing = []
    for paragraph in re.split(r"\n(?=\d+\. )|\n\n", PAGE):
        folders: list[Path] = []
        for name in re.findall(r"`([\w/]+(?:\.py|/))`", paragraph):
            path = ROOT / name
            if "/" in name:
                folders.append(path.parent)
            elif not any((folder / name).exists() for folder in (*folders, ROOT / "ray_st")):
                missing.append(name)
            if "/" in name and not path.exists():
                missing.append(name)
    assert missing == []
