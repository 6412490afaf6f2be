"""Windows follow from numbers of rows, not from how rows are stored."""

from __future__ import annotations

import numpy as np
import pytest

from ray_st.data import segments


@pytest.fixture(autouse=True)
def of_ten_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "ROWS", 10)


@pytest.mark.parametrize(
    ("rows", "window_rows", "number"),
    [(35, None, None), (35, 35, None), (35, 34, 3), (35, 19, 1), (35, 1, 1), (10, 1, None), (0, 1, None)],
)
def test_a_window_is_so_many_segments(rows: int, window_rows: int | None, number: int | None) -> None:
    assert segments.in_window(rows, window_rows) == number


@pytest.mark.parametrize(
    ("number", "window", "growing", "sizes"),
    [
        (0, 4, True, []),
        (1, 4, True, [1]),
        (3, None, True, [3]),
        (4, None, True, [2, 2]),
        (16, None, True, [2, 4, 10]),
        (40, 4, True, [2, 4, 4, 4, 4, 4, 4, 4, 4, 3, 3]),
        (41, 9, True, [2, 4, 8, 9, 9, 9]),
        (5, 1, True, [1, 1, 1, 1, 1]),
        (9, 4, False, [3, 3, 3]),
        (9, None, False, [9]),
    ],
)
def test_windows_grow_and_then_are_alike(
    number: int, window: int | None, growing: bool, sizes: list[int]
) -> None:
    assert segments.window_sizes(number, window, growing) == sizes
    assert sum(sizes) == number


def test_usable_rows_are_counted_in_each_segment() -> None:
    usable = np.setdiff1d(np.arange(35), [0, 9, 10, 34])
    assert segments.usable_rows(usable, 35) == [8, 9, 10, 4]
    assert segments.usable_rows(np.arange(0), 0) == []


@pytest.mark.parametrize(
    ("block_rows", "most"),
    [((10, 10, 10, 5), 1), ((35,), 1), ((4, 6, 10, 15), 2), ((4, 4, 4, 4, 19), 3), ((1,) * 35, 10)],
)
def test_blocks_of_a_segment(block_rows: tuple[int, ...], most: int) -> None:
    assert segments.most_blocks(block_rows) == most
