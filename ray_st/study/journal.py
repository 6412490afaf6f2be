"""A search's journal: one JSON line per event, from which a killed search is restored."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray_st.study.trial_record import TrialRecord

JOURNAL = "journal.jsonl"


class RecordError(ValueError):
    """A search's folder cannot be used to continue the search."""


@dataclass
class Past:
    """What the events of a journal describe.

    Args:
        records: The trials, by number.
        evaluations: The number of a trial and one of its evaluations, in the order of their reports.
        terminated: Why a terminator ended the search; empty if none did.
    """

    records: list[TrialRecord] = field(default_factory=list)
    evaluations: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    terminated: str = ""


class Journal:
    """Events, one JSON line each. An event is on disk before anything acts on it.

    Args:
        path: The file. An incomplete last line is dropped.
        check_fence: Called before each event; raises if another driver has taken the folder. None where
            nobody else can write.
    """

    def __init__(self, path: Path, check_fence: Callable[[], None] | None = None) -> None:
        self._path, self._check_fence = path, check_fence

    def read(self) -> list[dict[str, Any]]:
        """The events so far.

        Raises:
            RecordError: If a line other than the last is not an event; names the line.
        """
        if not self._path.exists():
            return []
        whole, _, torn = self._path.read_bytes().rpartition(b"\n")
        if torn:
            os.truncate(self._path, len(whole) + 1 if whole else 0)
        return [self._event(line, number) for number, line in enumerate(whole.splitlines(), 1)]

    def _event(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            event: dict[str, Any] = json.loads(line)
        except ValueError as error:
            raise self._damaged(number, str(error)) from error
        fault = event_fault(event)
        if fault is not None:
            raise self._damaged(number, fault)
        return event

    def _damaged(self, line: int, fault: str) -> RecordError:
        return RecordError(
            f"{self._path} is damaged: line {line} is not an event of a search ({fault}). Delete the line to "
            "continue without it, or start the search under another name."
        )

    def records(self) -> list[TrialRecord]:
        """The trials that the events describe, by number.

        Raises:
            RecordError: If the file is damaged; names the line.
        """
        return self.past().records

    def past(self) -> Past:
        """All that the events describe.

        Raises:
            RecordError: If the file is damaged; names the line.
        """
        past = Past()
        for line, event in enumerate(self.read(), 1):
            fault = order_fault(past.records, event)
            if fault is not None:
                raise self._damaged(line, fault)
            apply(past.records, event)
            if event["event"] == "reported":
                past.evaluations.append((event["number"], past.records[event["number"]].history[-1]))
            elif event["event"] == TERMINATED:
                past.terminated = str(event["reason"])
        return past

    def append(self, **event: Any) -> dict[str, Any]:
        """Writes an event, with the time, and returns what was written.

        Raises:
            LeaseLost: If another driver has taken the search's folder.
        """
        if self._check_fence is not None:
            self._check_fence()
        event["time"] = round(time.time(), 3)
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(event) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        return event


TERMINATED = "terminated"
"""The event after which no more trials are suggested; its number is that of the trial that was complete."""

ENDS = ("COMPLETE", "PRUNED", "FAIL")
"""How trials end."""

_FACTS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "asked": {"values": dict, "params": dict, "distributions": dict, "name": str},
    "reported": {"evaluation": int, "step": int, "objectives": list},
    "resumed": {},
    "copied": {"evaluation": int, "source": int, "step": int, "values": dict},
    "told": {"state": str, "reason": str},
    TERMINATED: {"reason": str},
}
"""What each kind of event holds, besides the trial's number and the time."""


def event_fault(event: object) -> str | None:
    """What is wrong with an event by itself; None if nothing is.

    Args:
        event: What a line of a journal holds.
    """
    if not isinstance(event, dict):
        return f"found {as_json(event)}"
    kind = event.get("event")
    if not isinstance(kind, str) or kind not in _FACTS:
        return f"unknown event {kind!r}"
    for name, types in {"number": int, "time": (int, float), **_FACTS[kind]}.items():
        if not isinstance(event.get(name), types):
            return f"{kind}: {name} is {as_json(event.get(name))}"
    if kind == "told" and event["state"] not in ENDS:
        return f"told: state is {as_json(event['state'])}"
    return None


def as_json(value: object) -> str:
    """A value as JSON, shortened for error messages."""
    text = json.dumps(value)
    return text if len(text) <= 300 else text[:297] + "..."


def order_fault(trials: Sequence[TrialRecord], event: Mapping[str, Any]) -> str | None:
    """What is wrong with an event after those before it; None if nothing is.

    Args:
        trials: The trials so far.
        event: The event.
    """
    kind, number = event["event"], event["number"]
    if kind == "asked":
        return None if number == len(trials) else f"trial {number} was asked for, expected {len(trials)}"
    if not 0 <= number < len(trials):
        return f"{kind}: there is no trial {number}"
    if kind == TERMINATED:
        return None
    return None if trials[number].is_running else f"{kind}: trial {number} had ended"


def apply(trials: list[TrialRecord], event: Mapping[str, Any]) -> None:
    """Updates the trials with an event.

    Args:
        trials: The trials so far, by number.
        event: ``asked``, ``reported``, ``told``, ``resumed`` (after its driver was killed or it waited for
            other trials), ``copied`` (it takes over another trial's weights), or ``terminated`` (the search
            needs no more trials after it).
    """
    facts = {name: value for name, value in event.items() if name not in ("event", "number", "time")}
    kind, number, now = event["event"], event["number"], event["time"]
    if kind == "asked":
        trials.append(TrialRecord(number, **facts))
    trial = trials[number]
    if kind == TERMINATED:  # about the search
        return
    if kind in ("asked", "resumed"):
        trial.spans.append([now, now])
    if kind == "copied":  # between two spans
        trial.changes.append({**facts, "before": trial.values})
        trial.values = facts["values"]
        return
    trial.spans[-1][1] = now
    if kind == "reported":
        trial.history.append(facts)
        trial.objectives = tuple(facts.get("compared", facts["objectives"]))
        trial.violations = dict(facts.get("violations", {}))
    elif kind == "told":
        trial.state, trial.reason = facts["state"], facts["reason"]
