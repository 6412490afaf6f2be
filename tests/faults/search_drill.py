"""A search whose driver is killed again and again, two trials at a time: it ends as if nothing had happened.

    PYTHONPATH=tests python tests/faults/search_drill.py --schedulers asha halving pbt --seeds 0 1 --kills 5

A driver with a cluster of its own is killed (SIGKILL) a random time after a random event of the journal,
and the search is started again, until it has been killed ``--kills`` times; the last driver ends it.
Compared is a search that nobody killed. The seeds choose the moments.

**Where order allows.** Two trials at a time report in an order that no seed decides. What must not depend
on it:

- parameters that depend on the seed and the trial's number alone (``--sampler RandomSampler``, the default)
  are those of the undisturbed search, for every trial;
- successive halving and populations decide when all trials have arrived: states, evaluations and copies are
  those of the undisturbed search;
- ASHA compares a trial with those that came before it: in the order of the search's own journal, across all
  its drivers, every trial was stopped where a scheduler that sees the reports in this order stops it, and
  nowhere else;
- a study restored from the journal of a killed driver suggests what the next driver did, unless an
  evaluation came in between (samplers such as TPE learn from it; random parameters are the same then, too).
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ray_st.runtime.tune.schedulers import make_scheduler, remember
from ray_st.study.journal import JOURNAL, Journal
from ray_st.study.objective import Objective
from ray_st.study.search_options import as_sampler
from ray_st.study.study import Study
from ray_st.study.trial_record import TrialRecord
from search_helpers import make_trainer

TRIALS, RUNGS, FACTOR = 9, 4, 3
NAME, OBJECTIVE, SEED = "s", "eval_loss", 42
LIMIT_S = 300.0


class DrillFailed(Exception):
    """A killed search did not end as it should."""


@dataclass(frozen=True)
class Plan:
    """A search.

    Args:
        folder: Its output_dir.
        model: Folder of the model it trains.
        scheduler: ``"asha"``, ``"halving"`` or ``"pbt"``.
        sampler: Name of Optuna's sampler, or ``"default"``.
    """

    folder: Path
    model: Path
    scheduler: str
    sampler: str = "RandomSampler"

    @property
    def journal(self) -> Path:
        """Its journal."""
        return self.folder / NAME / JOURNAL

    @property
    def given_sampler(self) -> str | None:
        """The option of the search."""
        return None if self.sampler == "default" else self.sampler


def space(trial: Any) -> dict[str, Any]:
    """Rates at which some trials learn and others do not."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-7, 1e-2, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 0.0, 0.1),
    }


def search(plan: Plan) -> None:
    """Runs or continues the search, on the cluster of this process."""
    arguments = {"save_strategy": "steps", "save_steps": 1}
    trainer = make_trainer(plan.folder, plan.model, arguments=arguments)
    trainer.hyperparameter_search(
        space,
        OBJECTIVE,
        n_trials=TRIALS,
        scheduler=plan.scheduler,
        sampler=plan.given_sampler,
        rungs=RUNGS,
        reduction_factor=FACTOR,
        max_concurrent_trials=2,
        name=NAME,
    )


def drive(plan: Plan, events: int, delay_s: float) -> None:
    """The driver's process: runs the search, and kills itself.

    Args:
        plan: The search.
        events: After how many events of this driver; 0 for never.
        delay_s: How long after them.
    """
    append, left = Journal.append, [events]

    def counting(self: Journal, **event: Any) -> dict[str, Any]:
        written = append(self, **event)
        left[0] -= 1
        if left[0] == 0:
            threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return written

    Journal.append = counting  # type: ignore[method-assign]
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    search(plan)


