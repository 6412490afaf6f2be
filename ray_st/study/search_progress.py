"""What a user sees of a search while it runs: a line for each finished trial, and on a terminal the running ones."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ray_st.study.hparams import write_hparams
from ray_st.study.journal import TABLE, TrialRecord, describe_change, short, write_table
from ray_st.study.live_lines import LiveLines
from ray_st.study.objective import finite
from ray_st.study.study import Study
from ray_st.util.events import notes

_WORDS = {"COMPLETE": "complete", "PRUNED": "stopped early", "FAIL": "FAILED"}
_ROWS = 12
"""Most running trials in the live table."""


class SearchProgress:
    """Tells of a search's trials, and keeps their table and their HParams up to date.

    Args:
        study: The study.
        objectives: How many objectives there are.
        folder: Where the table is.
        tensorboard: Whether trials are written for TensorBoard's HParams.
        live: A terminal's live lines; None for plain lines only.
    """

    def __init__(
        self, study: Study, objectives: int, folder: Path, tensorboard: bool, live: LiveLines | None
    ) -> None:
        self._study, self._objectives, self._folder = study, objectives, folder
        self._tensorboard, self._live = tensorboard, live
        self._write: Callable[[str], None] = live.above if live is not None else notes.info

    @classmethod
    def of(cls, study: Study, objectives: int, folder: Path, tensorboard: bool) -> SearchProgress:
        """The progress of a search on this process's standard output."""
        live = LiveLines(sys.stdout) if sys.stdout.isatty() else None
        return cls(study, objectives, folder, tensorboard, live)

    def begin(self) -> None:
        """Says what the search is about to do."""
        done = len(self._study.records) - sum(record.state == "RUNNING" for record in self._study.records)
        went_on = f", {done} of them done before" if done else ""
        self._write(
            f"search {self._folder.name!r}: {done + self._study.left} trials{went_on}; records in {self._folder}; started "
            f"again with name={self._folder.name!r} it goes on where it was"
        )
        self._table()

    def reported(self) -> None:
        """Shows where the running trials are."""
        if self._live is not None:
            lines = running_lines(self._study.records, self._study.waiting(), time.time())
            self._live.show([*lines, self._best()])

    def changed(self, record: TrialRecord) -> None:
        """Tells that a trial went on as a copy of another."""
        self._table()
        self._write(f"trial {record.number} {describe_change(record.changes[-1])}")

    def ended(self, record: TrialRecord) -> None:
        """Tells of a trial's end."""
        self._table()
        if self._tensorboard and record.objectives and finite(record.objectives):
            write_hparams(self._folder, record)
        best = self._best()
        self._write(f"{describe_trial(record)}{'; ' if best else ''}{best}")
        self.reported()

    def finished(self) -> None:
        """Takes the live table away."""
        if self._live is not None:
            self._live.show([])

    def _best(self) -> str:
        best = self._study.best()
        if self._objectives > 1:
            return f"{len(best)} on the front" if best else ""
        return f"best: trial {best[0].number} with {best[0].objectives[0]:.6g}" if best else ""

    def _table(self) -> None:
        write_table(self._folder / TABLE, self._study.records, self._objectives)


def running_lines(records: Sequence[TrialRecord], waiting: Sequence[int], now: float) -> list[str]:
    """A line for each running trial, the longest running first.

    Args:
        records: All trials.
        waiting: Those that wait for others, by number.
        now: The time, in seconds since 1970.
    """
    running = [record for record in records if record.state == "RUNNING" and record.number not in waiting]
    lines = [
        f"  trial {record.number}: {_scores(record)} after {len(record.history)} evaluations, step {record.step}, "
        f"{record.seconds + now - record.spans[-1][1]:.0f} s; {_parameters(record)}"
        for record in running[:_ROWS]
    ]
    more = len(running) - len(lines)
    resting = f", {len(waiting)} waiting for others" if waiting else ""
    return [f"{len(running)} running{resting}:", *lines, *([f"  and {more} more"] if more else [])]


def describe_trial(record: TrialRecord) -> str:
    """A finished trial in one line: value, how it ended, at which step and after how long, and its parameters."""
    name = f" ({record.name})" if record.name else ""
    reason = f" ({' '.join(record.reason.split())})" if record.reason else ""
    return (
        f"trial {record.number}{name}: {_scores(record)}, {_WORDS.get(record.state, record.state)}{reason} "
        f"at step {record.step}, {record.seconds:.1f} s; {_parameters(record)}"
    )


def _scores(record: TrialRecord) -> str:
    return ", ".join(f"{value:.6g}" for value in record.objectives) or "no value"


def _parameters(record: TrialRecord) -> str:
    return ", ".join(f"{name}={short(value)}" for name, value in record.values.items())
