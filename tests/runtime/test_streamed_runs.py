"""Whole runs whose data is encoded while they train: killed or not, they are those of data that was encoded before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_st.training.checkpoint.sample_log import LEDGER, read_ledger
from runtime_helpers import KillOnce, difference, losses_of
from streamed_run import STEPS, TABLE, KillPlanner, parquet, train

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def expected(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """In this process, where all rows are encoded before the first step."""
    folder = tmp_path_factory.mktemp("here")
    return train(folder, tiny_folder, TABLE, 0), folder


def check(found: Any, folder: Path, expected: tuple[Any, Path]) -> None:
    trainer, here = expected
    assert len(losses_of(found)) == STEPS
    assert losses_of(found) == pytest.approx(losses_of(trainer), abs=1e-5)
    assert difference(found, trainer) < 1e-4
    ours, theirs = (list(read_ledger(place / LEDGER)) for place in (folder, here))
    assert ours == theirs


def test_two_workers_see_the_samples_of_data_encoded_before_though_planner_and_worker_are_killed(
    cluster: None, tiny_folder: Path, tmp_path: Path, expected: tuple[Any, Path]
) -> None:
    folder = tmp_path / "out"
    kills = (KillPlanner(6, tmp_path / "planner"), KillOnce(17, tmp_path / "worker"))
    found = train(folder, tiny_folder, parquet(tmp_path), 2, *kills)
    assert {path.name for path in tmp_path.iterdir()} >= {"planner", "worker"}
    check(found, folder, expected)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(12))
def test_killed_at_random_steps(
    cluster: None, tiny_folder: Path, tmp_path: Path, expected: tuple[Any, Path], seed: int
) -> None:
    rng, folder = np.random.default_rng(seed), tmp_path / "out"
    planner, worker = rng.integers(1, STEPS, 2).tolist()
    kills = (KillPlanner(planner, tmp_path / "planner"), KillOnce(worker, tmp_path / "worker"))
    found = train(folder, tiny_folder, parquet(tmp_path), int(rng.integers(1, 4)), *kills)
    assert {path.name for path in tmp_path.iterdir()} >= {"planner", "worker"}
    check(found, folder, expected)
