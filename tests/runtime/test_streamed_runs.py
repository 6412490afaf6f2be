"""Whole runs whose data is encoded while they train: killed or not, they are those of data that was encoded before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import ray.train
from transformers import TrainerCallback

from ray_st import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from ray_st.data import segments
from ray_st.losses import MultipleNegativesRankingLoss
from ray_st.training.checkpoint.sample_log import LEDGER, read_ledger
from runtime_helpers import KillOnce, difference, losses_of

pytestmark = pytest.mark.ray

ROWS, BATCH, EPOCHS = 203, 16, 2
STEPS = EPOCHS * -(-ROWS // BATCH)
TABLE = pa.table({"a": [f"one {i}" for i in range(ROWS)], "b": [f"two {i * i} {i}" for i in range(ROWS)]})


class KillPlanner(TrainerCallback):
    """Kills the actor that plans windows at a step, from the first rank, the first time only."""

    def __init__(self, step: int, marker: Path) -> None:
        self.step, self.marker = step, marker

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step and args.process_index == 0 and not self.marker.exists():
            self.marker.touch()
            source: Any = kwargs["train_dataloader"].dataset._source
            ray.kill(source.planner._actor, no_restart=False)


def train(folder: Path, model_folder: Path, source: Any, workers: int, *callbacks: TrainerCallback) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "ROWS", 16)
        model = SentenceTransformer(model_folder, device="cpu")
        args = SentenceTransformerTrainingArguments(
            output_dir=str(folder),
            global_train_batch_size=BATCH,
            num_train_epochs=EPOCHS,
            window_rows=64,
            learning_rate=0.001,
            report_to="none",
            logging_steps=1,
            save_strategy="steps",
            save_steps=4,
            save_total_limit=1,
            ledger=True,
        )
        trainer = SentenceTransformerTrainer(
            model,
            args,
            train_dataset=source,
            loss=MultipleNegativesRankingLoss(model, gather_across_devices=True),
            scaling_config=ray.train.ScalingConfig(num_workers=workers),
            callbacks=list(callbacks),
        )
        trainer.train()
        return trainer


@pytest.fixture(scope="module")
def expected(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """In this process, where all rows are encoded before the first step."""
    folder = tmp_path_factory.mktemp("here")
    return train(folder, tiny_folder, TABLE, 0), folder


def parquet(folder: Path) -> str:
    data = folder / "data"
    data.mkdir()
    for part in range(3):
        pq.write_table(TABLE.slice(part * 70, 70), data / f"{part}.parquet", row_group_size=11)
    return str(data)


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
