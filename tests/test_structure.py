"""tests/structure.py counts right on toy sources, and the package keeps the figures that it has reached."""

from __future__ import annotations

from pathlib import Path

import pytest

import structure
from structure import File, read

BASE = '''
from transformers import Trainer

class Loop(Trainer):
    """Ours."""

    place: str

    def train(self):
        self.steps = 1
        return self.place
'''
MIDDLE = """
from .loop import Loop

class Middle(Loop):
    def evaluate(self):
        self.mine = self.steps
"""
TRAINER = """
from ray_st.training.middle import Middle

class Other: ...

class SentenceTransformerTrainer(Other, Middle): ...
"""
TREE = [
    File("ray_st.training.loop", BASE),
    File("ray_st.training.middle", MIDDLE),
    File("ray_st.trainer", TRAINER),
    File("ray_st.util.loop", "class Middle: ..."),
]


def test_the_trainers_classes_and_the_attributes_between_them() -> None:
    tree = structure.class_tree(TREE)
    assert set(tree) == {"SentenceTransformerTrainer", "Other", "Middle", "Loop"}
    assert structure.depth(tree) == 3
    assert structure.border_crossers(tree) == (["steps"], 3)


def test_circles_of_imports_are_found_at_load_and_in_functions() -> None:
    files = [
        File("ray_st.a", "from ray_st import b\nfrom ray_st.pack.d import name"),
        File("ray_st.b", "if True:\n    import ray_st.c"),
        File("ray_st.c", "from .a import name\nif TYPE_CHECKING:\n    import ray_st.pack.d"),
        File("ray_st.pack", "", is_package=True),
        File("ray_st.pack.d", "def late():\n    from . import e"),
        File("ray_st.pack.e", "from ray_st.pack.d import name"),
    ]
    assert structure.circles(files) == [["ray_st.a", "ray_st.b", "ray_st.c"]]
    assert structure.circles(files, lazy=True) == [
        ["ray_st.a", "ray_st.b", "ray_st.c"],
        ["ray_st.pack.d", "ray_st.pack.e"],
    ]


def test_file_names_in_two_folders() -> None:
    assert structure.repeated_names(TREE) == ["loop"]


SOURCE = '''"""What it is.

In three lines."""

import os  # no line of its own


# Why.
def one(self, first: Any, /, second: "int", *args: Any, third: Any | None = None, **kwargs: Any) -> Any:
    """Text."""
    text = """no
    docstring"""
    return getattr(first, "x"), hasattr(second, "y"), text.setattr


class Part:
    value = 1
    """Of an attribute."""

    def two(self, other: Optional[Any], last: list[Any]) -> None:

        return None
'''
FILE = File("ray_st.part", SOURCE)


def test_lines_and_functions() -> None:
    assert structure.line_kinds(FILE) == (9, 1)
    assert [(function.name, structure.length(function)) for function in FILE.functions] == [
        ("one", 4),
        ("two", 3),
    ]
    lines = File("ray_st.long", "#" * 111 + "\n" + "#" * 110 + "\n# https://" + "x" * 111)
    assert structure.long_lines(lines) == 1


def test_parameters_and_calls() -> None:
    given = {
        parameter.arg: structure.is_any(parameter.annotation) for parameter in structure.parameters(FILE)
    }
    assert given == {"first": True, "second": False, "third": True, "other": True, "last": False}
    assert structure.dynamic_calls(FILE) == 2


def test_a_spread() -> None:
    assert structure.spread([*range(1, 11), 100]) == "6 / 10 / 100"


@pytest.fixture(scope="module")
def package() -> list[File]:
    return read(Path(__file__).parents[1])


def test_the_package_has_no_import_circles(package: list[File]) -> None:
    assert structure.circles(package) == []


def test_the_trainer_is_three_classes_deep(package: list[File]) -> None:
    assert structure.depth(structure.class_tree(package)) == 3


def test_no_file_name_is_in_two_rooms(package: list[File]) -> None:
    assert structure.repeated_names(package) == []


DOCUMENTED_SIGNATURES = {
    "ray_st.model_trainer.__init__",
    "ray_st.models.reranker.cross_encoder.__init__",
}


def test_functions_are_short_but_for_documented_signatures(package: list[File]) -> None:
    assert {text.split()[0] for text in structure.long_functions(package)} <= DOCUMENTED_SIGNATURES


def test_no_line_is_over_the_limit(package: list[File]) -> None:
    assert {file.module: found for file in package if (found := structure.long_lines(file))} == {}


def test_parameters_have_types_that_say_something(package: list[File]) -> None:
    anything, given = structure.share_of_any(package)
    assert anything <= 0.02 * given


def test_few_attributes_are_looked_up_by_name(package: list[File]) -> None:
    lines = sum(len(file.lines) for file in package)
    assert sum(map(structure.dynamic_calls, package)) <= 0.002 * lines


@pytest.mark.slow
def test_every_figure_has_a_line(package: list[File]) -> None:
    assert all(structure.measure(package).values())
