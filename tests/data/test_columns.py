from __future__ import annotations

import types
from typing import Any

import pyarrow as pa
import pytest

from ray_st.data.column_spec import (
    ColumnError,
    ColumnSpec,
    check_columns,
    check_rows,
    check_types,
    split_columns,
)


@pytest.mark.parametrize(
    ("names", "texts", "label"),
    [
        (["a", "b"], ("a", "b"), None),
        (["label", "b", "a"], ("b", "a"), "label"),
        (["b", "scores", "a"], ("b", "a"), "scores"),
        (["score", "label", "a"], ("score", "a"), "label"),
        (["dataset_name", "a"], ("a",), None),
        (["label"], (), "label"),
        (["Label", "labelled"], ("Label", "labelled"), None),
        ([], (), None),
    ],
)
def test_columns_are_told_apart_by_name(names: list[str], texts: tuple[str, ...], label: str | None) -> None:
    columns = split_columns(names)
    assert columns == ColumnSpec(texts, label)
    assert columns.names == (*texts, *([label] if label else []))


def test_names_of_labels_can_be_given() -> None:
    assert split_columns(["a", "label", "group"], ["group"]) == ColumnSpec(("a", "label"), "group")


def loss(least: int, most: int | None, labels: str = "none") -> Any:
    return types.SimpleNamespace(text_columns=(least, most), labels=labels)


def test_a_dataset_that_fits_passes() -> None:
    check_columns(ColumnSpec(("a", "b")), loss(2, None), "train_dataset")
    check_columns(ColumnSpec(("a", "b"), "score"), loss(2, 2, "float score"), "train_dataset")
    check_columns(ColumnSpec(("a", "b"), "score"), loss(2, 2), "train_dataset")  # a label that is not used
    check_columns(ColumnSpec(("a",)), object(), "train_dataset")


@pytest.mark.parametrize(
    ("columns", "needs", "message"),
    [
        (ColumnSpec(()), loss(1, 1), r"at least one text column; data has text columns \[\]"),
        (
            ColumnSpec(("a",)),
            loss(2, None),
            r"at least 2 text columns; .*\['a'\] and no label.* Add the missing",
        ),
        (ColumnSpec(("a", "b")), loss(3, 3), "needs 3 text columns"),
        (ColumnSpec(("a", "b")), loss(1, 1), "needs 1 text column;.* Remove or rename"),
        (ColumnSpec(tuple("abcd")), loss(2, 3), "needs 2 to 3 text columns"),
        (ColumnSpec(("a", "b")), loss(2, 2, "float score"), r"label column \(float score\) named one of"),
    ],
)
def test_a_dataset_that_does_not_fit_is_refused(columns: ColumnSpec, needs: Any, message: str) -> None:
    with pytest.raises(ColumnError, match=message):
        check_columns(columns, needs, "data")


def test_a_loss_whose_pairs_are_all_matches_is_not_given_scored_pairs() -> None:
    ranking = loss(2, None)
    ranking.in_batch_negatives = True
    with pytest.raises(ColumnError, match=r"takes no labels: each pair is a match.* drop the column 'score'"):
        check_columns(ColumnSpec(("a", "b"), "score"), ranking, "data")
    check_columns(ColumnSpec(("a", "b", "negative"), "score"), ranking, "data")  # as mining writes them
    check_columns(ColumnSpec(("a", "b"), "label"), ranking, "data")  # maybe for a sampler
    check_columns(ColumnSpec(("a", "b")), ranking, "data")


def test_too_few_rows_are_refused() -> None:
    check_rows(2, 2, "data")
    with pytest.raises(ColumnError, match="data has no rows"):
        check_rows(0, 2, "data")
    with pytest.raises(ColumnError, match=r"1 row.*fewer than the 2 workers; use at most 1"):
        check_rows(1, 2, "data")


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.null(),
        pa.dictionary(pa.int32(), pa.string()),
        object,  # what Ray says of columns that it cannot name
    ],
)
def test_strings_of_any_kind_are_texts(kind: Any) -> None:
    check_types(ColumnSpec(("a",)), {"a": kind}, "data")


@pytest.mark.parametrize(
    "kind",
    [
        pa.int64(),
        pa.float32(),
        pa.bool_(),
        pa.binary(),
        pa.list_(pa.float32()),
        pa.struct([("a", pa.string())]),
    ],
)
def test_other_types_are_no_texts(kind: Any) -> None:
    with pytest.raises(
        ColumnError, match=r"data, column 'a': texts must be strings; found type .* name it one of"
    ):
        check_types(ColumnSpec(("a",)), {"a": kind}, "data")


def test_a_second_label_column_is_named() -> None:
    columns = split_columns(["a", "label", "score"])
    with pytest.raises(ColumnError, match=r"column 'score'.* The label is column 'label'; every other"):
        check_types(columns, {"a": pa.string(), "score": pa.float64()}, "data")
