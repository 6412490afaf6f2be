"""Searches on a real cluster: the documented script, how trials end, and a driver that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.fs as pafs
import pytest
import ray
from datasets import Dataset
from ray.train import RunConfig
from ray.tune.schedulers import AsyncHyperBandScheduler

from ray_st import SentenceTransformer, SentenceTransformerTrainer, losses
from ray_st.evaluation import EmbeddingSimilarityEvaluator
from ray_st.runtime.tune.domains import suggest
from ray_st.runtime.tune.schedulers import make_scheduler, remember
from ray_st.runtime.tune.search_stop import SearchStop
from ray_st.runtime.tune.study_searcher import ending
from ray_st.runtime.tune.trial_resources import Limit, Need
from ray_st.runtime.tune.tuner import SearchRun
from ray_st.study.journal import Journal
from ray_st.study.mirror import Home
from ray_st.study.objective import Objective
from ray_st.study.search_options import as_options
from ray_st.study.study import Study
from ray_st.training_args import BatchSamplers, SentenceTransformerTrainingArguments
from runtime_helpers import HangOnce, KillOnce
from search_helpers import ANCHORS, POSITIVES

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("cluster"),
    # Ray Tune leaves files and sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SCORES = [(i * 7 % 64) / 64 for i in range(64)]


def hpo_search_space(trial: Any) -> dict[str, Any]:
    return {
        "num_train_epochs": trial.suggest_int("num_train_epochs", 1, 2),
        "per_device_train_batch_size": trial.suggest_int("per_device_train_batch_size", 16, 32),
        "warmup_ratio": trial.suggest_float("warmup_ratio", 0, 0.3),
        "learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-2, log=True),
    }


def hpo_compute_objective(metrics: dict[str, float]) -> float:
    return metrics["eval_sts-dev_spearman_cosine"]


def make_trainer(folder: Path, model_folder: Path, **options: Any) -> SentenceTransformerTrainer:
    """The trainer of the page, with small data of this machine."""

    def hpo_model_init(trial: Any) -> SentenceTransformer:
        return SentenceTransformer(str(model_folder), device="cpu")

    def hpo_loss_init(model: Any) -> Any:
        return losses.MultipleNegativesRankingLoss(model)

    arguments = {"eval_strategy": "no", "save_strategy": "no", **options.pop("arguments", {})}
    args = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        batch_sampler=BatchSamplers.NO_DUPLICATES,
        logging_steps=10,
        run_name="hpo",
        report_to=[],
        **arguments,
    )
    return SentenceTransformerTrainer(
        **{
            "model": None,
            "args": args,
            "train_dataset": Dataset.from_dict({"anchor": ANCHORS, "positive": POSITIVES}),
            "eval_dataset": Dataset.from_dict({"anchor": ANCHORS[:16], "positive": POSITIVES[:16]}),
            "evaluator": EmbeddingSimilarityEvaluator(ANCHORS, POSITIVES, SCORES, name="sts-dev"),
            "model_init": hpo_model_init,
            "loss": hpo_loss_init,
            **options,
        }
    )


@pytest.mark.parametrize("backend", ["ray", "optuna"])
def test_the_documented_script(backend: str, tmp_path: Path, tiny_folder: Path) -> None:
    trainer = make_trainer(tmp_path, tiny_folder)
    best_trial = trainer.hyperparameter_search(
        hp_space=hpo_search_space,
        compute_objective=hpo_compute_objective,
        n_trials=3,
        direction="maximize",
        backend=backend,
        name="found",
        resources_per_trial={"CPU": 2},
    )
    trials = Journal(tmp_path / "found" / "journal.jsonl").records()
    assert [trial.state for trial in trials] == ["COMPLETE"] * 3
    assert best_trial.objective == max(trial.objectives[0] for trial in trials)
    assert best_trial.hyperparameters == trials[int(best_trial.run_id)].values
    assert set(best_trial.hyperparameters) == set(hpo_search_space(_Middle()))
    assert (best_trial.run_summary is None) == (backend == "optuna")
    assert trainer.args.learning_rate == 5e-5
    # A search that is done has nothing to do when it is started again.
    again = trainer.hyperparameter_search(
        hpo_search_space, hpo_compute_objective, 3, "maximize", backend, name="found"
    )
    assert again[:3] == best_trial[:3]


class _Middle:
    def suggest_int(self, name: str, low: int, high: int) -> int:
        return low

    def suggest_float(self, name: str, low: float, high: float, log: bool = False) -> float:
        return low


RATES = {"learns": 1e-2, "does not learn": 1e-9, "diverges": 1e30}
ENDS = ["COMPLETE", "PRUNED", "FAIL"]


def _rate(trial: Any) -> dict[str, Any]:
    return {"learning_rate": trial.suggest_float("learning_rate", 1e-9, 1e30, log=True)}


@pytest.mark.parametrize("workers", [1, 2])
def test_the_study_is_told_how_each_trial_ended(workers: int, tmp_path: Path, tiny_folder: Path) -> None:
    scaling = ray.train.ScalingConfig(num_workers=workers)
    trainer = make_trainer(tmp_path, tiny_folder, scaling_config=scaling)
    count = 3 if workers == 1 else 2  # a group of workers takes seconds to start
    best = trainer.hyperparameter_search(
        _rate,
        "eval_loss",
        n_trials=0,
        points_to_evaluate=[{"learning_rate": rate} for rate in RATES.values()][:count],
        rungs=4,
        reduction_factor=2,
        max_concurrent_trials=1,
        name="s",
    )
    assert best.run_id == "0"
    trials = best.run_summary.trials
    assert [trial.state for trial in trials] == ENDS[:count]
    assert [len(trial.history) for trial in trials] == [4, 1, 0][:count]
    assert "loss is nan" in trials[-1].reason.lower() or count == 2
    told = best.run_summary.study.trials
    assert [trial.state.name for trial in told] == ENDS[:count]
    assert list(told[1].intermediate_values) == [1]
    _all_returned()
    rows = (tmp_path / "s" / "trials.csv").read_text().splitlines()
    assert [row.split(",")[2] for row in rows[1:]] == ENDS[:count]


@pytest.mark.parametrize("harm", [KillOnce, HangOnce])
def test_a_trial_whose_process_is_lost_does_no_harm(
    harm: type[KillOnce],
    tmp_path: Path,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RAY_ST_STEP_LIMIT_S", "10")
    marker = tmp_path / "harmed"
    data = {"save_strategy": "steps", "save_steps": 1}
    trainer = make_trainer(tmp_path, tiny_folder, callbacks=[harm(3, marker)], arguments=data)
    best = trainer.hyperparameter_search(
        _rate,
        "eval_loss",
        n_trials=0,
        points_to_evaluate=[{"learning_rate": 1e-2}, {"learning_rate": 1e-3}],
        rungs=2,
        scheduler=None,
        max_concurrent_trials=1,
        resources_per_trial={"CPU": 0.5},
        name="s",
    )
    assert marker.exists()
    if harm is HangOnce:
        assert "trial 0 was lost, it is started again: rank 0 has made no progress" in capsys.readouterr().out
        stacks = (tmp_path / "s" / "run-0" / "stacks" / "step-4" / "rank-0.txt").read_text()
        assert "on_step_begin" in stacks
    assert [trial.state for trial in best.run_summary.trials] == ["COMPLETE", "COMPLETE"]
    assert [[event["evaluation"] for event in t.history] for t in best.run_summary.trials] == [[1, 2]] * 2
    _all_returned()


def _all_returned() -> None:
    deadline = time.monotonic() + 30
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
        assert time.monotonic() < deadline, ray.available_resources()
        time.sleep(0.1)


SCORE = "eval_sts-dev_spearman_cosine"
KILLED_AT = 10

SCRIPT = """
import os, signal, sys
sys.path[:0] = {path!r}
from pathlib import Path
import ray
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
import test_tuning
"""
KILLED = """
from ray_st.study import journal
append = journal.Journal.append
def deadly(self, **event):
    written = append(self, **event)
    if (event["event"], event["number"]) == ("reported", test_tuning.KILLED_AT):
        os.kill(os.getpid(), signal.SIGKILL)
    return written
