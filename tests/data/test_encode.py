from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ray_st.data.column_spec import ColumnSpec
from ray_st.data.dataset_stats import describe_blocks
from ray_st.data.encoding import (
    FAULT,
    TOKENS,
    TRUNCATED,
    Encoding,
    encode_block,
    hash_of,
    ids_of,
    keys_of_blocks,
    text_of,
)
from ray_st.data.faults import RowError, check_faults
from ray_st.data.keys import hash_texts

PAIRS = ColumnSpec(("q", "a"))


def letters(texts: Sequence[str]) -> list[np.ndarray]:
    """An encoder: each character is its code, between -1 and -2."""
    return [np.array([-1, *map(ord, text), -2], dtype=np.int32) for text in texts]


def encode(columns: dict[str, Any], spec: ColumnSpec = PAIRS, **options: Any) -> pa.Table:
    options.setdefault("encoder", letters)
    return encode_block(pa.table(columns), Encoding(spec, **options))


def ids(*texts: str) -> list[list[int]]:
    return [row.tolist() for row in letters(texts)]


def test_rows_keep_their_order() -> None:
    block = encode({"a": ["yes", "no", "a"], "extra": [1, 2, 3], "q": ["x", "why", "x"]})
    assert block.column_names == [
        hash_of("q"),
        ids_of("q"),
        hash_of("a"),
        ids_of("a"),
        TOKENS,
        TRUNCATED,
        FAULT,
    ]
    assert block[ids_of("q")].to_pylist() == ids("x", "why", "x")
    assert block[ids_of("a")].to_pylist() == ids("yes", "no", "a")
    assert block[hash_of("q")].to_pylist() == hash_texts(["x", "why", "x"]).tolist()
    assert block[TOKENS].to_pylist() == [8, 9, 6]
    assert block[FAULT].null_count == 3
    assert block.schema.field(ids_of("q")).type == pa.large_list(pa.int32())
    assert block.schema.field(hash_of("q")).type == pa.uint64()


def test_chunks_and_slices_make_no_difference() -> None:
    whole = pa.table({"q": list("abcdef"), "a": list("uvwxyz"), "label": [1, 2, 3, 4, 5, 6]})
    parts = pa.concat_tables([whole.slice(0, 1), whole.slice(1, 0), whole.slice(1, 5)])
    encoding = Encoding(ColumnSpec(("q", "a"), "label"), letters, keep_texts=True)
    assert encode_block(parts, encoding).equals(encode_block(whole, encoding))
    assert encode_block(whole.slice(2, 3), encoding).equals(
        encode_block(whole, encoding).slice(2, 3).combine_chunks()
    )


def refuse(*blocks: pa.Table) -> None:
    described = describe_blocks(blocks, ColumnSpec(("q", "a")))
    check_faults(described.faults, described.rows, "data")


def test_zero_rows() -> None:
    empty = {
        "q": pa.array([], pa.string()),
        "a": pa.array([], pa.string()),
        "label": pa.array([], pa.int64()),
    }
    for encoder in (letters, None):
        block = encode(empty, ColumnSpec(("q", "a"), "label"), encoder=encoder)
        assert len(block) == 0
        assert block.schema.field(TOKENS).type == pa.int64()
    assert block[FAULT].null_count == 0


def test_zero_rows_of_a_real_encoder(tiny_model: Any) -> None:
    empty = {"q": pa.array([], pa.string()), "a": pa.array([], pa.string())}
    assert len(encode(empty, encoder=tiny_model.token_encoder())) == 0


def test_prompts_go_before_the_texts_of_their_column_but_not_into_hashes() -> None:
    block = encode({"q": ["a"], "a": ["a"]}, prompts={"q": "query: ", "other": "x"}, keep_texts=True)
    assert block[text_of("q")].to_pylist() == ["query: a"]
    assert block[text_of("a")].to_pylist() == ["a"]
    assert block[ids_of("q")].to_pylist() == ids("query: a")
    assert block[hash_of("q")].to_pylist() == block[hash_of("a")].to_pylist() == hash_texts(["a"]).tolist()
    assert block[TOKENS].to_pylist() == [10 + 3]


def test_without_an_encoder_rows_keep_their_texts() -> None:
    block = encode({"q": ["a", "b"], "a": ["c", "d"]}, encoder=None)
    assert block[text_of("q")].to_pylist() == ["a", "b"]
    assert ids_of("q") not in block.column_names
    assert block[TOKENS].to_pylist() == [0, 0]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_any_kind_of_string_column(kind: pa.DataType) -> None:
    block = encode({"q": pa.array(["x", "y", "x"]).cast(kind)}, ColumnSpec(("q",)))
    assert block[ids_of("q")].to_pylist() == ids("x", "y", "x")


