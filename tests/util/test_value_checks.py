"""What counts as a number."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ray_st.util.value_checks import is_number, is_whole


@pytest.mark.parametrize(
    ("value", "whole", "number"),
    [
        (3, True, True),
        (-1, False, False),
        (True, False, False),
        (3.0, False, True),
        ("3", False, False),
        (None, False, False),
        (math.nan, False, True),
        (np.int64(3), False, False),
    ],
)
def test_numbers_of_at_least_zero(value: Any, whole: bool, number: bool) -> None:
    assert is_whole(value, least=0) == whole
    assert is_number(value, least=0) == number


def test_numpy_integers_count_where_they_may() -> None:
    assert is_whole(np.int64(3), least=3, numpy=True)
    assert not is_whole(np.bool_(True), numpy=True)
    assert not is_whole(np.float32(3), numpy=True)
