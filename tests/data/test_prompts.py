from __future__ import annotations

from typing import Any

import pytest

from ray_st.data.column_spec import ColumnSpec
from ray_st.data.prompts import prompts_of

QA = ColumnSpec(("q", "a"), "label")


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        (None, {}),
        ("", {}),
        ("p: ", {"q": "p: ", "a": "p: "}),
        ({"q": "query: "}, {"q": "query: "}),
        ({"q": "query: ", "a": "doc: "}, {"q": "query: ", "a": "doc: "}),
    ],
)
def test_prompts_of_a_single_dataset(prompts: Any, expected: dict[str, str]) -> None:
    assert prompts_of(prompts, QA, None) == expected


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ("p: ", {"q": "p: ", "a": "p: "}),
        ({"q": "query: ", "other": "x"}, {"q": "query: "}),  # another dataset may have that column
        ({"one": "1: "}, {"q": "1: ", "a": "1: "}),
        ({"two": "2: "}, {}),
        ({"one": {"a": "answer: "}, "two": "2: "}, {"a": "answer: "}),
        ({"two": {"x": "2: "}}, {}),
    ],
)
def test_prompts_of_one_among_several(prompts: Any, expected: dict[str, str]) -> None:
    assert prompts_of(prompts, QA, "one", ["one", "two"]) == expected


def test_prompts_by_dataset_name_need_names() -> None:
    with pytest.raises(ValueError, match="there is a single dataset, which has no name"):
        prompts_of({"one": {"q": "query: "}}, QA, None)


@pytest.mark.parametrize(
    ("prompts", "dataset", "message"),
    [
        ({"question": "x"}, None, r"names \['question'\], which are no text columns"),
        (
            {"one": "x", "three": "y"},
            "one",
            r"names \['three'\], which are no datasets; there are \['one', 'two'\]",
        ),
        ({"one": {"question": "x"}}, "one", r"names \['question'\], which are no text columns"),
        ({"one": {"label": "x"}}, "one", "which are no text columns"),
    ],
)
def test_unknown_names(prompts: Any, dataset: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prompts_of(prompts, QA, dataset, ["one", "two"])
