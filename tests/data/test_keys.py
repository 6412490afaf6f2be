from __future__ import annotations

import datasets
import numpy as np
import pytest

from ray_st.data.keys import Keys, hash_texts, keys_of, label_codes


def test_hashes_never_change() -> None:
    """Plans follow from hashes: these figures are XXH3's own, on every machine."""
    assert [
        hex(value) for value in hash_texts(["", "a", "sunny day", "größe", "日本語", "😀"]).tolist()
    ] == GOLDEN


GOLDEN = [
    "0x2d06800538d394c2",
    "0xe6c632b61e964e1f",
    "0xd2f45cdf59a0d42d",
    "0xa6d7bbea01d4872c",
    "0x11fec42c806050b7",
    "0xb4fecf421a0808e",
]


def test_hashes_tell_texts_apart() -> None:
    texts = ["a", "A", " a", "a ", "a\n", "é", "e\u0301", "\ud800", "\ud801", "\x00", "a\x00"]
    hashes = hash_texts(texts)
    assert hashes.dtype == np.uint64
    assert len(set(hashes.tolist())) == len(texts)
    assert hash_texts(iter(texts)).tolist() == hashes.tolist()
    assert len(hash_texts([])) == 0


def test_label_codes_are_in_order_of_appearance() -> None:
    assert label_codes(["b", "a", "b", "c"]).tolist() == [0, 1, 0, 2]
    assert label_codes([1, 1.0, True, 0]).tolist() == [0, 0, 0, 1]
    assert label_codes([]).dtype == np.int64


def test_keys_of_a_dataset() -> None:
    rows = {"q": ["a", "b", "a"], "a": ["x", "a", "y"], "label": [3, 4, 3], "dataset_name": ["d"] * 3}
    keys = keys_of(datasets.Dataset.from_dict(rows))
    assert keys.hashes.tolist() == np.stack([hash_texts(rows["q"]), hash_texts(rows["a"])], 1).tolist()
    assert keys.labels is not None
    assert keys.labels.tolist() == [0, 1, 0]
    assert keys.tokens is None
    assert len(keys) == 3
    assert keys_of(keys) is keys


def test_label_columns_can_be_named() -> None:
    dataset = datasets.Dataset.from_dict({"text": ["a", "b"], "group": [1, 1]})
    keys = keys_of(dataset, ["group"])
    assert keys.hashes.shape == (2, 1)
    assert keys.labels is not None


def test_labels_that_are_lists_have_no_codes() -> None:
    dataset = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [[1.0, 2.0], [3.0, 4.0]]})
    assert keys_of(dataset).labels is None


@pytest.mark.parametrize("rows", [0, 2])
def test_a_dataset_without_texts(rows: int) -> None:
    keys = keys_of(datasets.Dataset.from_dict({"label": list(range(rows))}))
    assert keys.hashes.shape == (rows, 0)
    assert isinstance(keys, Keys)
