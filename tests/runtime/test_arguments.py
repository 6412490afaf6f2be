"""Arguments on workers: what they say of process and device is true there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import ray.train
from datasets import Dataset
from transformers import TrainerCallback

from ray_st import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
)

pytestmark = pytest.mark.ray

PLAIN = """world_size process_index local_process_index should_save should_log n_gpu train_batch_size eval_batch_size
    use_cpu per_device_train_batch_size global_train_batch_size"""


class Witness(TrainerCallback):
    """Writes down what a worker's arguments say."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.names = folder, PLAIN.split()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        seen = {name: getattr(args, name) for name in self.names}
        seen |= {
            "device": str(args.device),
            "mode": args.parallel_mode.value,
            "level": args.get_process_log_level(),
        }
        seen |= {"logs": os.environ.get("TENSORBOARD_LOGGING_DIR"), "warmup": args.get_warmup_steps(10)}
        seen["has_token"] = args.hub_token == "hf_secret"
        with args.main_process_first():
            seen["first"] = not any(self.folder.glob("*.json"))
            (self.folder / f"{args.process_index}.json").write_text(json.dumps(seen))


def test_they_are_true_on_two_workers(cluster: None, tiny_folder: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(tiny_folder, device="cpu")
    args = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path / "out"),
        max_steps=1,
        global_train_batch_size=6,
        save_strategy="no",
        warmup_ratio=0.2,
        log_level="info",
        log_level_replica="error",
        log_on_each_node=False,
        logging_dir=str(tmp_path / "logs"),
        report_to="tensorboard",
        hub_token="hf_secret",
    )
    seen = tmp_path / "seen"
    seen.mkdir()
    trainer = SentenceTransformerTrainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_dict({"a": ["good", "bad", "man"] * 4, "b": ["x", "y", "z"] * 4}),
        loss=losses.MultipleNegativesRankingLoss(model),
        callbacks=[Witness(seen)],
        scaling_config=ray.train.ScalingConfig(num_workers=2),
    )
    trainer.train()
    for rank in range(2):
        assert json.loads((seen / f"{rank}.json").read_text()) == {
            "world_size": 2,
            "process_index": rank,
            "local_process_index": rank,
            "should_save": rank == 0,
            "should_log": rank == 0,
            "n_gpu": 0,
            "train_batch_size": 3,
            "eval_batch_size": 8,
            "use_cpu": True,
            "per_device_train_batch_size": 3,
            "global_train_batch_size": 6,
            "has_token": True,
            "device": "cpu",
            "mode": "distributed",
            "level": 20 if rank == 0 else 40,
            "logs": str(tmp_path / "logs"),
            "warmup": 2,
            "first": rank == 0,
        }
    assert (args.world_size, args.per_device_train_batch_size, args.use_cpu) == (1, 8, False)
    assert list((tmp_path / "logs").glob("events.out.tfevents*"))
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if b"hf_secret" in path.read_bytes()]
