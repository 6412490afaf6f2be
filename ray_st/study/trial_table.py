"""The table of a search's trials: a CSV file, and rows for the report."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from ray_st.study.trial_record import TrialRecord, describe_change, objective_names
from ray_st.util.atomic import write_whole

TABLE = "trials.csv"


def table_rows(trials: Sequence[TrialRecord], objectives: int) -> list[list[object]]:
    """The header, and a row for each trial.

    Args:
        trials: The trials.
        objectives: How many objectives there are.
    """
    names = list(dict.fromkeys(name for trial in trials for name in trial.values))
    facts = ["evaluations", "step", "samples", "seconds"]
    changes = any(trial.changes for trial in trials)
    ends = ["changes", "reason"] if changes else ["reason"]
    rows: list[list[object]] = [
        ["number", "name", "state", *objective_names(objectives), *facts, *names, *ends]
    ]
    for trial in trials:
        scores = trial.objectives or ("",) * objectives
        counts = [len(trial.history), trial.step, trial.samples, round(trial.seconds, 2)]
        values = [trial.values.get(name, "") for name in names]
        copied = ["; ".join(map(describe_change, trial.changes))] if changes else []
        rows.append([trial.number, trial.name, trial.state, *scores, *counts, *values, *copied, trial.reason])
    return rows


def write_table(path: Path, trials: Sequence[TrialRecord], objectives: int) -> None:
    """Writes the table as a CSV file, replacing it atomically.

    Args:
        path: The file.
        trials: The trials.
        objectives: How many objectives there are.
    """
    text = io.StringIO()
    csv.writer(text).writerows(table_rows(trials, objectives))
    write_whole(path, text.getvalue())
