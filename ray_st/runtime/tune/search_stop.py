"""Telling a search to stop: no trial is begun any more, and those that run end with their next evaluation, to go on later."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray import tune

from ray_st.runtime.supervision.supervisor import at_sigterm
from ray_st.util.events import event


class SearchStop:
    """Whether a search was told to stop; asked from any thread, read by what hands out trials.

    Attributes:
        asked: Whether it was.
    """

    def __init__(self) -> None:
        self.asked = False

    def ask(self) -> None:
        """Asks the search to stop."""
        self.asked = True


class StopAtEvaluation(tune.Stopper):
    """Has Ray Tune end trials with their next evaluation once the search was told to stop.

    Args:
        stop: Says so.
    """

    def __init__(self, stop: SearchStop) -> None:
        self._stop = stop

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether a trial ends with this report."""
        return self._stop.asked

    def stop_all(self) -> bool:
        """Never: what runs may end its evaluation."""
        return False


@contextmanager
def stopping_at_sigterm(stop: SearchStop) -> Iterator[None]:
    """Turns the first SIGTERM of the driver into a wish to stop, while the context is open.

    Args:
        stop: The search's.
    """

    def ask() -> None:
        event("stop.asked", "SIGTERM: the search stops after the evaluations that are running", by="SIGTERM")
        stop.ask()

    with at_sigterm(ask):
        yield
