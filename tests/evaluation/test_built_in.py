from __future__ import annotations

import logging

from ray_st.evaluation.built_in import append_row


def test_rows_follow_one_line_of_headers(tmp_path) -> None:
    for epoch in (0, 1):
        append_row(tmp_path / "new", "a.csv", ["epoch", "steps", "figure"], [epoch, -1, 0.25])
    assert (tmp_path / "new/a.csv").read_text().split() == ["epoch,steps,figure", "0,-1,0.25", "1,-1,0.25"]


def test_other_columns_get_their_own_headers(tmp_path, caplog) -> None:
    append_row(tmp_path, "a.csv", ["epoch", "steps", "x"], [0, -1, 1])
    with caplog.at_level(logging.WARNING):
        append_row(tmp_path, "a.csv", ["epoch", "steps", "y"], [1, -1, 2])
    append_row(tmp_path, "a.csv", ["epoch", "steps", "y"], [2, -1, 3])
    assert (tmp_path / "a.csv").read_text().split() == [
        "epoch,steps,x",
        "0,-1,1",
        "epoch,steps,y",
        "1,-1,2",
        "2,-1,3",
    ]
    assert len(caplog.records) == 1
