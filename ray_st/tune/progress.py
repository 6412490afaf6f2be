"""What a user sees of a search while it runs, and what is tidied up behind it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray_st.training.progress import write_line
from ray_st.tune.objective import Objective
from ray_st.tune.records import TABLE, TrialRecord, write_table
from ray_st.tune.study import Study

_WORDS = {"COMPLETE": "complete", "PRUNED": "stopped early", "FAIL": "FAILED"}


class Progress:
    """Writes a line for each finished trial, and keeps the table of trials up to date.

    Args:
        study: The study.
        objective: The objective.
        folder: Where the table is.
        write: Writes one line to the user.
    """

    def __init__(
        self, study: Study, objective: Objective, folder: Path, write: Callable[[str], None] = write_line
    ) -> None:
        self._study, self._objective, self._folder, self._write = study, objective, folder, write

    def begin(self) -> None:
        """Says what the search is about to do."""
        done = len(self._study.records) - sum(record.state == "RUNNING" for record in self._study.records)
        went_on = f", {done} of them done before" if done else ""
        self._write(
            f"search {self._folder.name!r}: {done + self._study.left} trials{went_on}; records in {self._folder}; started "
            f"again with name={self._folder.name!r} it goes on where it was"
        )
        self._table()

    def ended(self, record: TrialRecord) -> None:
        """Tells of a trial's end."""
        self._table()
        self._write(f"{describe_trial(record)}{self._best(record)}")

    def _best(self, record: TrialRecord) -> str:
        best = self._study.best()
        if len(self._objective.directions) > 1:
            return f"; {len(best)} on the front" if best else ""
        return f"; best: trial {best[0].number} with {best[0].objectives[0]:.6g}" if best else ""

    def _table(self) -> None:
        write_table(self._folder / TABLE, self._study.records, len(self._objective.directions))


def describe_trial(record: TrialRecord) -> str:
    """A finished trial in one line: value, how it ended, at which step and after how long, and its parameters."""
    scores = ", ".join(f"{value:.6g}" for value in record.objectives) or "no value"
    name = f" ({record.name})" if record.name else ""
    parameters = ", ".join(f"{key}={_short(value)}" for key, value in record.values.items())
    reason = f" ({record.reason})" if record.reason else ""
    return (
        f"trial {record.number}{name}: {scores}, {_WORDS.get(record.state, record.state)}{reason} at step {record.step}, "
        f"{record.seconds:.1f} s; {parameters}"
    )


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def drop_checkpoints(study: Study, store_of: Callable[[int], Any], keep: int) -> None:
    """Deletes the checkpoints of finished trials but the best.

    Args:
        study: The study.
        store_of: Gives the store of a trial's checkpoints.
        keep: Of how many finished trials they are kept; of running ones they always are.
    """
    kept = {record.number for record in study.best(keep)}
    for record in study.records:
        if record.state != "RUNNING" and record.number not in kept:
            store = store_of(record.number)
            for step in store.steps():
                store.delete(step)
