"""Columns of lists of texts: encoded text by text, with a label for each, and every unusable row named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ray_st.data.column_spec import ColumnError, ColumnSpec, check_columns, check_lengths, check_types
from ray_st.data.encoded_dataset import EncodedDataset
from ray_st.data.encoding import FAULT, TOKENS, TRUNCATED, Encoding, encode_block
from ray_st.data.token_cache import BlockEncoder, TokenCache

LISTS = ColumnSpec(("query", "docs"), "labels", lists=("docs",))
ROWS: dict[str, list[Any]] = {
    "query": ["a", "bb", "c"],
    "docs": [["x", "yy"], ["zzz"], ["u", "v", "w"]],
    "labels": [[1, 0], [0.5], [1, 0, 2]],
}


def letters(texts: Sequence[str]) -> list[np.ndarray]:
    """An encoder without special tokens: each character is its code."""
    return [np.array(list(map(ord, text)), dtype=np.int32) for text in texts]


class ListLoss:
    text_columns = (2, 2)
    labels = "none"
    lists = True


def encoded(rows: dict[str, list[Any]], **options: Any) -> pa.Table:
    return encode_block(pa.table(rows), Encoding(LISTS, letters, **options))


def held(*tables: pa.Table) -> EncodedDataset:
    return EncodedDataset(tables, LISTS)


def test_each_text_has_its_own_ids_whatever_block_it_lies_in() -> None:
    whole = encoded(ROWS)
    parts = [
        encoded({name: values[rows] for name, values in ROWS.items()}) for rows in (slice(1), slice(1, 3))
    ]
    for dataset in (held(whole), held(*parts)):
        found = dataset.lists_of_ids("docs", np.array([2, 0, 1]))
        lengths = [[len(ids) for ids in texts] for texts in found]
        assert lengths == [[1, 1, 1], [1, 2], [3]]
        expected = [letters(texts) for texts in (ROWS["docs"][2], ROWS["docs"][0], ROWS["docs"][1])]
        for mine, other in zip(found, expected, strict=True):
            assert [ids.tolist() for ids in mine] == [ids.tolist() for ids in other]
    assert whole[TOKENS].to_pylist() == [4, 5, 4]
    assert whole[FAULT].null_count == 3


def test_labels_are_padded_at_the_end() -> None:
    labels = held(encoded(ROWS)).label_array(np.array([1, 2]))
    assert labels is not None
    assert labels.dtype == np.float32
    np.testing.assert_array_equal(labels, [[0.5, np.nan, np.nan], [1, 0, 2]])


def test_texts_may_be_kept_with_their_prompt() -> None:
    table = encoded(ROWS, keep_texts=True, prompts={"query": "q: ", "docs": "d: "})
    dataset = held(table)
    assert dataset.texts("query", np.array([0])) == ["q: a"]
    assert dataset.texts("docs", np.array([1, 0])) == [["d: zzz"], ["d: x", "d: yy"]]
    unread = encode_block(pa.table(ROWS), Encoding(LISTS, None))
    assert not held(unread).has_tokens("docs", np.array([0]))
    assert held(unread).texts("docs", np.array([0])) == [["x", "yy"]]


def test_a_row_with_a_text_as_long_as_the_limit_is_truncated() -> None:
    class Short:
        max_seq_length = 3

        def __call__(self, texts: Sequence[str]) -> Any:
            return [ids[:3] for ids in letters(texts)]

    table = encode_block(pa.table(ROWS), Encoding(LISTS, Short()))
    assert table[TRUNCATED].to_pylist() == [False, True, False]


def test_equal_lists_have_equal_hashes() -> None:
    rows = {"query": ["a"] * 3, "docs": [["x", "y"], ["xy"], ["x", "y"]], "labels": [[1, 0], [1], [0, 1]]}
    one, two, three = encoded(rows)["hash:docs"].to_pylist()
    assert one == three != two


@pytest.mark.parametrize(
    ("docs", "labels", "message"),
    [
        ([], [], "column 'docs': expected a list of texts, found an empty list"),
        (None, [1], "column 'docs': expected a list of texts, found None"),
        (["x", " "], [1, 0], "column 'docs': expected a text as entry 1 of the list, found an empty text"),
        (["x", None], [1, 0], "column 'docs': expected a text as entry 1 of the list, found None"),
        (
            ["x", "y"],
            [1],
            "column 'labels': expected a list of 2 numbers, one for each text of column 'docs', ",
        ),
        (["x"], None, "column 'labels': expected a finite number as label, found None"),
        (["x"], [float("nan")], "column 'labels': expected a finite number as label, found"),
    ],
)
def test_unusable_rows_are_named(docs: Any, labels: Any, message: str) -> None:
    rows = {"query": ["a", "b"], "docs": [["x"], docs], "labels": [[1.0], labels]}
    good, bad = encoded(rows)[FAULT].to_pylist()
    assert good is None
    assert bad.startswith(message)


def test_a_number_is_no_list_of_labels() -> None:
    rows = {"query": ["a"], "docs": [["x"]], "labels": [1.0]}
    (fault,) = encoded(rows)[FAULT].to_pylist()
    assert (
        fault
        == "column 'labels': expected a list of 1 numbers, one for each text of column 'docs', found a single number"
    )


def test_columns_are_checked_before_rows_are_read() -> None:
    texts, lists = pa.string(), pa.list_(pa.string())
    columns = ColumnSpec(("query", "docs"), "labels")
    check_types(
        columns, {"query": texts, "docs": lists, "labels": pa.list_(pa.float64())}, "data", ListLoss()
    )
    assert check_columns(columns, ListLoss(), "data").lists == ("docs",)
    with pytest.raises(ColumnError, match="ListLoss needs a list of texts in each row"):
        check_types(columns, {"query": texts, "docs": texts}, "data", ListLoss())
    with pytest.raises(ColumnError, match="texts must be strings; found type list"):
        check_types(columns, {"query": lists, "docs": lists}, "data", ListLoss())
    with pytest.raises(ColumnError, match="texts must be strings; found type list"):
        check_types(columns, {"query": texts, "docs": lists}, "data", object())
    check_lengths(LISTS, [(1, 0), (2, 5)], "data")


def test_the_token_cache_gives_the_same_lists(tmp_path: Any) -> None:
    cache = TokenCache(str(tmp_path), 1 << 20)
    encoder = BlockEncoder(Encoding(LISTS, letters), cache, "state")
    first, again = encoder(pa.table(ROWS)), encoder(pa.table(ROWS))
    assert first.equals(again)
    rows = np.arange(3)
    assert [len(texts) for texts in held(again).lists_of_ids("docs", rows)] == [2, 1, 3]
