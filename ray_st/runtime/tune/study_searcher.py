"""A study as a searcher of Ray Tune that records how trials really ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ray.tune.search import Searcher

from ray_st.runtime.tune.hung_trials import HANG
from ray_st.runtime.tune.search_stop import SearchStop
from ray_st.runtime.tune.trial_loop import BROKEN, KNOWN, NAME, NUMBER, VALUES
from ray_st.study.patient_storage import StorageLost
from ray_st.study.study import Study
from ray_st.study.trial_record import TrialRecord
from ray_st.study.watcher import Watcher


def configured(record: TrialRecord) -> dict[str, Any]:
    """What Ray Tune hands to a trial."""
    return {
        NUMBER: record.number,
        VALUES: record.values,
        NAME: record.name,
        KNOWN: record.evaluations,
    }


class StudySearcher(Searcher):
    """A study as a searcher of Ray Tune that records how trials really ended.

    Args:
        study: The study.
        limit: Gives the most trials at a time, for the cluster's current size.
        watcher: Called after an evaluation or an end is recorded.
        stop: Whether the search was asked to stop; trials that end then are left to continue later.

    Attributes:
        fatal: Why every further trial would fail as well; the search ends then.
        lost: The error of a storage that stopped answering; no more trials start, and what running ones
            report is in the journal.
    """

    def __init__(self, study: Study, limit: Callable[[], int], watcher: Watcher, stop: SearchStop) -> None:
        super().__init__(metric="objective", mode="max")  # schedulers get theirs from the tuner
        self._study, self._limit, self._watcher, self._stop = study, limit, watcher, stop
        self._numbers: dict[str, int] = {}
        self._hangs: dict[str, str] = {}
        self.fatal: str | None = None
        self.lost: StorageLost | None = None

    @contextmanager
    def _mirrored(self) -> Iterator[None]:
        """Within this context the storage may be lost: Ray would take that for a trial's failure."""
        try:
            yield
        except StorageLost as error:
            self.lost, self.fatal = error, str(error)

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any
    ) -> bool:
        """Takes nothing from the tuner: the study knows its space and directions."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next trial's configuration; None while there is no room, FINISHED when there are enough."""
        if self.fatal is not None or self._stop.asked:
            return Searcher.FINISHED
        if len(self._numbers) >= self._limit():
            return None
        asked = None
        with self._mirrored():
            asked = self._study.ask()
        if asked is None:
            return Searcher.FINISHED
        self._numbers[trial_id] = asked.number
        return configured(asked)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Records an evaluation, or that the trial hangs and its process ends."""
        if HANG in result:
            self._hangs[trial_id] = str(result[HANG])
        if trial_id in self._numbers and "objective" in result:
            with self._mirrored():
                self._study.report(self._numbers[trial_id], **_evaluation(result))
                self._watcher.reported()

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Records how a trial ended; to Ray, stopped, failed and finished ones are all just done."""
        number = self._numbers.pop(trial_id, None)
        if number is None:
            return
        found = result or {}
        if "objective" in found:
            with self._mirrored():
                self._study.report(number, **_evaluation(found))
        if self._stop.asked and not error and not found.get("ended") and "fault" not in found:
            return  # it continues when the search does
        if "objective" not in found and not error and self._study.records[number].history:
            found = {"objective": None, "ended": False, **found}  # it was stopped while it waited
        state, reason = ending(found, error)
        if error and trial_id in self._hangs:
            reason = self._hangs[trial_id]
        if found.get("fatal"):
            self.fatal = reason
        with self._mirrored():
            self._watcher.ended(self._study.tell(number, state, reason))

    def stop_rest(self) -> None:
        """Records that the trials still running when the time was up were stopped."""
        for number in () if self._stop.asked else self._numbers.values():
            with self._mirrored():
                self._watcher.ended(self._study.tell(number, "PRUNED"))
        self._numbers.clear()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray Tune pickles a searcher for its own way of restoring, which would copy the study."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study writes down each event."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


def ending(result: Mapping[str, Any], error: bool) -> tuple[str, str]:
    """How a trial ended, and why if it failed or broke a constraint.

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
    return ("COMPLETE" if result["ended"] else "PRUNED"), str(result.get(BROKEN, ""))


def _evaluation(result: Mapping[str, Any]) -> dict[str, Any]:
    violations = _below("violations/", result)
    return {
        **{name: result[name] for name in ("evaluation", "step", "ended", "objectives", "samples")},
        **({"violations": violations} if violations else {}),
        "seconds": result["seconds_here"],
        "metrics": _below("metrics/", result),
    }


def _below(prefix: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """A dict in a report, which Ray has flattened."""
    return {name.removeprefix(prefix): value for name, value in result.items() if name.startswith(prefix)}
