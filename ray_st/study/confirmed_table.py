"""The finalists of a search as text: a CSV file, rows for the report, sentences for people."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from ray_st.study.confirmed import Confirmed, Finalist
from ray_st.study.next_seed import LEVEL
from ray_st.study.trial_record import TrialRecord
from ray_st.util.atomic import write_whole

CONFIRMED = "confirmed.csv"

_HEAD: list[object] = [
    *("trial", "in the search", "mean", "standard deviation", "min", "max"),
    *("expected from", "expected to", "seeds", "rows", "seconds", "chosen", "failed"),
]


def finalist_rows(confirmed: Confirmed) -> list[list[object]]:
    """The header, and a row for each finalist, in their order; rows and seconds are those of one training.

    Args:
        confirmed: The finalists.
    """
    return [_HEAD, *(_row(one, one is confirmed.winner) for one in confirmed.finalists)]


def _row(one: Finalist, chosen: bool) -> list[object]:
    low, high = one.expected or ("", "")
    figures: list[object] = [one.mean, "" if one.deviation is None else one.deviation, one.low, one.high]
    failed = "; ".join(f"seed {seed}: {reason or 'no reason known'}" for seed, reason in one.failures.items())
    return [
        *(one.number, one.searched, *(figures if one.values else [""] * 4), low, high, len(one.values)),
        *(round(one.rows), round(one.seconds, 2), "yes" if chosen else "", failed),
    ]


def write_finalists(path: Path, confirmed: Confirmed) -> None:
    """Writes the finalists as a CSV file, replacing it atomically.

    Args:
        path: The file.
        confirmed: The finalists.
    """
    text = io.StringIO()
    csv.writer(text).writerows(finalist_rows(confirmed))
    write_whole(path, text.getvalue())


def describe_finalist(one: Finalist) -> str:
    """A finalist in one line: its mean with its spread, its value in the search, what to expect.

    Args:
        one: The finalist.
    """
    spread = "" if one.deviation is None else f" ± {one.deviation:.2g}"
    expects = f", another seed is expected at {_range(one)}" if one.expected else ""
    return (
        f"trial {one.number} with {one.mean:.6g}{spread} over {_count(len(one.values), 'seed')} "
        f"({one.searched:.6g} in the search){expects}"
    )


def reason_of_choice(confirmed: Confirmed) -> str:
    """Why the winner was chosen, as a sentence; empty if there is none.

    Args:
        confirmed: The finalists.
    """
    winner = confirmed.winner
    if winner is None:
        return ""
    best = confirmed.finalists[0]
    if winner is best:
        return f"Trial {winner.number} is chosen: it has the best mean."
    return (
        f"Trial {winner.number} is chosen: trial {best.number}, which has the best mean, is no more than a "
        f"standard error better, and a training takes {winner.seconds:.3g} s instead of {best.seconds:.3g} s."
    )


def describe_confirmed(confirmed: Confirmed) -> str:
    """How the finalists were confirmed, in a few sentences.

    Args:
        confirmed: The finalists.
    """
    winner = confirmed.winner
    count = len(confirmed.finalists)
    words = [
        f"The best {'trial' if count == 1 else f'{count} trials'}, trained again with fresh seeds: values of "
        "the search are those of its luckiest trials."
    ]
    if winner is not None:
        words.append(reason_of_choice(confirmed))
        if winner.expected:
            words.append(f"Another seed is expected at {_range(winner)} ({100 * LEVEL:.0f} %).")
    for one in confirmed.finalists:
        for seed in one.failures:
            words.append(f"Trial {one.number} failed with seed {seed}, and so ranks behind.")
    if confirmed.left:
        words.append(f"{_count(confirmed.left, 'training')} to come: nothing is final.")
    words.append(describe_cost(confirmed))
    return " ".join(words)


def describe_cost(confirmed: Confirmed) -> str:
    """What the trainings of finalists cost, as a sentence.

    Args:
        confirmed: The finalists.
    """
    return f"{_count(confirmed.runs, 'training')}, {confirmed.rows:,} rows, {confirmed.seconds:,.0f} s."


def describe_luck(complete: int, best: TrialRecord) -> str:
    """What the best value of a search is without confirmation.

    Args:
        complete: How many trials were completed.
        best: The best of them.
    """
    return (
        f"The value of trial {best.number} is the best of {_count(complete, 'complete trial')}, and so in "
        "part luck: expect less of another seed. confirm=3 trains the best few again with fresh seeds."
    )


def _range(one: Finalist) -> str:
    low, high = one.expected or (one.mean, one.mean)
    return f"{low:.4g} to {high:.4g}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
