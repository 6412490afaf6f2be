"""ASHA over several drivers, without a cluster: killed at any event, trials are stopped as by one that lives.

So are those of several objectives, by dominance, and those with constraints.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler

from ray_st.runtime.tune.schedulers import NumberedTrials, make_scheduler, remember
from ray_st.study.constraints import ranked_value, total
from ray_st.study.journal import Journal
from ray_st.study.objective import Objective
from ray_st.study.study import Study

TRIALS, LENGTH = 12, 8
NOBODY: Any = None


class Killed(Exception):
    """Stands for SIGKILL."""


class Deadly(Journal):
    """Ends its driver after a number of events, each of which is written."""

    def __init__(self, path: Path, events: int) -> None:
        super().__init__(path)
        self._left = events

    def append(self, **event: Any) -> dict[str, Any]:
        written = super().append(**event)
        self._left -= 1
        if self._left == 0:
            raise Killed
        return written


def space(trial: Any) -> dict[str, Any]:
    return {"x": trial.suggest_float("x", 0, 1)}


@dataclass(frozen=True)
class Kind:
    """A kind of search: its directions, and whether half of its trials violate a constraint."""

    directions: Sequence[str] = ("maximize",)
    constrained: bool = False

    def study(self, folder: Path, events: int = 0) -> Study:
        objective = Objective(None, tuple(self.directions))
        return Study(space, objective, Deadly(folder / "journal.jsonl", events), TRIALS)

    def scheduler(self) -> Any:
        return make_scheduler("asha", "max", 1, 3, self.directions)

    def event(self, number: int, evaluation: int) -> dict[str, Any]:
        """What a trial reports, as the journal has it."""
        chance = random.Random(f"{number} {evaluation}")
        objectives = [chance.random() for _ in self.directions]
        facts = {"evaluation": evaluation, "objectives": objectives, "ended": evaluation == LENGTH}
        violated = {"eval_y <= 1": chance.uniform(-1, 1)}
        return {**facts, "violations": violated} if self.constrained else facts


KINDS = {
    "one objective": Kind(),
    "two objectives": Kind(("maximize", "minimize")),
    "a constraint": Kind(constrained=True),
    "two objectives and a constraint": Kind(("maximize", "minimize"), True),
}


def reported(event: dict[str, Any]) -> dict[str, Any]:
    """What a trial reports, as the scheduler gets it."""
    violations = event.get("violations")
    value = ranked_value(event["objectives"][0], violations, True)
    return {**event, "objective": value, "violation": total(violations)}


def run(kind: Kind, one: Study, chance: random.Random, at_a_time: int = 3) -> None:
    """A driver: its trials report in any order; a stopped one is told so after its report is recorded."""
    scheduler = kind.scheduler()
    for number in sorted(remember(scheduler, one.evaluations)):
        if one.records[number].is_running and not one.records[number].has_finished_training:
            one.tell(number, "PRUNED")
    live: list[int] = []
    while True:
        while len(live) < at_a_time and (asked := one.ask()) is not None:
            live.append(asked.number)
            scheduler.on_trial_add(NOBODY, stand_in(asked.number))
        if not live:
            return
        number = chance.choice(live)
        if one.records[number].has_finished_training:  # its end was not recorded
            live.remove(number)
            one.tell(number, "COMPLETE")
            continue
        evaluation = one.records[number].evaluations + 1
        event = kind.event(number, evaluation)
        decision = scheduler.on_trial_result(NOBODY, stand_in(number), reported(event))
        one.report(number, step=evaluation, **event)
        if event["ended"] or decision == "STOP":
            live.remove(number)
            one.tell(number, "COMPLETE" if event["ended"] else "PRUNED")


def stand_in(number: int) -> Any:
    return SimpleNamespace(trial_id=f"new-{random.random()}", config={"number": number})


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_asha_decides_as_if_its_driver_had_lived(kind: Kind, seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    while True:
        try:
            run(kind, kind.study(tmp_path, chance.randint(1, 12)), chance)
            break
        except Killed:
            continue
    after = kind.study(tmp_path)
    assert {record.state for record in after.records} <= {"COMPLETE", "PRUNED"}
    assert len(after.records) == TRIALS
    unbroken = kind.scheduler()
    for number, event in after.evaluations:
        record = after.records[number]
        is_end = event is record.history[-1] and record.state == "PRUNED"
        assert (number in remember(unbroken, [(number, event)])) == is_end


def test_schedulers_without_rungs_remember_nothing() -> None:
    scheduler = make_scheduler(None, "max", 1, 3)
    assert isinstance(scheduler, FIFOScheduler)
    assert remember(scheduler, [(0, {"evaluation": 1, "objectives": [0.5]})]) == set()


def test_a_given_scheduler_with_rungs_takes_the_searchs_objective() -> None:
    given = AsyncHyperBandScheduler("evaluation", grace_period=2)
    made = make_scheduler(given, "min", 1, 3)
    assert isinstance(made, NumberedTrials)
    assert made.metric == given.metric == "objective"
    assert made.supports_buffered_results == given.supports_buffered_results
    assert not made.set_search_properties("other", "min")
    assert "AsyncHyperBand" in made.debug_string()


def test_a_trial_that_was_added_twice_keeps_its_bracket() -> None:
    scheduler = make_scheduler("hyperband", "max", 1, 3)
    assert isinstance(scheduler, NumberedTrials)
    for _ in range(30):
        scheduler.on_trial_add(NOBODY, stand_in(0))
        brackets = scheduler.inner._trial_info
        assert brackets["0"] is brackets.setdefault("first", brackets["0"])
    scheduler.on_trial_error(NOBODY, stand_in(0))
    scheduler.on_trial_remove(NOBODY, stand_in(0))
    assert "0" not in scheduler.inner._trial_info