def driver(plan: Plan, events: int = 0, delay_s: float = 0.0) -> bool:
    """Runs a driver in a process of its own; whether it ended the search, instead of being killed.

    Raises:
        DrillFailed: If it ended in another way.
    """
    given = [str(plan.folder), str(plan.model), plan.scheduler, plan.sampler, str(events), str(delay_s)]
    tests = Path(__file__).parents[1]
    environment = {
        **os.environ,
        "RAY_ADDRESS": "local",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)]),
    }
    command = [sys.executable, "-W", "ignore", __file__, "--drive", *given]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=LIMIT_S, text=True)
    if done.returncode == -signal.SIGKILL:
        return False
    if done.returncode:
        raise DrillFailed(f"a driver of {plan} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return True


def killed_search(plan: Plan, kills: int, chance: random.Random) -> list[int]:
    """Runs a search whose driver is killed; how many events the journal had after each kill.

    Args:
        plan: The search.
        kills: How often.
        chance: Chooses the moments.
    """
    lengths: list[int] = []
    for _ in range(kills):
        if driver(plan, chance.randint(1, 7), chance.uniform(0.0, 1.0)):
            break
        Journal(plan.journal).read()  # drops an incomplete line
        lengths.append(len(plan.journal.read_bytes().splitlines()))
    else:
        driver(plan)
    return lengths


# ---- what must be the same ----


def check(killed: Plan, undisturbed: Plan, lengths: Sequence[int]) -> str:
    """Compares a search whose driver was killed with one that nobody disturbed.

    Args:
        killed: The first.
        undisturbed: The other.
        lengths: How many events the journal had after each kill.

    Returns:
        What was found, in words.

    Raises:
        DrillFailed: If something differs that must not.
    """
    ours, theirs = Journal(killed.journal).records(), Journal(undisturbed.journal).records()
    running = [record.number for record in ours if record.is_running]
    if running or len(ours) != TRIALS:
        raise DrillFailed(f"{len(ours)} trials, of which {running} are still running")
    if killed.sampler == "RandomSampler":
        _same("parameters", [record.params for record in ours], [record.params for record in theirs])
        if killed.scheduler != "asha":
            _same("what became of the trials", [*map(outcome, ours)], [*map(outcome, theirs)])
            values = [[event["objectives"] for event in record.history] for record in theirs]
            for record, expected in zip(ours, values, strict=True):
                found = [event["objectives"] for event in record.history]
                if found != [pytest.approx(value, rel=1e-4) for value in expected]:
                    raise DrillFailed(f"objectives of trial {record.number}: {found}, expected {expected}")
    if killed.scheduler == "asha":
        check_decisions(killed, ours)
    compared = sum(next_suggestion_is_same(killed, length) for length in lengths)
    states = ", ".join(f"{record.number} {record.state}({record.evaluations})" for record in ours)
    return f"killed after {list(lengths)} events; {compared} next suggestions compared; {states}"


def outcome(record: TrialRecord) -> dict[str, Any]:
    """What became of a trial, as far as no clock decides it."""
    return {
        "state": record.state,
        "values": record.values,
        "evaluations": [event["evaluation"] for event in record.history],
        "copies": [(change["evaluation"], change["source"]) for change in record.changes],
    }


def _same(what: str, found: Sequence[Any], expected: Sequence[Any]) -> None:
    differing = [
        f"trial {number}: {one}, expected {other}"
        for number, (one, other) in enumerate(zip(found, expected, strict=True))
        if one != other
    ]
    if differing:
        raise DrillFailed(f"{what}: {'; '.join(differing)}")


def check_decisions(plan: Plan, records: Sequence[TrialRecord]) -> None:
    """Checks that each trial was stopped where ASHA stops it in the journal's order, and nowhere else."""
    study = restored(plan, plan.journal.read_bytes())
    scheduler = make_scheduler("asha", "min", 1, FACTOR)
    for number, event in study.evaluations:
        stopped = number in remember(scheduler, [(number, event)])
        record = records[number]
        is_end = event is study.records[number].history[-1] and record.state == "PRUNED"
        if stopped != is_end:
            was = "was" if is_end else "was not"
            raise DrillFailed(f"trial {number} {was} stopped after evaluation {event['evaluation']}")


def restored(plan: Plan, journal: bytes) -> Study:
    """A study that continues from a journal."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / JOURNAL
        path.write_bytes(journal)
        objective = Objective(OBJECTIVE, ("minimize",))
        sampler = as_sampler(plan.given_sampler)
        study = Study(space, objective, Journal(path), TRIALS, seed=SEED, sampler=sampler)
        study.suggested = study.ask(lambda record: False)  # type: ignore[attr-defined]
    return study


def next_suggestion_is_same(plan: Plan, length: int) -> bool:
    """Whether the next driver's suggestion can be compared; raises if it can, and is another one."""
    lines = plan.journal.read_bytes().splitlines(keepends=True)
    asked = restored(plan, b"".join(lines[:length])).suggested  # type: ignore[attr-defined]
    after = Journal(plan.journal).read()[length:]
    first = next((place for place, event in enumerate(after) if event["event"] == "asked"), None)
    if asked is None or first is None:
        return False
    between = {event["event"] for event in after[:first]}
    if plan.sampler != "RandomSampler" and between - {"resumed"}:
        return False
    if asked.params != after[first]["params"]:
        raise DrillFailed(f"after {length} events: {after[first]['params']}, expected {asked.params}")
    return True


def drill(folder: Path, model: Path, scheduler: str, seed: int, kills: int, sampler: str) -> str:
    """A search that is killed, one that is not, and their comparison.

    Raises:
        DrillFailed: If they differ.
    """
    plans = [Plan(folder / name, model, scheduler, sampler) for name in ("killed", "undisturbed")]
    lengths = killed_search(plans[0], kills, random.Random(f"{scheduler} {seed}"))
    driver(plans[1])
    return check(*plans, lengths)


def main() -> None:
    """Runs the drill for each scheduler and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--schedulers", nargs="+", default=["asha", "halving", "pbt"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--sampler", default="RandomSampler", help='or "default" for TPE')
    parser.add_argument("--drive", nargs=6, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.drive:
        folder, model, scheduler, sampler, events, delay_s = given.drive
        drive(Plan(Path(folder), Path(model), scheduler, sampler), int(events), float(delay_s))
        return
    from faults.job import make_model

    for scheduler in given.schedulers:
        for seed in given.seeds:
            folder = Path(tempfile.mkdtemp(prefix="search-drill-"))
            model = folder / "model"
            make_model(folder / "encoder", dropout=0.0).save(str(model))
            found = drill(folder, model, scheduler, seed, given.kills, given.sampler)
            print(f"{scheduler}, seed {seed}: as it should be: {found}", flush=True)
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
