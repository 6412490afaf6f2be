"""What a user sees of a running search: a line per finished trial, and on a terminal the running ones."""

from __future__ import annotations

import importlib
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from ray_st.study.constraints import describe_violations
from ray_st.study.objective import finite
from ray_st.study.study import Study
from ray_st.study.trial_record import WORDS, TrialRecord, describe_change, objective_names, short
from ray_st.study.trial_table import TABLE, write_table
from ray_st.util.events import notes

_ROWS = 12
"""Most running trials in the live table."""
_TENSORBOARD = "tensorboard"
_UP_AND_CLEAR = "\x1b[{count}F\x1b[J"


class SearchProgress:
    """Reports a search's trials, and keeps their table and their HParams up to date.

    Args:
        study: The study.
        objectives: How many objectives there are.
        folder: Where the table is.
        tensorboard: Whether to write trials for TensorBoard's HParams.
        live: A terminal's live lines; None for plain lines only.
    """

    def __init__(
        self, study: Study, objectives: int, folder: Path, tensorboard: bool, live: LiveLines | None
    ) -> None:
        self._study, self._objectives, self._folder = study, objectives, folder
        self._tensorboard, self._live = tensorboard, live
        self._said_terminated = False
        self._write: Callable[[str], None] = live.above if live is not None else notes.info

    @classmethod
    def of(cls, study: Study, objectives: int, folder: Path, tensorboard: bool) -> SearchProgress:
        """The progress of a search on this process's standard output."""
        live = LiveLines(sys.stdout) if sys.stdout.isatty() else None
        return cls(study, objectives, folder, tensorboard, live)

    def begin(self) -> None:
        """Announces the search."""
        done = sum(not record.is_running for record in self._study.records)
        before = f", {done} of them done before" if done else ""
        self._terminated()
        self._write(
            f"search {self._folder.name!r}: {done + self._study.left} trials{before}; records in "
            f"{self._folder}; if interrupted, start it again with name={self._folder.name!r} to continue"
        )
        self._table()

    def reported(self) -> None:
        """Shows where the running trials are."""
        if self._live is not None:
            shown = [self._shown(record) for record in self._study.records]
            lines = running_lines(shown, self._study.waiting(), time.time())
            self._live.show([*lines, self._best()])

    def changed(self, record: TrialRecord) -> None:
        """Reports that a trial became a copy of another."""
        self._table()
        self._write(f"trial {record.number} {describe_change(record.changes[-1])}")

    def ended(self, record: TrialRecord) -> None:
        """Reports a trial's end."""
        self._table()
        if self._tensorboard and record.objectives and finite(record.objectives):
            write_hparams(self._folder, record)
        best = self._best()
        self._write(f"{describe_trial(self._shown(record))}{'; ' if best else ''}{best}")
        self._terminated()
        self.reported()

    def _terminated(self) -> None:
        """Says once that and why there will be no more trials."""
        if self._study.terminated and not self._said_terminated:
            self._said_terminated = True
            self._write(f"no more trials: {self._study.terminated}; running ones end as usual")

    def finished(self) -> None:
        """Removes the live table."""
        if self._live is not None:
            self._live.show([])

    def _shown(self, record: TrialRecord) -> TrialRecord:
        """A trial as it is named to the user."""
        return record

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
    running = [record for record in records if record.is_running and record.number not in waiting]
    lines = [
        f"  trial {record.number}: {_scores(record)} after {len(record.history)} evaluations, step "
        f"{record.step}, {record.seconds + now - record.spans[-1][1]:.0f} s; {_parameters(record)}"
        for record in running[:_ROWS]
    ]
    more = len(running) - len(lines)
    resting = f", {len(waiting)} waiting for others" if waiting else ""
    return [f"{len(running)} running{resting}:", *lines, *([f"  and {more} more"] if more else [])]


def describe_trial(record: TrialRecord) -> str:
    """A finished trial in one line: value, how it ended, step, time, and hyperparameters."""
    name = f" ({record.name})" if record.name else ""
    why = record.reason or ("" if record.is_feasible else f"violates {describe_violations(record)}")
    reason = f" ({' '.join(why.split())})" if why else ""
    return (
        f"trial {record.number}{name}: {_scores(record)}, {_ending(record)}{reason} "
        f"at step {record.step}, {record.seconds:.1f} s; {_parameters(record)}"
    )


def _ending(record: TrialRecord) -> str:
    return "FAILED" if record.state == "FAIL" else WORDS[record.state]


def _scores(record: TrialRecord) -> str:
    return ", ".join(f"{value:.6g}" for value in record.objectives) or "no value"


def _parameters(record: TrialRecord) -> str:
    return ", ".join(f"{name}={short(value)}" for name, value in record.values.items())


class LiveLines:
    """A block of lines that is rewritten in place.

    Args:
        stream: A terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown: list[str] = []

    def show(self, lines: Sequence[str]) -> None:
        """Writes the block, cut to the terminal's width: a wrapped line could not be overwritten."""
        width = shutil.get_terminal_size().columns - 1
        self._replace("", [line[:width] for line in lines])

    def above(self, line: str) -> None:
        """Writes a line above the block; it stays."""
        self._replace(f"{line}\n", self._shown)

    def _replace(self, text: str, block: list[str]) -> None:
        back = _UP_AND_CLEAR.format(count=len(self._shown)) if self._shown else ""
        self._stream.write(back + text + "".join(f"{line}\n" for line in block))
        self._stream.flush()
        self._shown = block


def write_hparams(folder: Path, trial: TrialRecord) -> None:
    """Writes a finished trial, with the curve of its objective.

    ``tensorboard --logdir`` on the search's folder shows it.

    Args:
        folder: The search's folder.
        trial: The trial.
    """
    names = objective_names(len(trial.objectives))
    values = {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in trial.values.items()
    }
    writer_class = importlib.import_module("tensorboardX").SummaryWriter  # Ray Tune depends on it
    with writer_class(str(folder / _TENSORBOARD / f"trial-{trial.number}")) as writer:
        for event in trial.history[:-1]:
            for name, value in zip(names, event["objectives"], strict=True):
                writer.add_scalar(name, value, event["step"])
        last = dict(zip(names, trial.objectives, strict=True))
        writer.add_hparams(values, last, name=".", global_step=trial.step)
