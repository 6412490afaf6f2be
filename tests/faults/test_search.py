"""A search whose trials' processes, or whose drivers, are killed at random: it ends as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from faults.search_drill import drill, outcome
from ray_st.study.trial_record import TrialRecord
from search_helpers import make_trainer

pytestmark = [
    pytest.mark.ray,
    pytest.mark.long,
    # Ray Tune leaves files and sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

TRIALS, STEPS, RUNGS, BATCH = 12, 24, 6, 16


class KillOneInThree(TrainerCallback):
    """Kills the process of every third trial once, at a random step; writes down each step that was trained."""

    def __init__(self, folder: Path, kills: bool) -> None:
        self.folder, self.kills = folder, kills

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        number = int(args.run_name.rpartition("-")[2])
        with (self.folder / "steps").open("a") as stream:
            stream.write(f"{number} {state.global_step}\n")
        marker = self.folder / f"killed-{number}"
        at = random.Random(number).randint(1, STEPS // RUNGS)  # before any is stopped
        if self.kills and number % 3 == 1 and state.global_step == at and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def searched(folder: Path, model: Path, kills: bool, **options: Any) -> tuple[list[TrialRecord], int]:
    """The trials of a search, and how many rows were trained for them, twice if need be."""
    folder.mkdir()
    trainer = make_trainer(
        folder,
        model,
        callbacks=[KillOneInThree(folder, kills)],
        arguments={"num_train_epochs": 6, "save_strategy": "steps", "save_steps": 1},
    )
    best = trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-7, 1e-2, log=True)},
        "eval_loss",
        n_trials=TRIALS,
        rungs=RUNGS,
        name="s",
        **options,
    )
    return list(best.run_summary.trials), BATCH * len((folder / "steps").read_text().splitlines())


@pytest.mark.parametrize(
    "options",
    [
        {"scheduler": "halving", "sampler": "RandomSampler", "max_concurrent_trials": 2},
        {"scheduler": "pbt", "sampler": "RandomSampler", "grace_period": 2, "max_concurrent_trials": 2},
        {"scheduler": "asha", "max_concurrent_trials": 1},
    ],
    ids=lambda options: options["scheduler"],
)
@pytest.mark.usefixtures("cluster")
def test_killed_trials_cost_few_rows(options: dict[str, Any], tmp_path: Path, tiny_folder: Path) -> None:
    """Random parameters, and rules that wait for all; or one trial at a time: no order decides anything."""
    killed, rows = searched(tmp_path / "killed", tiny_folder, True, **options)
    undisturbed, rows_undisturbed = searched(tmp_path / "undisturbed", tiny_folder, False, **options)
    lost = len(list((tmp_path / "killed").glob("killed-*")))
    print(
        f"{options['scheduler']}: {lost} of {TRIALS} trials killed, {rows} rows; {rows_undisturbed} undisturbed"
    )
    for one, other in zip(killed, undisturbed, strict=True):
        print(f"  {outcome(one)}\n  {outcome(other)}")
    assert lost == TRIALS // 3
    assert list(map(outcome, killed)) == list(map(outcome, undisturbed))
    for one, other in zip(killed, undisturbed, strict=True):
        assert one.objectives == pytest.approx(other.objectives, rel=1e-4)
    assert rows <= 1.15 * rows_undisturbed


@pytest.mark.parametrize("scheduler", ["asha", "halving", "pbt"])
def test_killed_drivers_change_nothing(scheduler: str, tmp_path: Path, tiny_folder: Path) -> None:
    print(drill(tmp_path, tiny_folder, scheduler, seed=0, kills=2, sampler="RandomSampler"))
