"""The next piece of work is made in a thread, one ahead, which ends with the context whatever happens."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from ray_st.util.ahead import one_ahead


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ray_st-ahead")]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert threads() == []


@pytest.mark.parametrize("items", [[], [3], [3, 1], [3, 1, 2, 5]])
def test_results_are_in_order_and_the_first_is_made_here(items: list[int]) -> None:
    makers: list[bool] = []

    def prepare(item: int) -> int:
        makers.append(threading.current_thread() is threading.main_thread())
        return item * item

    with one_ahead(prepare, items) as results:
        assert list(results) == [item * item for item in items]
    assert makers == [place == 0 for place in range(len(items))]


def test_one_is_made_while_another_is_used_and_no_more() -> None:
    made: list[int] = []
    events = [threading.Event() for _ in range(4)]

    def prepare(item: int) -> int:
        made.append(item)
        events[item].set()
        return item

    with one_ahead(prepare, range(4)) as results:
        for used in results:
            if used < 3:
                assert events[used + 1].wait(30)
            assert made == list(range(min(used + 2, 4)))


def test_an_error_is_raised_where_its_result_would_be() -> None:
    used: list[int] = []

    def use_all() -> None:
        with one_ahead(lambda item: 6 // item, [3, 2, 0, 1]) as results:
            used.extend(results)

    with pytest.raises(ZeroDivisionError):
        use_all()
    assert used == [2, 3]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_whoever_leaves_early_waits_for_the_thread(error: type[BaseException]) -> None:
    begun, go_on = threading.Event(), threading.Event()
    ended: list[int] = []

    def prepare(item: int) -> int:
        if item:
            begun.set()
            assert go_on.wait(30)
            ended.append(item)
        return item

    def leave() -> None:
        with one_ahead(prepare, range(9)) as results:
            next(results)
            assert begun.wait(30)
            assert len(threads()) == 1
            threading.Timer(0.05, go_on.set).start()  # when the context is being left
            raise error

    with pytest.raises(error):
        leave()
    assert ended == [1]
