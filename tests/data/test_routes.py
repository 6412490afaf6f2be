from __future__ import annotations

from typing import Any

import pytest

from ray_st.data.column_spec import ColumnSpec
from ray_st.data.routes import Route, check_mapping_names, tasks_of

COLUMNS = ColumnSpec(("question", "answer", "other"), "label")
FLAT = {"question": "query", "answer": "document"}


@pytest.mark.parametrize(
    ("mapping", "dataset", "expected"),
    [
        (None, "", {}),
        ({}, "faq", {}),
        (FLAT, "", FLAT),
        (FLAT, "faq", FLAT),
        ({"faq": FLAT, "web": {"question": "document"}}, "faq", FLAT),
        ({"faq": FLAT, "web": {"question": "document"}}, "web", {"question": "document"}),
        ({"faq": FLAT}, "web", {}),
        ({**FLAT, "elsewhere": "query"}, "", FLAT),
    ],
    ids=str,
)
def test_the_tasks_of_a_dataset(mapping: Any, dataset: str, expected: dict[str, str]) -> None:
    assert tasks_of(mapping, COLUMNS, dataset) == expected


def test_names_that_some_dataset_has() -> None:
    datasets = {"faq": ["question", "answer"], "web": ["text"]}
    check_mapping_names({"question": "query", "text": "document"}, datasets, single=False)
    check_mapping_names({"faq": {"answer": "document"}}, datasets, single=False)


@pytest.mark.parametrize(
    ("mapping", "datasets", "message"),
    [
        ({"qestion": "query"}, {"": ["question"]}, r"\['qestion'\], which are no text columns; .* \['question'\]"),
        ({"fqa": FLAT}, {"faq": ["question"]}, r"\['fqa'\], which are no datasets; there are \['faq'\]"),
        ({"faq": FLAT}, {"faq": ["question"]}, r"\['answer'\], which are no text columns of 'faq'"),
        ({"faq": FLAT}, {"": ["question"]}, r"single dataset, which has no name\. .* by column: \['question'\]"),
    ],
    ids=str,
)  # fmt: skip
def test_names_that_nothing_has(mapping: Any, datasets: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_mapping_names(mapping, datasets, single=list(datasets) == [""])


def test_what_a_batch_says_of_a_route() -> None:
    assert Route("query", None).features == {"task": "query", "modality": "text"}
    assert Route(None, None).features == {"modality": "text"}
