"""A study as a searcher of Ray Tune, truthful about how trials end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ray.tune.search import Searcher

from ray_st.runtime.tune.hung_trials import HANG
from ray_st.runtime.tune.search_stop import SearchStop
from ray_st.runtime.tune.trial_loop import KNOWN, NAME, NUMBER, VALUES


class Record(Protocol):
    """What is known of a trial."""

    number: int
    values: dict[str, Any]
    name: str
    state: str
    history: list[dict[str, Any]]
    changes: list[dict[str, Any]]


def configured(record: Record) -> dict[str, Any]:
    """What Ray Tune hands to a trial."""
    return {
        NUMBER: record.number,
        VALUES: record.values,
        NAME: record.name,
        KNOWN: evaluations(record),
    }


def evaluations(record: Record) -> int:
    """How many evaluations of a trial there are so far."""
    return int(record.history[-1]["evaluation"]) if record.history else 0


class Study(Protocol):
    """Suggests parameters and is told what became of them."""

    @property
    def left(self) -> int:
        """How many trials are still to be run."""

    @property
    def records(self) -> Sequence[Record]:
        """The trials so far."""

    @property
    def to_come(self) -> int:
        """How many trials are still to be suggested."""

    def ask(self, ready: Callable[[Any], bool] = ...) -> Record | None:
        """The next trial, of those that were left running one that is ready; None if there is none."""

    def went_on(self, number: int) -> None:
        """Notes that a trial runs again."""

    def copied(self, number: int, evaluation: int, source: int, step: int, values: Mapping[str, Any]) -> None:
        """Notes that a trial goes on as a copy of another."""

    def report(self, number: int, evaluation: int, step: int, objectives: Any, **facts: Any) -> None:
        """Notes an evaluation."""

    def tell(self, number: int, state: str, reason: str = "") -> Any:
        """Notes how a trial ended."""


class Watcher(Protocol):
    """Is told what happens in a search."""

    def reported(self) -> None:
        """An evaluation was noted."""

    def changed(self, record: Any) -> None:
        """It was noted that a trial goes on as a copy of another."""

    def ended(self, record: Any) -> None:
        """A trial's end was noted."""


class StudySearcher(Searcher):
    """A study as a searcher of Ray Tune, truthful about how trials end.

    Args:
        study: The study.
        limit: Gives the most trials at a time, as the cluster is now.
        watcher: Is told of evaluations and ends after they are noted.
        stop: Whether the search was told to stop; trials that end then are left to go on later.

    Attributes:
        spoilt: Why no other trial would do better; the search ends then.
    """

    def __init__(self, study: Study, limit: Callable[[], int], watcher: Watcher, stop: SearchStop) -> None:
        super().__init__(metric="objective", mode="max")  # schedulers get theirs from the tuner
        self._study, self._limit, self._watcher, self._stop = study, limit, watcher, stop
        self._numbers: dict[str, int] = {}
        self._hangs: dict[str, str] = {}
        self.spoilt: str | None = None

    def set_search_properties(self, metric: Any, mode: Any, config: Any, **spec: Any) -> bool:
        """Takes nothing from the tuner: the study knows its space and directions."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next trial's configuration; None while there is no room, FINISHED when there are enough."""
        if self.spoilt is not None or self._stop.asked:
            return Searcher.FINISHED
        if len(self._numbers) >= self._limit():
            return None
        asked = self._study.ask()
        if asked is None:
            return Searcher.FINISHED
        self._numbers[trial_id] = asked.number
        return configured(asked)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Notes an evaluation, or that the trial hangs and its process ends."""
        if HANG in result:
            self._hangs[trial_id] = str(result[HANG])
        if trial_id in self._numbers and "objective" in result:
            self._study.report(self._numbers[trial_id], **_evaluation(result))
            self._watcher.reported()

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Notes how a trial ended; Ray says of stopped, failed and finished ones only that they are done."""
        number = self._numbers.pop(trial_id, None)
        if number is None:
            return
        found = result or {}
        if "objective" in found:
            self._study.report(number, **_evaluation(found))
        if self._stop.asked and not error and not found.get("ended") and "fault" not in found:
            return  # it goes on when the search does
        if "objective" not in found and not error and self._study.records[number].history:
            found = {"objective": None, "ended": False, **found}  # it was stopped while it waited
        state, reason = ending(found, error)
        if error and trial_id in self._hangs:
            reason = self._hangs[trial_id]
        if found.get("spoils_search"):
            self.spoilt = reason
        self._watcher.ended(self._study.tell(number, state, reason))

    def stop_rest(self) -> None:
        """Notes that trials were stopped that ran when the time was up."""
        for number in () if self._stop.asked else self._numbers.values():
            self._watcher.ended(self._study.tell(number, "PRUNED"))
        self._numbers.clear()

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study writes down each event."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


def ending(result: Mapping[str, Any], error: bool) -> tuple[str, str]:
    """How a trial ended, and why if it failed.

    Args:
        result: Its last report.
        error: Whether its process was lost or raised.
    """
    if "fault" in result:
        return "FAIL", str(result["fault"])
    if error:
        return "FAIL", "its process was lost, or raised an error; see the log of the trial"
    if "objective" not in result:
        return "FAIL", "it ended without an evaluation"
    return ("COMPLETE" if result["ended"] else "PRUNED"), ""


def _evaluation(result: Mapping[str, Any]) -> dict[str, Any]:
    prefix = "metrics/"
    return {
        "evaluation": result["evaluation"],
        "step": result["step"],
        "ended": result["ended"],
        "objectives": result["objectives"],
        "samples": result["samples"],
        "seconds": result["seconds_here"],
        "metrics": {k.removeprefix(prefix): v for k, v in result.items() if k.startswith(prefix)},
    }
