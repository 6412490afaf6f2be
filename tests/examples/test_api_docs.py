from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import pytest

from api_docs import Entry, first_sentence, parse_entries, read_entries, split_entries

SOURCE = '''
def average(a, axis=None):
    """Compute the weighted average along an axis.

    Parameters
    ----------
    a : array
        What is averaged.
    """

def _hidden():
    """A private function that nobody looks for."""

def undocumented():
    pass

class Table:
    """A table with named columns. Columns are arrays.

    It is shown in a :class:`~some.Viewer`.
    """

    def drop(self, name: str) -> None:
        """Remove the column of that name. Remove the column of that name."""

    def short(self):
        """Too short."""

add_docstr(torch.neg, r"""
neg(input, *, out=None) -> Tensor

Returns the elements with their sign turned.

Args:
    {input}
""".format(**common))

add_newdoc("lib._core", "array", ("flat", """A flat iterator over all elements."""))
'''


def by_name(source: str = SOURCE) -> dict[str, Entry]:
    return {entry.name: entry for entry in parse_entries(source, "lib._core.tables")}


def test_functions_classes_methods_and_attached_docstrings_are_found() -> None:
    assert list(by_name()) == [
        "lib.tables.average",
        "lib.tables.Table",
        "lib.tables.Table.drop",
        "torch.neg",
        "lib.array.flat",
    ]


def test_an_entry_is_name_signature_and_the_rest() -> None:
    entry = by_name()["lib.tables.average"]
    assert entry.question == "Compute the weighted average along an axis."
    assert entry.text == "lib.tables.average(a, axis=None) Parameters a : array What is averaged."
    assert by_name()["torch.neg"].text.startswith("torch.neg(input, *, out=None) -> Tensor Args:")


def test_the_question_is_not_in_the_text() -> None:
    entry = by_name()["lib.tables.Table.drop"]
    assert entry.question == "Remove the column of that name."
    assert entry.text == "lib.tables.Table.drop(self, name: str)"


@pytest.mark.parametrize(
    ("text", "sentence", "rest"),
    [
        ("One sentence without a stop", "One sentence without a stop", ""),
        ("Use e.g. Adam here. Then go on.", "Use e.g. Adam here.", "Then go on."),
        ("See :func:`~torch.abs` and ``x``.", "See torch.abs and x .", ""),
        ("First line\nof a sentence.\n\nMore of it.", "First line of a sentence.", "More of it."),
    ],
)
def test_first_sentence(text: str, sentence: str, rest: str) -> None:
    assert first_sentence(text) == (sentence, rest)


def test_the_rest_is_cut() -> None:
    source = f'def f():\n    """What this function does here.\n\n    {"word " * 200}\n    """'
    (entry,) = parse_entries(source, "m", body_chars=50)
    assert len(entry.text) <= len("m.f() ") + 50


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package with a copy of a docstring in two modules, a test module, and a module that must not be imported."""
    root = tmp_path / "somelibrary"
    for folder, name in (
        ("a", "one"),
        ("b", "two"),
        ("tests", "test_one"),
        ("_vendor", "three"),
        ("c", "four"),
    ):
        (root / folder).mkdir(parents=True)
        (root / folder / f"{name}.py").write_text(
            "raise RuntimeError('imported')\n"
            'def same():\n    """The same words in every module."""\n'
            f'def own():\n    """The words of module {name} alone."""\n'
        )
    (root / "__init__.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    return "somelibrary"


def test_a_library_is_parsed_not_imported_and_copies_are_left_out(library: str) -> None:
    entries = read_entries([library, "nosuchlibrary"])
    assert library not in sys.modules
    assert [entry.name for entry in entries] == [
        "somelibrary.a.one.same",
        "somelibrary.a.one.own",
        "somelibrary.b.two.own",
        "somelibrary.c.four.own",
    ]


def test_a_folder_is_on_one_side_of_the_split() -> None:
    entries = [
        Entry(f"m{i}.a.b.f{j}", f"m{i}.a.b", f"q{i} {j}", f"t{i} {j}") for i in range(200) for j in range(3)
    ]
    train, held_out = split_entries(entries, held_out=0.4)
    assert not {entry.module for entry in train} & {entry.module for entry in held_out}
    assert len(train) + len(held_out) == len(entries)
    assert 0.3 < len(held_out) / len(entries) < 0.5


def test_numpy_gives_a_problem_without_leaks() -> None:
    entries = read_entries(["numpy"])
    train, held_out = split_entries(entries)
    assert len(entries) > 500
    assert all(entry.question not in entry.text for entry in entries)
    assert not {entry.question for entry in train} & {entry.question for entry in held_out}
    assert not {entry.text for entry in train} & {entry.text for entry in held_out}
    assert entries == read_entries(["numpy"])
    assert any(entry.name == "numpy.fft.fft" for entry in entries)
    assert all(first.module <= second.module for first, second in pairwise(entries))
