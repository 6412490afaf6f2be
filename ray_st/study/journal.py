"""What a search writes down: a journal of events that survives a killed driver, and a table of trials."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray_st.util.atomic import write_whole

JOURNAL, SETTINGS, TABLE = "journal.jsonl", "search.json", "trials.csv"

ID, FOUND = "id", "found"
"""Keys in a search's settings: what tells it from others of its name, and facts of its encoded data."""

MEANING = ("directions", "objective", "ray_scope")
"""Settings that say what the values of a search mean."""

_FIRST_SETTINGS = ("space", "directions", "seed", "ray_scope", "population")
"""Settings of searches that have no :data:`ID`."""


class RecordError(ValueError):
    """A search's folder that cannot be gone on with."""


class Disorder(RecordError):
    """An event that does not follow from those before it.

    Args:
        place: Its place, from 1.
        fault: What is wrong.
    """

    def __init__(self, place: int, fault: str) -> None:
        super().__init__(place, fault)
        self.place = place

    def __str__(self) -> str:
        return str(self.args[1])


@dataclass
class TrialRecord:
    """What is known of a trial.

    Args:
        number: Its number, from 0.
        values: What it sets, by name, at present or at its end.
        params: The parameters that were drawn.
        distributions: What each was drawn from, as Optuna's JSON.
        name: What the user calls it.
        state: ``RUNNING``, ``COMPLETE``, ``PRUNED`` (stopped early) or ``FAIL``.
        objectives: The values that it is compared by: its last ones, unless ``ray_scope`` says otherwise; empty before the
            first evaluation.
        reason: Why it failed.
        history: The evaluations: number, step, objectives, figures, seconds.
        spans: When it ran, from and to, in seconds since 1970: once, or more often if its driver was killed or it waited
            for its population.
        changes: When it went on as a copy of another trial: ``evaluation``, ``source`` and ``step`` (the other's number and
            the step of its checkpoint), ``before`` (the values that it had) and ``values`` (those it went on with).
    """

    number: int
    values: dict[str, Any]
    params: dict[str, Any]
    distributions: dict[str, str]
    name: str = ""
    state: str = "RUNNING"
    objectives: tuple[float, ...] = ()
    reason: str = ""
    history: list[dict[str, Any]] = field(default_factory=list)
    spans: list[list[float]] = field(default_factory=list)
    changes: list[dict[str, Any]] = field(default_factory=list)

    @property
    def step(self) -> int:
        """The step of its last evaluation."""
        return int(self.history[-1]["step"]) if self.history else 0

    @property
    def samples(self) -> int:
        """How many training rows it used up to its last evaluation."""
        return int(self.history[-1].get("samples", 0)) if self.history else 0

    @property
    def seconds(self) -> float:
        """How long it ran."""
        return sum(end - begin for begin, end in self.spans)


@dataclass(frozen=True)
class Summary:
    """A finished search.

    Args:
        folder: Where its records and checkpoints are.
        trials: Its trials, by number.
        study: Optuna's study, for its plots and importances.
    """

    folder: str
    trials: tuple[TrialRecord, ...]
    study: Any = field(repr=False)