@pytest.mark.parametrize(
    ("column", "found"),
    [
        (["ok", None], r"found None \(NoneType\)"),
        (["ok", ""], r"found an empty text \(''\)"),
        (["ok", " \n\t\u2003"], r"found an empty text .*"),
        ([1, 2], r"found 1 \(int\)"),
        ([0.5, None], r"found 0.5 \(float\)"),
        ([["ok"], ["ok"]], r"found \['ok'\] \(list\)"),
        ([{"t": "ok"}] * 2, r"found {'t': 'ok'} \(dict\)"),
        ([b"ok", b"ok"], r"found b'ok' \(bytes\)"),
        ([list(range(100))] * 2, r"found \[0, 1, .*… \(list\)"),
    ],
)
def test_a_column_of_something_else_than_texts_is_a_fault(column: list[Any], found: str) -> None:
    block = encode({"q": ["good", "good"], "a": column})
    row = 0 if column[0] != "ok" else 1
    with pytest.raises(
        RowError, match=rf"^data: row {row}, column 'a': expected a text, {found}\. {2 - row} of 2 rows"
    ):
        refuse(block)
    assert block[ids_of("a")].to_pylist()[row] == ids("")[0]


def test_the_first_fault_of_all_blocks_is_named_and_all_are_counted() -> None:
    good = encode({"q": ["a"] * 3, "a": ["b"] * 3})
    bad = encode({"q": ["a", "", None], "a": [None, "b", "b"]})
    with pytest.raises(
        RowError, match=r"^data: row 3, column 'a'.* 3 of 6 rows cannot be used; correct or remove"
    ):
        refuse(good, bad)
    refuse(good)


def labelled(labels: Any) -> pa.Table:
    return encode({"q": ["a"] * len(labels), "label": labels}, ColumnSpec(("q",), "label"))


@pytest.mark.parametrize(
    ("labels", "kept"),
    [
        ([1, 0], [1, 0]),
        ([0.5, -1.0], [0.5, -1.0]),
        ([True, False], [1, 0]),
        ([[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [3.0, 4.0]]),
        (pa.array([[1, 2], [3, 4]], pa.list_(pa.int64(), 2)), [[1, 2], [3, 4]]),
        (pa.array([[1], [3]], pa.large_list(pa.float32())), [[1.0], [3.0]]),
        (pa.array([np.float16(0.5), np.float16(1)], pa.float16()), [0.5, 1.0]),
        (pa.array([1, 2], pa.uint8()), [1, 2]),
    ],
)
def test_numbers_are_labels(labels: Any, kept: list[Any]) -> None:
    block = labelled(labels)
    assert block["label"].to_pylist() == kept
    assert block[FAULT].null_count == 2


@pytest.mark.parametrize(
    ("labels", "faulty", "found"),
    [
        ([1, None], 1, "None"),
        ([0.5, math.nan], 1, "nan"),
        ([0.5, -math.inf], 1, "-inf"),
        ([True, None], 1, "None"),
        (["entailment", "neutral"], 0, "'entailment'"),
        ([None, None], 0, "None"),
        ([[1.0], [math.nan]], 1, r"\[nan\]"),
        ([[1.0], [None]], 1, r"\[None\]"),
        ([[1.0], None], 1, "None"),
        ([["a"], ["b"]], 0, r"\['a'\]"),
        ([{"a": 1}, {"a": 2}], 0, "{'a': 1}"),
        (pa.array([np.float16(0.5), np.float16("nan")], pa.float16()), 1, "nan"),
    ],
)
def test_other_labels_are_faults(labels: Any, faulty: int, found: str) -> None:
    block = labelled(labels)
    message = rf"row {faulty}, column 'label': expected a finite number as label, found {found} \(.*{2 - faulty} of 2"
    described = describe_blocks([block], ColumnSpec(("q",), "label"))
    with pytest.raises(RowError, match=message):
        check_faults(described.faults, described.rows, "data")


def test_keys_of_blocks() -> None:
    spec = ColumnSpec(("q", "a"), "label")
    first = encode({"q": ["a", "b"], "a": ["c", "d"], "label": [7, 8]}, spec)
    second = encode({"q": ["e"], "a": ["f"], "label": [7]}, spec)
    keys = keys_of_blocks([first, pa.table({}), second], spec)
    assert keys.hashes.tolist() == np.stack([hash_texts("abe"), hash_texts("cdf")], axis=1).tolist()
    assert keys.tokens is not None
    assert keys.tokens.tolist() == [6, 6, 6]
    assert keys.labels is not None
    assert keys.labels.tolist() == [0, 1, 0]


def test_keys_of_blocks_whose_labels_differ_in_type() -> None:
    spec = ColumnSpec(("q",), "label")
    blocks = [labelled([1, 0]), labelled([0.5, 1.0])]
    labels = keys_of_blocks(blocks, spec).labels
    assert labels is not None
    assert labels.tolist() == [0, 1, 2, 0]


def test_keys_of_lists_of_labels_and_of_nothing() -> None:
    spec = ColumnSpec(("q",), "label")
    assert keys_of_blocks([labelled([[1.0], [2.0]])], spec).labels is None
    assert keys_of_blocks([], spec).hashes.shape == (0, 1)
