"""Stopping a search: no trial is started, running ones end at their next evaluation and continue later."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray import tune

from ray_st.runtime.tune.trial_loop import BROKEN
from ray_st.util.signals import StopSignals


class SearchStop:
    """Whether a search was asked to stop; set from any thread, read by what hands out trials.

    Attributes:
        asked: Whether it was.
    """

    def __init__(self) -> None:
        self.asked = False

    def ask(self) -> None:
        """Asks the search to stop."""
        self.asked = True


class StopAtEvaluation(tune.Stopper):
    """Makes Ray Tune end a trial that broke a constraint for good, and all once the search is asked to stop.

    Args:
        stop: The search's.
    """

    def __init__(self, stop: SearchStop) -> None:
        self._stop = stop

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether a trial ends with this report."""
        return self._stop.asked or BROKEN in result

    def stop_all(self) -> bool:
        """Never: running trials may finish their evaluation."""
        return False


@contextmanager
def stopping_at_sigterm(stop: SearchStop) -> Iterator[None]:
    """Turns the driver's first SIGTERM into a request to stop, while the context is open.

    Args:
        stop: The search's.
    """
    effect = "the search stops after the evaluations that are running"
    with StopSignals(stop.ask, effect, [signal.SIGTERM]).taken():
        yield