class Journal:
    """Events, one JSON line each, on disk before anything follows from them.

    Args:
        path: The file. A last line that was cut off is dropped.
        check_fence: Called before each event; raises if another driver has taken the folder. None where nobody else can
            write.
    """

    def __init__(self, path: Path, check_fence: Callable[[], None] | None = None) -> None:
        self._path, self._check_fence = path, check_fence

    def read(self) -> list[dict[str, Any]]:
        """The events so far.

        Raises:
            RecordError: If a line other than the last is no event, by its number.
        """
        if not self._path.exists():
            return []
        whole, _, torn = self._path.read_bytes().rpartition(b"\n")
        if torn:
            os.truncate(self._path, len(whole) + 1 if whole else 0)
        return [self._event(line, number) for number, line in enumerate(whole.splitlines(), 1)]

    def _event(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            event = json.loads(line)
        except ValueError as error:
            raise self._damaged(number, str(error)) from error
        fault = event_fault(event)
        if fault is not None:
            raise self._damaged(number, fault)
        found: dict[str, Any] = event
        return found

    def _damaged(self, line: int, fault: str) -> RecordError:
        return RecordError(
            f"{self._path} is damaged: line {line} is no event of a search ({fault}). Delete the line to go on without it, or "
            "start the search under another name."
        )

    def records(self) -> list[TrialRecord]:
        """The trials that the events tell of, by number.

        Raises:
            RecordError: If the file is damaged, naming the line.
        """
        try:
            return fold(self.read())
        except Disorder as error:
            raise self._damaged(error.place, str(error)) from error

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


ENDS = ("COMPLETE", "PRUNED", "FAIL")
"""How trials end."""

_NUMBER = (int, float)
_FACTS: dict[str, dict[str, type[Any] | tuple[type[Any], ...]]] = {
    "asked": {"values": dict, "params": dict, "distributions": dict, "name": str},
    "reported": {"evaluation": int, "step": int, "objectives": list},
    "resumed": {},
    "copied": {"evaluation": int, "source": int, "step": int, "values": dict},
    "told": {"state": str, "reason": str},
}
"""What each event says, besides the trial's number and the time."""


def event_fault(event: Any) -> str | None:
    """What is wrong with an event by itself; None if nothing is.

    Args:
        event: What a line of a journal holds.
    """
    if not isinstance(event, dict):
        return f"found {_shown(event)}"
    kind = event.get("event")
    if not isinstance(kind, str) or kind not in _FACTS:
        return f"unknown event {kind!r}"
    for name, types in {"number": int, "time": _NUMBER, **_FACTS[kind]}.items():
        if not isinstance(event.get(name), types):
            return f"{kind}: {name} is {_shown(event.get(name))}"
    if kind == "told" and event["state"] not in ENDS:
        return f"told: state is {_shown(event['state'])}"
    return None


def order_fault(trials: Sequence[TrialRecord], event: Mapping[str, Any]) -> str | None:
    """What is wrong with an event after those before it; None if nothing is.

    Args:
        trials: The trials that those tell of.
        event: The event.
    """
    kind, number = event["event"], event["number"]
    if kind == "asked":
        return None if number == len(trials) else f"trial {number} was asked for, expected {len(trials)}"
    if not 0 <= number < len(trials):
        return f"{kind}: there is no trial {number}"
    if trials[number].state != "RUNNING":
        return f"{kind}: trial {number} had ended"
    return None


def fold(events: Iterable[Mapping[str, Any]]) -> list[TrialRecord]:
    """The trials that events tell of, by number.

    Raises:
        Disorder: If an event does not follow from those before it.
    """
    trials: list[TrialRecord] = []
    for place, event in enumerate(events, 1):
        fault = order_fault(trials, event)
        if fault is not None:
            raise Disorder(place, fault)
        apply(trials, event)
    return trials


def apply(trials: list[TrialRecord], event: Mapping[str, Any]) -> None:
    """Brings trials up to date with one more event.

    Args:
        trials: The trials so far, by number.
        event: ``asked``, ``reported``, ``told``, ``resumed`` after its driver was killed or it waited for its population,
            or ``copied`` where it takes over another trial.
    """
    facts = {name: value for name, value in event.items() if name not in ("event", "number", "time")}
    number, now = event["number"], event["time"]
    if event["event"] == "asked":
        trials.append(TrialRecord(number, **facts))
    trial = trials[number]
    if event["event"] in ("asked", "resumed"):
        trial.spans.append([now, now])
    if event["event"] == "copied":  # between two spans
        trial.changes.append({**facts, "before": trial.values})
        trial.values = facts["values"]
        return
    trial.spans[-1][1] = now
    if event["event"] == "reported":
        trial.history.append(facts)
        trial.objectives = tuple(facts.get("compared", facts["objectives"]))
    elif event["event"] == "told":
        trial.state, trial.reason = facts["state"], facts["reason"]


def check_settings(folder: Path, settings: Mapping[str, Any]) -> str:
    """Notes what a search is, or refuses to go on with one that was another.

    Args:
        folder: The search's folder.
        settings: What must stay the same, as plain values.

    Returns:
        What tells the search from others of its name; empty for one that was begun by a version without.

    Raises:
        RecordError: Naming what differs.
    """
    now = json.loads(json.dumps(settings))
    if not (folder / SETTINGS).exists():
        then = {ID: uuid.uuid4().hex[:12], **now}
        _write_settings(folder, then)
        return str(then[ID])
    then = _read_settings(folder)
    if ID not in then:  # there is nothing to compare the others with
        now = {name: value for name, value in now.items() if name in then or name in _FIRST_SETTINGS}
    _check_same(folder, {name: value for name, value in then.items() if name not in (ID, FOUND)}, now)
    return str(then.get(ID, ""))


def check_found(folder: Path, found: Mapping[str, Any]) -> None:
    """Notes what was found out of a search's data when they were encoded; refuses others when it goes on.

    Args:
        folder: The search's folder.
        found: The facts, as plain values.

    Raises:
        RecordError: Naming what differs.
    """
    then = _read_settings(folder)
    if FOUND in then:
        _check_same(folder, then[FOUND], json.loads(json.dumps(found)))
    else:
        _write_settings(folder, {**then, FOUND: found})


def check_comparable(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuses to learn from an earlier search whose values mean something else.

    Args:
        folder: The earlier search's folder.
        settings: What this search's values mean, by the names of its settings.

    Raises:
        RecordError: Naming what differs.
    """
    then = _read_settings(folder) if (folder / SETTINGS).exists() else {}
    if ID not in then:
        return  # earlier versions did not note it
    differing = _differences(
        {name: then.get(name) for name in MEANING}, {name: settings.get(name) for name in MEANING}
    )
    if differing:
        raise RecordError(
            f"warm_start: the values of {folder} cannot be compared with this search's: {'; '.join(differing)}."
        )


def _read_settings(folder: Path) -> dict[str, Any]:
    path = folder / SETTINGS
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecordError(f"{path} is damaged ({error}). Start the search under another name.") from error
    if not isinstance(found, dict):
        raise RecordError(f"{path} does not hold a search's settings. Start the search under another name.")
    return found


def _write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    write_whole(folder / SETTINGS, json.dumps(settings, indent=1))


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} was {_shown(then.get(name))}, now {_shown(now.get(name))}"
        for name in dict.fromkeys([*then, *now])
        if then.get(name) != now.get(name)
    ]


def _check_same(folder: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    differing = _differences(then, now)
    if differing:
        raise RecordError(
            f"A search named {folder.name!r} exists with other settings: {'; '.join(differing)}. Start this one under "
            "another name, or with the settings of then to go on with it."
        )


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 300 else text[:297] + "..."


def objective_names(count: int) -> list[str]:
    """What the objectives are called in tables and plots."""
    return ["objective"] if count == 1 else [f"objective_{place}" for place in range(count)]


def describe_changes(trial: TrialRecord) -> str:
    """Which trials a trial took over, when, and what it changed of its parameters, in one line."""
    return "; ".join(describe_change(change) for change in trial.changes)


def describe_change(change: Mapping[str, Any]) -> str:
    """One of a trial's changes in a few words."""
    before, values = change["before"], change["values"]
    moved = [
        f"{name} {short(before.get(name))} -> {short(values.get(name))}"
        for name in dict.fromkeys([*before, *values])
        if before.get(name) != values.get(name)
    ]
    return f"copied trial {change['source']} after evaluation {change['evaluation']}: {', '.join(moved) or 'no other values'}"


def short(value: Any) -> str:
    """A parameter's value in few digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def legs(trials: Sequence[TrialRecord], number: int) -> list[tuple[int, int, dict[str, Any]]]:
    """What the weights of a trial went through: after which evaluation, as which trial, with which values.

    Args:
        trials: All trials, by number.
        number: The trial.

    Returns:
        One for each leg, in order of time; the first begins after evaluation 0.
    """
    found: list[tuple[int, int, dict[str, Any]]] = []
    until: float = math.inf
    while True:
        trial = trials[number]
        before = [change for change in trial.changes if change["evaluation"] < until]
        if not before:
            later = trial.changes[0]["before"] if trial.changes else trial.values
            return [(0, number, later), *reversed(found)]
        found.append((before[-1]["evaluation"], number, before[-1]["values"]))
        number, until = before[-1]["source"], before[-1]["evaluation"]


def write_table(path: Path, trials: Sequence[TrialRecord], objectives: int) -> None:
    """Writes the table of trials, replacing it in one go.

    Args:
        path: The CSV file.
        trials: The trials.
        objectives: How many objectives there are.
    """
    names = list(dict.fromkeys(name for trial in trials for name in trial.values))
    heads = objective_names(objectives)
    last = ["changes", "reason"] if any(trial.changes for trial in trials) else ["reason"]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(
        ["number", "name", "state", *heads, "evaluations", "step", "samples", "seconds", *names, *last]
    )
    for trial in trials:
        scores = trial.objectives or ("",) * objectives
        parameters = [trial.values.get(name, "") for name in names]
        facts = [len(trial.history), trial.step, trial.samples, round(trial.seconds, 2)]
        ending = [describe_changes(trial), trial.reason][-len(last) :]
        writer.writerow([trial.number, trial.name, trial.state, *scores, *facts, *parameters, *ending])
    write_whole(path, text.getvalue())
