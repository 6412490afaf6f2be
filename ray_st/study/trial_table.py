"""The table of a search's trials: a CSV file, and rows for the report."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from ray_st.study.constraints import reached
from ray_st.study.trial_record import TrialRecord, describe_change, objective_names
from ray_st.util.atomic import write_whole

TABLE = "trials.csv"


def table_rows(trials: Sequence[TrialRecord], objectives: int) -> list[list[object]]:
    """The header, and a row for each trial; with constraints, whether it satisfies them, and its metrics.

    Args:
        trials: The trials.
        objectives: How many objectives there are.
    """
    names = list(dict.fromkeys(name for trial in trials for name in trial.values))
    facts = ["evaluations", "step", "samples", "seconds"]
    bounds = list(dict.fromkeys(text for trial in trials for text in trial.violations))
    verdict = ["feasible", *bounds] if bounds else []
    changes = any(trial.changes for trial in trials)
    ends = ["changes", "reason"] if changes else ["reason"]
    rows: list[list[object]] = [
        ["number", "name", "state", *objective_names(objectives), *verdict, *facts, *names, *ends]
    ]
    for trial in trials:
        scores = trial.objectives or ("",) * objectives
        counts = [len(trial.history), trial.step, trial.samples, round(trial.seconds, 2)]
        values = [_cell(trial.values[name]) if name in trial.values else "" for name in names]
        copied = ["; ".join(map(describe_change, trial.changes))] if changes else []
        kept = [_feasible(trial), *(reached(trial, text) for text in bounds)] if bounds else []
        start = [trial.number, trial.name, trial.state, *scores, *kept]
        rows.append([*start, *counts, *values, *copied, trial.reason])
    return rows


def _cell(value: object) -> object:
    """A hyperparameter's value: lists and dicts as JSON, so that programs can read them.

    A choice of None is written as such: an empty cell is a parameter that the trial does not have.
    """
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return "None" if value is None else value


def _feasible(trial: TrialRecord) -> str:
    """Whether a trial satisfies the constraints; empty before its first evaluation."""
    return ("yes" if trial.is_feasible else "no") if trial.violations else ""


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
