"""Trials that always hang, or always kill their process: given up in the end, and no others suffer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ray_st.study.journal import Journal
from runtime_helpers import AlwaysHarmed
from search_helpers import make_trainer

pytestmark = [
    pytest.mark.ray,
    pytest.mark.long,
    pytest.mark.usefixtures("cluster"),
    # Ray Tune leaves files and sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

BAD = 0.5
"""The learning rate of the trial that is harmed."""


@pytest.mark.parametrize("way", ["kill", "hang"])
def test_a_trial_that_is_lost_each_time_is_given_up(
    way: str,
    tmp_path: Path,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RAY_ST_STEP_LIMIT_S", "10")
    log = tmp_path / "harmed"
    trainer = make_trainer(tmp_path, tiny_folder, callbacks=[AlwaysHarmed(way, BAD, log)])
    rates: list[dict[str, Any]] = [{"learning_rate": rate} for rate in (1e-3, BAD, 1e-2, 2e-3, 3e-3)]
    best = trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-6, 1, log=True)},
        "eval_loss",
        n_trials=0,
        points_to_evaluate=rates,
        rungs=2,
        scheduler=None,
        max_concurrent_trials=2,
        max_failures=2,
        resources_per_trial={"CPU": 0.5},
        name="s",
    )
    assert log.read_text().count("harmed") == 3  # the first time, and two restarts
    trials = Journal(tmp_path / "s" / "journal.jsonl").records()
    assert [trial.state for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert [len(trial.history) for trial in trials] == [2, 0, 2, 2, 2]
    assert trials[3].spans[0][0] > trials[0].spans[-1][1]  # its slot was used again
    assert best.run_id != "1"
    out = capsys.readouterr().out
    assert out.count("trial 1 was lost, it is started again") == 2
    assert out.count("trial 1 was lost, it is given up") == 1
    if way == "hang":
        assert "rank 0 has made no progress" in trials[1].reason
    else:
        assert "its process was lost" in trials[1].reason
