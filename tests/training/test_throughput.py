from __future__ import annotations

import pytest

from ray_st.training.callbacks.throughput import Goodput
from ray_st.util.booked import Booked


def test_steps_that_are_done_again_count_once() -> None:
    booked, now = Booked(), [100.0]
    first = Goodput(100.0, booked.total_at, booked.book, lambda: now[0])
    first.begin(0)
    now[0] = 110.0
    assert first.add(5, 8.0) == pytest.approx(0.8)
    first.add(9, 8.0)  # lost: the last checkpoint is of step 5
    second = Goodput(100.0, booked.total_at, booked.book, lambda: now[0])
    second.begin(5)
    now[0] = 140.0
    assert second.add(10, 10.0) == pytest.approx(18 / 40)
