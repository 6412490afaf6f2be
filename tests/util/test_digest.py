from __future__ import annotations

import functools
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ray_st.util.digest import digest

VALUES: list[Any] = [
    None,
    True,
    1,
    1.0,
    "1",
    "a",
    b"a",
    ["a", "b"],
    ["ab"],
    ["a", ["b"]],
    {"a": 1},
    {"a": 2},
    {"a", "b"},
    {"a"},
    np.array([1, 2]),
    np.array([1.0, 2.0]),
    np.array([[1, 2]]),
    np.array(["a", None], dtype=object),
    torch.tensor([1.0, 3.0]),
    math.sqrt,
    len,
    Path("a/b"),
    functools.partial(max, 1),
    functools.partial(max, 2),
]


def test_unlike_values_have_unlike_digests() -> None:
    digests = [digest(value) for value in VALUES]
    kinds = {digest(math.sqrt)}  # functions that are not Python's own count by their class
    assert digest(len) in kinds
    assert len(set(digests)) == len(VALUES) - 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": [2, 3]}, {"b": (2, 3), "a": 1}),
        ({"x", "y", "z"}, {"z", "y", "x"}),
        (np.int64(3), 3),
        (np.float64(0.5), 0.5),
        (torch.ones(2, dtype=torch.bfloat16), torch.ones(2)),
        (np.arange(6).reshape(2, 3).T, np.arange(6).reshape(2, 3).T.copy()),
        ("\ud800", "\ud800"),
        (lambda x: x + 1, lambda x: x + 1),
    ],
)
def test_like_values_have_one(one: Any, other: Any) -> None:
    if callable(one):
        other.__qualname__, other.__code__ = one.__qualname__, other.__code__
    assert digest(one) == digest(other)


def test_functions_without_a_name_count_by_what_they_do() -> None:
    def scaled(by: float) -> Any:
        return lambda figures: by * figures["a"]

    assert digest(scaled(1.0)) == digest(scaled(1.0))
    assert digest(scaled(1.0)) != digest(scaled(2.0))
    assert digest(lambda figures: figures["a"]) != digest(lambda figures: figures["b"])


def test_another_process_finds_the_same() -> None:
    code = "from ray_st.util.digest import digest; print(digest([{'b', 'a', 'c'}, {'x': 1.5, 'y': None}]))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == digest([{"c", "a", "b"}, {"y": None, "x": 1.5}])
