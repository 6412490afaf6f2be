"""Trials on several workers come back to those of the trial before, unless one of them failed there."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.train import ScalingConfig
from transformers import TrainerCallback

from ray_st.study.journal import Journal
from search_helpers import make_trainer

pytestmark = [
    pytest.mark.ray,
    pytest.mark.long,
    pytest.mark.usefixtures("cluster"),
    # Ray Tune leaves files and sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

RATES = (1e-3, 2e-3, 1e30, 0.5, 3e-3)
"""The objective of the third one is NaN, which the trial's own process finds; the fourth fails in its workers."""


@dataclass
class WritesProcess(TrainerCallback):
    """Writes down in which processes each learning rate is trained, and fails at one of them."""

    log: str

    def on_train_begin(self, args: Any, *_: Any, **__: Any) -> None:
        with open(self.log, "a") as stream:
            stream.write(f"{args.learning_rate} {os.getpid()}\n")
        if args.learning_rate == RATES[3]:
            raise ValueError("not with this rate")


def test_workers_carry_out_one_trial_after_another(tmp_path: Path, tiny_folder: Path) -> None:
    log = tmp_path / "processes"
    trainer = make_trainer(
        tmp_path,
        tiny_folder,
        callbacks=[WritesProcess(str(log))],
        scaling_config=ScalingConfig(num_workers=2),
        arguments={"num_train_epochs": 1},
    )
    trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e30, log=True)},
        "eval_loss",
        n_trials=0,
        points_to_evaluate=[{"learning_rate": rate} for rate in RATES],
        rungs=2,
        scheduler=None,
        max_concurrent_trials=1,
        name="s",
    )
    trials = Journal(tmp_path / "s" / "journal.jsonl").records()
    assert [trial.state for trial in trials] == [*["COMPLETE"] * 2, *["FAIL"] * 2, "COMPLETE"]
    found = defaultdict(set)
    for line in log.read_text().splitlines():
        rate, process = line.split()
        found[float(rate)].add(process)
    first, second, without_value, failed, last = (found[rate] for rate in RATES)
    assert len(first) == len(last) == 2
    assert first == second == without_value
    assert failed <= first
    assert not first & last
    assert ray.available_resources()["CPU"] == ray.cluster_resources()["CPU"]