journal.Journal.append = deadly
test_tuning.search_twenty(Path(sys.argv[1]), Path(sys.argv[2]), "s")
"""
STOPPED = """
from ray_st.study import journal
from ray_st.util.endings import Interrupted
append = journal.Journal.append
def stopped(self, **event):
    written = append(self, **event)
    if (event["event"], event["number"]) == ("reported", 1) and event["evaluation"] == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return written
journal.Journal.append = stopped
try:
    test_tuning.search_twenty(Path(sys.argv[1]), Path(sys.argv[2]), "s")
except Interrupted as error:
    print(error)
    sys.exit(error.exit_code)
"""
TEAMS = """
test_tuning.search_with_two_workers(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def run_script(end: str, folder: Path, model_folder: Path) -> subprocess.CompletedProcess[bytes]:
    """Runs a script with a cluster of its own, which has two CPUs."""
    script = SCRIPT.format(path=[str(Path(__file__).parent), str(Path(__file__).parent.parent)]) + end
    environment = {**os.environ, "RAY_ADDRESS": "local", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", script, str(folder), str(model_folder)]
    return subprocess.run(command, env=environment, capture_output=True, timeout=300)


def search_twenty(folder: Path, model_folder: Path, name: str, storage: Path | None = None) -> None:
    arguments = {"save_strategy": "steps", "save_steps": 1}
    run_config = None if storage is None else RunConfig(storage_path=str(storage))
    trainer = make_trainer(folder, model_folder, arguments=arguments, run_config=run_config)
    options: dict[str, Any] = {"name": name, "rungs": 2, "scheduler": None}
    trainer.hyperparameter_search(hpo_search_space, SCORE, 20, "maximize", "optuna", **options)


@pytest.mark.long
def test_a_killed_driver_goes_on(tmp_path: Path, tiny_folder: Path) -> None:
    done = run_script(KILLED, tmp_path, tiny_folder)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    path = tmp_path / "s" / "journal.jsonl"
    before = Journal(path).read()
    assert [trial.state for trial in Journal(path).records()] == ["COMPLETE"] * KILLED_AT + ["RUNNING"]

    search_twenty(tmp_path, tiny_folder, "s")
    after = Journal(path).read()
    assert after[: len(before)] == before
    new = after[len(before) :]
    assert [event["event"] for event in new[:3]] == ["resumed", "reported", "told"]
    assert new[1]["evaluation"] == 2  # from its checkpoint, not from the start
    assert {event["number"] for event in new} == set(range(KILLED_AT, 20))  # finished ones are not run again

    search_twenty(tmp_path, tiny_folder, "unbroken")
    ours, theirs = Journal(path).records(), Journal(tmp_path / "unbroken" / "journal.jsonl").records()
    assert [trial.values for trial in ours] == [trial.values for trial in theirs]
    assert [trial.objectives for trial in ours] == [pytest.approx(trial.objectives) for trial in theirs]
    assert len({json.dumps(trial.values) for trial in ours}) == 20
    kept = [folder for folder in (tmp_path / "s").glob("run-*") if any(folder.glob("checkpoint-*"))]
    assert len(kept) == 1


@pytest.mark.long
def test_another_head_goes_on_from_the_storage(tmp_path: Path, tiny_folder: Path) -> None:
    storage, home = tmp_path / "storage", tmp_path / "storage" / "searches" / "s"
    end = KILLED.replace(', "s")', ', "s", Path(sys.argv[1]).parent / "storage")')
    done = run_script(end, tmp_path / "one", tiny_folder)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    kept = Home(pafs.LocalFileSystem(), str(home)).journal()
    lost = (tmp_path / "one" / "s" / "journal.jsonl").read_bytes().removeprefix(kept)
    assert lost.count(b"\n") <= 6  # of the last second
    (tmp_path / "one").rename(tmp_path / "gone")

    search_twenty(tmp_path / "two", tiny_folder, "s", storage)
    journal = tmp_path / "two" / "s" / "journal.jsonl"
    events = [json.loads(line) for line in journal.read_bytes().removeprefix(kept).splitlines()]
    trials = Journal(journal).records()
    assert [trial.state for trial in trials] == ["COMPLETE"] * 20
    before = [json.loads(line)["number"] for line in kept.splitlines() if b'"told"' in line]
    assert not {event["number"] for event in events} & set(before)  # finished ones are not run again
    search_twenty(tmp_path / "three", tiny_folder, "unbroken")
    unbroken = Journal(tmp_path / "three" / "unbroken" / "journal.jsonl").records()
    assert [trial.values for trial in trials] == [trial.values for trial in unbroken]
    assert [trial.objectives for trial in trials] == [pytest.approx(trial.objectives) for trial in unbroken]

    assert Home(pafs.LocalFileSystem(), str(home)).journal() == journal.read_bytes()
    assert {path.name for path in home.iterdir() if path.is_file()} == {
        *("search.json", "trials.csv", "report.html", "lease.json")
    }
    (runs,) = (path for path in home.iterdir() if path.is_dir() and path.name != "journal")
    assert len([run for run in runs.glob("run-*") if any(run.glob("checkpoint-*"))]) == 1
    # A third machine finds the finished search.
    search_twenty(tmp_path / "four", tiny_folder, "s", storage)
    assert (tmp_path / "four" / "s" / "journal.jsonl").read_bytes() == journal.read_bytes()


@pytest.mark.long
def test_a_driver_that_is_told_to_end_ends_after_the_running_evaluation(
    tmp_path: Path, tiny_folder: Path
) -> None:
    done = run_script(STOPPED, tmp_path, tiny_folder)
    assert done.returncode == 75, done.stderr[-2000:]
    out = done.stdout.decode()
    assert "SIGTERM: the search stops after the evaluations that are running" in out
    assert "18 trials are left. Start it again with name='s' to continue." in out
    trials = Journal(tmp_path / "s" / "journal.jsonl").records()
    assert [(trial.state, len(trial.history)) for trial in trials] == [("COMPLETE", 2)] * 2
    assert (tmp_path / "s" / "report.html").exists()


def search_with_two_workers(folder: Path, model_folder: Path) -> None:
    rates = (1e-2, 1e-9, 1e-3, 1e-8, 3e-3)
    trainer = make_trainer(folder, model_folder, scaling_config=ray.train.ScalingConfig(num_workers=2))
    best = trainer.hyperparameter_search(
        _rate,
        "eval_loss",
        n_trials=0,
        points_to_evaluate=[{"learning_rate": rate} for rate in rates],
        rungs=4,
        reduction_factor=2,
        name="s",
    )
    assert [trial.state for trial in best.run_summary.trials].count("RUNNING") == 0
    _all_returned()


@pytest.mark.long
def test_trials_of_two_workers_on_two_cpus(tmp_path: Path, tiny_folder: Path) -> None:
    done = run_script(TEAMS, tmp_path, tiny_folder)
    assert done.returncode == 0, done.stderr[-2000:]
    trials = Journal(tmp_path / "s" / "journal.jsonl").records()
    ends = [(trial.state, len(trial.history)) for trial in trials]
    assert ends[0] == ("COMPLETE", 4)
    assert ends[1] == ends[3] == ("PRUNED", 1)  # rates at which nothing is learnt
    assert {trial.state for trial in trials} == {"COMPLETE", "PRUNED"}


# ---- parts ----


def test_a_trial_that_is_too_large_is_refused_with_both_figures(tmp_path: Path, tiny_folder: Path) -> None:
    trainer = make_trainer(tmp_path, tiny_folder)
    with pytest.raises(ValueError, match=r"'CPU': 64.0.*nodes have.*'CPU': 4.0"):
        trainer.hyperparameter_search(
            hpo_search_space, "eval_loss", 2, "minimize", resources_per_trial={"CPU": 64}
        )


def test_fractions_of_a_gpu_and_several_workers_count() -> None:
    need = Need.of(None, {"cpu": 0.5})
    assert (need.each, need.workers, need.room()) == ({"CPU": 0.5}, 1, 8)
    two = Need.of(ray.train.ScalingConfig(num_workers=2), None)
    assert (two.workers, two.room()) == (2, 2)
    with pytest.raises(ValueError, match="resources_per_trial is for trials on one worker"):
        Need.of(ray.train.ScalingConfig(num_workers=2), {"CPU": 1})


def test_the_nodes_are_looked_at_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    rooms = iter([0, 8, 9])
    need: Any = SimpleNamespace(room=lambda: next(rooms))
    limit, few = Limit(need, None), Limit(need, 3)
    assert [limit() for _ in range(100)] == [1] * 100
    assert few() == 3
    monkeypatch.setattr("ray_st.runtime.tune.trial_resources._LOOK_S", 0.0)
    assert limit() == 9


@pytest.mark.parametrize(
    ("result", "error", "state"),
    [
        ({"objective": 1.0, "ended": True}, False, "COMPLETE"),
        ({"objective": 1.0, "ended": False}, False, "PRUNED"),
        ({"objective": 1.0, "ended": True, "fault": "ValueError: nan"}, False, "FAIL"),
        ({"objective": 1.0, "ended": False}, True, "FAIL"),
        ({}, False, "FAIL"),
    ],
)
def test_endings(result: dict[str, Any], error: bool, state: str) -> None:
    assert ending(result, error)[0] == state


def test_domains_of_ray_tune_are_drawn_by_optuna() -> None:
    import optuna
    from ray import tune

    domains = {
        "a": tune.loguniform(1e-6, 1e-4),
        "b": tune.choice([4, 8]),
        "c": tune.randint(1, 5),
        "d": tune.quniform(0, 1, 0.25),
        "e": 7,
    }
    trial = optuna.create_study().ask()
    drawn = {name: suggest(trial, name, domain) for name, domain in domains.items()}
    assert drawn["e"] == 7
    assert trial.distributions["a"].log  # type: ignore[attr-defined]
    assert trial.distributions["c"].high == 4  # type: ignore[attr-defined]
    assert trial.distributions["d"].step == 0.25  # type: ignore[attr-defined]
    for domain in (tune.grid_search([1]), tune.randn(0, 1)):
        with pytest.raises(ValueError, match="hp_space: 'f'"):
            suggest(trial, "f", domain)


@pytest.mark.parametrize(
    "given", ["asha", AsyncHyperBandScheduler("evaluation", reduction_factor=2, stop_last_trials=False)]
)
def test_a_scheduler_remembers(given: Any) -> None:
    scheduler = make_scheduler(given, "max", 1, 2)
    before = [(0, {"evaluation": 1, "objectives": [0.9]}), (1, {"evaluation": 1, "objectives": [0.8]})]
    assert remember(scheduler, before) == {1}
    assert told(scheduler, 2, events([0.1])) == ["STOP"]


def events(values: list[float]) -> list[dict[str, Any]]:
    return [{"evaluation": place, "objectives": [value]} for place, value in enumerate(values, 1)]


def told(scheduler: Any, number: int, events: list[dict[str, Any]]) -> list[str]:
    """What a scheduler decides about the evaluations of a trial."""
    trial, nobody = SimpleNamespace(trial_id="any", config={"number": number}), None
    scheduler.on_trial_add(nobody, trial)
    return [
        scheduler.on_trial_result(nobody, trial, {**event, "objective": event["objectives"][0]})
        for event in events
    ]


@pytest.mark.parametrize("first", [0, 1], ids=["from its start", "from its checkpoint"])
def test_others_are_compared_with_a_trial_that_an_earlier_driver_began(first: int) -> None:
    one, other, last = events([0.6]), events([0.65, 0.7]), events([0.62])
    unbroken = make_scheduler("asha", "max", 1, 2)
    assert told(unbroken, 0, one) + told(unbroken, 1, other) == ["CONTINUE"] * 3
    assert told(unbroken, 2, last) == ["STOP"]
    resumed = make_scheduler("asha", "max", 1, 2)
    assert remember(resumed, [(0, one[0]), (1, other[0])]) == set()
    assert told(resumed, 2, last) == ["STOP"]  # before the other one has continued
    assert set(told(resumed, 1, other[first:])) == {"CONTINUE"}


def test_a_trial_that_was_stopped_before_its_driver_was_killed_stays_so(tmp_path: Path) -> None:
    def study() -> Study:
        return Study(space_of_one, Objective(None, ("maximize",)), Journal(tmp_path / "journal.jsonl"), 6)

    killed = study()
    for value, broken in ((0.9, {}), (0.1, {}), (0.95, {"violations": {"model_mib <= 90": 0.1}})):
        asked = killed.ask()
        assert asked is not None
        killed.report(asked.number, 1, 10, [value], ended=False, **broken)
    ended: list[tuple[int, str]] = []
    watcher: Any = SimpleNamespace(ended=lambda record: ended.append((record.number, record.state)))
    after = study()
    assert after.left == 6
    nothing: Any = SimpleNamespace(must_checkpoint=None, objective=Objective(None, ("maximize",)))
    options = as_options({"scheduler": "asha", "reduction_factor": 2}, 1)
    need, stop = Need({"CPU": 1}), SearchStop()
    run = SearchRun(after, nothing, options, tmp_path, True, need, None, watcher, stop, "s")
    run._scheduled()
    assert ended == [(1, "PRUNED"), (2, "PRUNED")]
    assert [bool(record.reason) for record in after.records] == [False, False, True]
    assert after.records[2].reason.startswith("it violates model_mib <= 90")
    assert after.left == 4
    assert after.ask().number == 0  # type: ignore[union-attr]


def space_of_one(trial: Any) -> dict[str, Any]:
    return {"x": trial.suggest_float("x", 0, 1)}
