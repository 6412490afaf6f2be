"""Finalists that are trained again on a real cluster: a whole search, and a driver that is killed meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.train import RunConfig, ScalingConfig

from ray_st import SentenceTransformer
from ray_st.study.journal import Journal
from search_helpers import make_trainer

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("cluster"),
    # Ray Tune leaves files and sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

TRIALS, FINALISTS, SEEDS, STEPS, ROWS = 4, 2, 2, 12, 64 * 3
ONE_CPU = ScalingConfig(num_workers=1)


def space(trial: Any) -> dict[str, Any]:
    return {"learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-2, log=True)}


def search(trainer: Any, name: str, trials: int = TRIALS, **options: Any) -> Any:
    given = {
        "rungs": 3,
        "resources_per_trial": {"CPU": 1},
        "confirm": SEEDS,
        "finalists": FINALISTS,
        **options,
    }
    return trainer.hyperparameter_search(space, "eval_loss", trials, "minimize", name=name, **given)


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    return Journal(folder / name / "confirm" / "journal.jsonl").read()


@pytest.mark.long
def test_a_search_with_its_finalists(tmp_path: Path, tiny_folder: Path, capsys: Any) -> None:
    trainer = make_trainer(tmp_path, tiny_folder, scaling_config=ONE_CPU, arguments={"logging_steps": 1})
    best = search(trainer, "s")
    trials, again, confirmed = (
        best.run_summary.trials,
        best.run_summary.confirmations,
        best.run_summary.confirmed,
    )
    assert [record.state for record in again] == ["COMPLETE"] * 4  # nothing stops them
    assert [record.step for record in again] == [STEPS] * 4
    assert (confirmed.rows, confirmed.left) == (4 * ROWS, 0)
    seeds = [record.values["seed"] for record in again]
    assert seeds[0] == seeds[1] != seeds[2] == seeds[3]
    assert best.hyperparameters == trials[int(best.run_id)].values
    assert best.objective == best.confirmed.mean
    assert "confirmed: trial" in capsys.readouterr().out
    kept = list((tmp_path / "s").glob("**/checkpoint-*"))
    assert [str(path.relative_to(tmp_path / "s")) for path in kept] == [
        f"confirm/run-{best.confirmed.typical_runs[0]}/checkpoint-{STEPS}"
    ]
    model = best.model
    assert type(model) is SentenceTransformer
    fresh = SentenceTransformer(str(tiny_folder), device="cpu")
    assert not all(map(torch.equal, model.state_dict().values(), fresh.state_dict().values()))
    trainer.model = model
    trainer.model_init = None
    typical = again[best.confirmed.typical_runs[0]]
    trainer.loss = trainer.loss_init(model)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(typical.objectives[0], rel=1e-4)

    # The trainer trains what the trial trained, with its own seed.
    trainer = make_trainer(tmp_path, tiny_folder, scaling_config=ONE_CPU)
    trainer.apply_hyperparameters(best)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(
        trials[int(best.run_id)].history[-1]["objectives"][0], rel=1e-4
    )


@pytest.mark.long
def test_trainings_on_two_workers_keep_their_weights(tmp_path: Path, tiny_folder: Path) -> None:
    trainer = make_trainer(tmp_path, tiny_folder, scaling_config=ScalingConfig(num_workers=2))
    options: dict[str, Any] = {"resources_per_trial": None, "confirm": 1, "finalists": 1, "rungs": 1}
    best = search(trainer, "s", 1, **options)
    assert best.confirmed.deviation is None
    assert type(best.model) is SentenceTransformer


@pytest.mark.long
def test_another_machine_has_the_finalists_and_their_weights(tmp_path: Path, tiny_folder: Path) -> None:
    def found(machine: str) -> Any:
        there = RunConfig(storage_path=str(tmp_path / "storage"))
        trainer = make_trainer(tmp_path / machine, tiny_folder, scaling_config=ONE_CPU, run_config=there)
        return search(trainer, "s", 2, confirm=1)

    best, again = found("first"), found("second")
    assert again[:3] == best[:3]
    assert events(tmp_path / "second", "s") == events(tmp_path / "first", "s")
    kept = list((tmp_path / "storage").glob("**/checkpoint-*"))
    assert [path.parent.parent.name for path in kept] == ["confirm"]
    assert not list((tmp_path / "second").glob("**/checkpoint-*"))
    assert all(map(torch.equal, again.model.state_dict().values(), best.model.state_dict().values()))


# ---- a driver that is killed ----

TESTS = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
KILLED = f"""
import os, signal, sys
sys.path[:0] = {TESTS!r}
from pathlib import Path
import ray
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
import test_confirming
from ray_st.study import journal
append = journal.Journal.append
def deadly(self, **event):
    written = append(self, **event)
    place = (self._path.parent.name, event["event"], event["number"], event.get("evaluation"))
    if place == ("confirm", "reported", 1, 2):
        os.kill(os.getpid(), signal.SIGKILL)
    return written
journal.Journal.append = deadly
test_confirming.search_one_by_one(Path(sys.argv[1]), Path(sys.argv[2]), "s")
"""


def search_one_by_one(folder: Path, model_folder: Path, name: str) -> Any:
    arguments = {"save_steps": 1, "logging_steps": 1}
    trainer = make_trainer(folder, model_folder, scaling_config=ONE_CPU, arguments=arguments)
    trainer.args.save_strategy = "steps"
    return search(trainer, name, max_concurrent_trials=1)


@pytest.mark.long
def test_a_driver_killed_among_its_finalists_goes_on(tmp_path: Path, tiny_folder: Path) -> None:
    environment = {**os.environ, "RAY_ADDRESS": "local", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(tmp_path), str(tiny_folder)]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    before, searched = events(tmp_path, "s"), Journal(tmp_path / "s" / "journal.jsonl").read()
    killed = Journal(tmp_path / "s" / "confirm" / "journal.jsonl").records()
    assert [record.state for record in killed] == ["COMPLETE", "RUNNING"]

    best = search_one_by_one(tmp_path, tiny_folder, "s")
    after = events(tmp_path, "s")
    assert after[: len(before)] == before
    new = after[len(before) :]
    assert [(event["event"], event["number"]) for event in new[:3]] == [
        ("resumed", 1),
        ("reported", 1),
        ("told", 1),
    ]
    assert new[1]["evaluation"] == 3  # from its checkpoint, not from the start
    assert Journal(tmp_path / "s" / "journal.jsonl").read() == searched  # the search itself was done

    unbroken = search_one_by_one(tmp_path, tiny_folder, "unbroken")
    ours, theirs = best.run_summary.confirmations, unbroken.run_summary.confirmations
    assert [record.values for record in ours] == [record.values for record in theirs]
    assert [record.objectives for record in ours] == [pytest.approx(record.objectives) for record in theirs]
    assert len(ours) == FINALISTS * SEEDS
    assert type(best.model) is SentenceTransformer
