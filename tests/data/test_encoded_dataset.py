from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ray_st.data.column_spec import ColumnSpec
from ray_st.data.encoded_dataset import EncodedDataset
from ray_st.data.encoding import Encoding, encode_block
from ray_st.data.label_need import LabelNeed

COLUMNS = ColumnSpec(("q", "a"), "score")
TEXTS = [f"{i} " * (i % 4 + 1) for i in range(10)]


def letters(texts: list[str]) -> list[np.ndarray]:
    return [np.array([ord(letter) for letter in text], dtype=np.int32) for text in texts]


def rows() -> pa.Table:
    return pa.table(
        {"q": TEXTS, "a": [f"answer {text}" for text in TEXTS], "score": [i / 2 for i in range(10)]}
    )


def blocks(*sizes: int, texts: bool = True, encoder: bool = True) -> list[pa.Table]:
    encoding = Encoding(COLUMNS, letters if encoder else None, keep_texts=texts)
    starts = np.cumsum([0, *sizes])
    return [
        encode_block(rows().slice(start, size), encoding) for start, size in zip(starts, sizes, strict=False)
    ]


@pytest.mark.parametrize("sizes", [(10,), (3, 7), (1,) * 10, (0, 4, 0, 0, 6, 0)])
def test_rows_are_found_in_whatever_blocks_they_lie(sizes: tuple[int, ...]) -> None:
    window = EncodedDataset(blocks(*sizes), COLUMNS)
    asked = np.array([9, 0, 3, 3, 4, 7])
    assert len(window) == 10
    assert [row.tolist() for row in window.ids("q", asked)] == [
        row.tolist() for row in letters([TEXTS[i] for i in asked])
    ]
    assert window.texts("a", asked) == [f"answer {TEXTS[i]}" for i in asked]
    assert window.labels(asked) == [i / 2 for i in asked]
    assert window.has_tokens("q", np.array([0]))


def test_blocks_may_be_slices_or_in_chunks() -> None:
    whole = blocks(10)[0]
    window = EncodedDataset(
        [whole.slice(0, 2), pa.concat_tables([whole.slice(2, 5), whole.slice(7)])], COLUMNS
    )
    assert [len(row) for row in window.ids("q", np.arange(10))] == [len(text) for text in TEXTS]
    assert window.labels(np.array([2, 8])) == [1.0, 4.0]


def test_an_empty_block_may_lack_columns() -> None:
    window = EncodedDataset([pa.table({}), *blocks(10)], COLUMNS)
    assert window.has_tokens("q", np.array([0]))
    assert len(window.ids("q", np.array([5]))[0]) == len(TEXTS[5])


def test_ids_are_views() -> None:
    window = EncodedDataset(blocks(5, 5), COLUMNS)
    first, again = (window.ids("q", np.array([6]))[0] for _ in range(2))
    assert np.shares_memory(first, again)
    assert not first.flags.writeable  # blocks are shared by all processes of a node


def test_without_labels_and_without_tokens() -> None:
    spec = ColumnSpec(("q",))
    window = EncodedDataset([encode_block(rows(), Encoding(spec, None))], spec)
    assert window.labels(np.array([0])) is None
    assert not window.has_tokens(spec.texts[0], np.array([0]))
    assert window.texts("q", np.array([1])) == [TEXTS[1]]


@pytest.mark.parametrize("given", [[], [pa.table({})]])
def test_a_window_may_be_empty(given: list[pa.Table]) -> None:
    window = EncodedDataset(given, COLUMNS)
    assert len(window) == 0
    assert window.labels(np.zeros(0, dtype=np.int64)) == []


@pytest.mark.parametrize("wrong", [[0, 10], [-1, 3]])
def test_a_row_that_is_not_there_is_refused(wrong: list[int]) -> None:
    with pytest.raises(IndexError, match=rf"0 to 9; the batch sampler asks for {min(wrong)} to {max(wrong)}"):
        EncodedDataset(blocks(5, 5), COLUMNS).ids("q", np.array(wrong))


@pytest.mark.parametrize(
    ("lists", "whole"),
    [
        ([[0.5, 1.0], [2.0, 3.25]], False),
        ([[1, 2], [3, 4]], False),
        ([[1], [3]], True),
        ([[1.0], [3.0]], True),
    ],
)
def test_labels_that_are_lists_are_arrays(lists: list[list[float]], whole: bool) -> None:
    need = LabelNeed("a loss", whole=True) if whole else None
    columns = ColumnSpec(("q",), "label", need)
    block = encode_block(pa.table({"q": ["a", "b"], "label": lists}), Encoding(columns, None))
    found = EncodedDataset([block], columns).label_array(np.array([1, 0]))
    assert found is not None
    expected = np.array([lists[1], lists[0]])
    assert found.dtype == (np.int64 if whole or expected.dtype == np.int64 else np.float32)
    assert found.astype(expected.dtype).tolist() == expected.tolist()
