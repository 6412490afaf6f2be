from __future__ import annotations

from ray_st.util.booked import Booked


def test_a_restart_goes_on_from_the_sum_at_its_step() -> None:
    booked = Booked()
    for step, total in ((2, 1.0), (4, 2.5), (6, 4.0)):
        booked.book(step, total)
    assert booked.total_at(5) == 2.5
    assert booked.total_at(9) == 2.5, "what came after step 5 is done again"
    assert booked.total_at(1) == 0.0
