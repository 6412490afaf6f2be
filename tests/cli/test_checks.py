from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Optional, Union

import pytest

from ray_st.cli.run_checks import RunFileError, build
from ray_st.util.type_checks import fits


class Choice(Enum):
    ONE = "one"


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (1, int),
        (1, float),
        (0.5, float),
        (True, bool),
        ("a", str),
        (None, Optional[int]),  # noqa: UP045 - transformers annotates so
        (3, int | None),
        ("one", Union[Choice, str]),  # noqa: UP007
        ("one", Choice),
        (["a"], list[str]),
        ([1, 2], tuple[int, int]),
        ({"a": 1}, dict[str, int]),
        ({"a": 1}, dict),
        ("x", Any),
        (["a"], str | list[str]),
    ],
)
def test_fits(value: object, hint: object) -> None:
    assert fits(value, hint)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("1", int),
        (1.5, int),
        (True, int),
        (True, float),
        (1, bool),
        ("yes", bool),
        (1, str),
        (None, int),
        (1, Choice),
        (["a", 1], list[str]),
        ("a", list[str]),
        ({"a": "x"}, dict[str, int]),
    ],
)
def test_does_not_fit(value: object, hint: object) -> None:
    assert not fits(value, hint)


@dataclass(frozen=True)
class Thing:
    size: int
    name: str | None = None


def test_build_makes_the_dataclass() -> None:
    assert build(Thing, {"size": 3}, "f.yaml: thing") == Thing(3)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"sise": 3}, r"^f\.yaml: thing\.sise: unknown key 'sise'; did you mean 'size'\?$"),
        ({}, r"^f\.yaml: thing\.size: missing$"),
        ({"size": "x"}, r"^f\.yaml: thing\.size: expected a whole number, found 'x' \(str\)$"),
        ({"size": 1, "name": 2}, r"thing\.name: expected text or null, found 2"),
        ([1], "expected keys with values"),
        ({1: 2}, "expected a word as key, found 1"),
    ],
)
def test_build_refuses(value: object, message: str) -> None:
    with pytest.raises(RunFileError, match=message):
        build(Thing, value, "f.yaml: thing")
