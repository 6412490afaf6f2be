from __future__ import annotations

from ray_st.evaluation.checked_inputs import distinct


def test_texts_keep_the_order_of_their_first_places() -> None:
    texts, places = distinct(["b", "a", "b", "c", "a"])
    assert texts == ["b", "a", "c"]
    assert places.tolist() == [0, 1, 0, 2, 1]


def test_what_cannot_be_hashed_counts_each_for_itself() -> None:
    texts, places = distinct([["x"], ["x"]])
    assert texts == [["x"], ["x"]]
    assert places.tolist() == [0, 1]
