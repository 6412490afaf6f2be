"""The trainer inside a user's own training function on Ray Train's workers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import ray.data
import ray.train
from datasets import Dataset
from ray.train.torch import TorchTrainer

from ray_st import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
)
from ray_st.training.data.local_source import local_context
from runtime_helpers import losses_of

pytestmark = pytest.mark.ray

ROWS = {"a": [f"one {i} man" for i in range(30)], "b": [f"two {i * i} pasta" for i in range(30)]}


def arguments(folder: str, workers: int) -> SentenceTransformerTrainingArguments:
    return SentenceTransformerTrainingArguments(
        output_dir=folder,
        num_train_epochs=1,
        per_device_train_batch_size=10 // workers,
        learning_rate=1e-3,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )


def test_shards_of_the_users_own_run(cluster: None, tiny_folder: Path, tmp_path: Path) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not have tests on their path

    def train_loop_per_worker(config: dict[str, Any]) -> None:
        model = SentenceTransformer(config["model"], device="cpu")
        try:
            SentenceTransformerTrainer(model, scaling_config=ray.train.ScalingConfig())
        except ValueError as error:
            refusal = str(error)
        evaluation = Dataset.from_dict({name: texts[:9] for name, texts in ROWS.items()})
        trainer = SentenceTransformerTrainer(
            model=model,
            args=arguments(config["folder"], workers=2),
            train_dataset=ray.train.get_dataset_shard("train"),
            eval_dataset=evaluation,
            loss=losses.MultipleNegativesRankingLoss(model, gather_across_devices=True),
        )
        before = trainer.evaluate(metric_key_prefix="before")
        result = trainer.train()
        after = trainer.evaluate({"one": evaluation})
        if trainer.is_world_process_zero():
            told = {
                "losses": losses_of(trainer),
                "steps": result.global_step,
                "before": before["before_loss"],
                "after": after["eval_one_loss"],
                "folder": trainer.args.output_dir,
                "refusal": refusal,
            }
            Path(config["told"]).write_text(json.dumps(told))

    alone = SentenceTransformer(tiny_folder, device="cpu")
    expected = SentenceTransformerTrainer(
        model=alone,
        args=arguments(str(tmp_path / "alone"), workers=1),
        train_dataset=ROWS,
        loss=losses.MultipleNegativesRankingLoss(alone),
    )
    running = expected.spec().rebuild(local_context(expected.data.train_specs(1), tmp_path / "alone"))
    running.train()

    config = {
        "model": str(tiny_folder),
        "folder": str(tmp_path / "mine"),
        "told": str(tmp_path / "told.json"),
    }
    fitted = TorchTrainer(
        train_loop_per_worker,
        train_loop_config=config,
        scaling_config=ray.train.ScalingConfig(num_workers=2, resources_per_worker={"CPU": 0.5}),
        run_config=ray.train.RunConfig(name="own", storage_path=str(tmp_path / "runs")),
        datasets={"train": ray.data.from_arrow(Dataset.from_dict(ROWS).data.table)},
    ).fit()

    told = json.loads((tmp_path / "told.json").read_text())
    assert told["steps"] == 3
    assert sum(told["losses"]) == pytest.approx(sum(losses_of(running)), abs=0.5)
    assert told["after"] < told["before"]
    assert told["refusal"].startswith("scaling_config has no effect inside a worker of Ray Train")
    assert told["folder"] == str(tmp_path / "runs" / "own")
    assert fitted.metrics["step"] == 3
    assert fitted.checkpoint is not None
    assert Path(fitted.checkpoint.path).name == "checkpoint-3"
    assert SentenceTransformer(fitted.checkpoint.path, device="cpu").encode("one").shape == (32,)
