"""What is known about a trial: hyperparameters, evaluations, its end, and whose weights it took over."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

WORDS = {"COMPLETE": "complete", "PRUNED": "stopped early", "FAIL": "failed", "RUNNING": "running"}
"""The states of trials, in words."""


@dataclass
class TrialRecord:
    """What is known about a trial.

    Args:
        number: Its number, from 0.
        values: Its hyperparameters by name: the current ones, or those it ended with.
        params: The parameters that were drawn.
        distributions: What each was drawn from, as Optuna's JSON.
        name: What the user calls it.
        state: ``RUNNING``, ``COMPLETE``, ``PRUNED`` (stopped early) or ``FAIL``.
        objectives: The values it is compared by: the latest ones, unless ``ray_scope`` says otherwise. Empty
            before the first evaluation.
        violations: How far its last evaluation violates each of the search's constraints, by the
            constraint's text; 0 or less is not at all. Empty without constraints.
        marks: What the sampler noted about it and needs again when the search is continued.
        reason: Why it failed, or was stopped if not for its rank.
        history: Its evaluations: number, step, objectives, metrics, seconds.
        spans: When it ran, as pairs of Unix times. There are several if its driver was killed, or if it
            waited for other trials.
        changes: When it became a copy of another trial: ``evaluation``, ``source`` and ``step`` (the other
            trial's number and the step of its checkpoint), ``before`` and ``values`` (its hyperparameters
            before and after).
    """

    number: int
    values: dict[str, Any]
    params: dict[str, Any]
    distributions: dict[str, str]
    name: str = ""
    state: str = "RUNNING"
    objectives: tuple[float, ...] = ()
    violations: dict[str, float] = field(default_factory=dict)
    marks: dict[str, Any] = field(default_factory=dict)
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
        """How many training rows it had used by its last evaluation."""
        return int(self.history[-1].get("samples", 0)) if self.history else 0

    @property
    def seconds(self) -> float:
        """How long it ran."""
        return sum(end - begin for begin, end in self.spans)

    @property
    def is_running(self) -> bool:
        """Whether it has not ended; it may be waiting."""
        return self.state == "RUNNING"

    @property
    def is_feasible(self) -> bool:
        """Whether its last evaluation satisfies all constraints."""
        return all(value <= 0 for value in self.violations.values())

    @property
    def was_refused(self) -> bool:
        """Whether it was stopped for a constraint, not because others were better."""
        return self.state == "PRUNED" and bool(self.reason)

    @property
    def evaluations(self) -> int:
        """The index of its last evaluation, from 1; 0 before the first."""
        return int(self.history[-1]["evaluation"]) if self.history else 0

    @property
    def has_finished_training(self) -> bool:
        """Whether its last evaluation was that of its last step."""
        return bool(self.history and self.history[-1]["ended"])

    def compared_at(self, evaluation: int) -> dict[str, Any] | None:
        """The event it is compared by after an evaluation; None if it has not got that far.

        Where the evaluation itself is missing, the first later one counts: no trial escapes a comparison.

        Args:
            evaluation: The index of the evaluation.
        """
        return next((event for event in self.history if event["evaluation"] >= evaluation), None)

    def continued_past(self, evaluation: int) -> bool:
        """Whether it continued after that event."""
        return bool(self.history) and self.compared_at(evaluation) not in (None, self.history[-1])


def objective_names(count: int) -> list[str]:
    """What the objectives are called in tables and plots."""
    return ["objective"] if count == 1 else [f"objective_{place}" for place in range(count)]


def describe_change(change: Mapping[str, Any]) -> str:
    """In one line: which trial a trial became a copy of, when, and which hyperparameters changed."""
    before, values = change["before"], change["values"]
    moved = [
        f"{name} {short(before.get(name))} -> {short(values.get(name))}"
        for name in dict.fromkeys([*before, *values])
        if before.get(name) != values.get(name)
    ]
    copied = f"copied trial {change['source']} after evaluation {change['evaluation']}"
    return f"{copied}: {', '.join(moved) or 'no other values'}"


def short(value: object) -> str:
    """A hyperparameter's value in few digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def stages(trials: Sequence[TrialRecord], number: int) -> list[tuple[int, int, dict[str, Any]]]:
    """The stages a trial's weights went through: after which evaluation, in which trial, with which values.

    Args:
        trials: All trials, by number.
        number: The trial.

    Returns:
        One entry per stage, in order of time; the first begins after evaluation 0.
    """
    found: list[tuple[int, int, dict[str, Any]]] = []
    until: float = math.inf
    while True:
        trial = trials[number]
        before = [change for change in trial.changes if change["evaluation"] < until]
        if not before:
            first = trial.changes[0]["before"] if trial.changes else trial.values
            return [(0, number, first), *reversed(found)]
        found.append((before[-1]["evaluation"], number, before[-1]["values"]))
        number, until = before[-1]["source"], before[-1]["evaluation"]
