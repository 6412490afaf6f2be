"""A whole run whose data is encoded while it trains, and a callback that kills the planner of its windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import ray.train
import torch
import xxhash
from torch import nn
from transformers import TrainerCallback

from ray_st import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from ray_st.data import segments
from ray_st.losses import MultipleNegativesRankingLoss
from ray_st.training.checkpoint.sample_log import LEDGER, read_ledger

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


class NoteSource(TrainerCallback):
    """Writes down the kind of batch source of each rank, in a file of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        source = kwargs["train_dataloader"].dataset._source
        (self.folder / str(args.process_index)).write_text(type(source).__name__)


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


class Touch(nn.Module):
    """A loss of zero that runs the model on a few tokens of one row."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, sentence_features: Any, labels: Any = None) -> torch.Tensor:
        few = {key: v[:1, :4] for key, v in sentence_features[0].items() if isinstance(v, torch.Tensor)}
        embedding: torch.Tensor = self.model(few)["sentence_embedding"]
        return embedding.sum() * 0


def order_of(folder: Path, model_folder: Path, source: Any, workers: int, steps: int) -> str:
    """A digest of the rows of a run's first steps; windows of eight segments, nothing kept for later runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "ROWS", 1024)
        model = SentenceTransformer(model_folder, device="cpu")
        trainer = SentenceTransformerTrainer(
            model,
            SentenceTransformerTrainingArguments(
                output_dir=str(folder),
                global_train_batch_size=64,
                max_steps=steps,
                window_rows=8192,
                token_cache=False,
                report_to="none",
                save_strategy="no",
                ledger=True,
            ),
            train_dataset=source,
            loss=Touch(model),
            scaling_config=ray.train.ScalingConfig(num_workers=workers),
        )
        trainer.train()
    lines = [line["rows"] for line in read_ledger(folder / LEDGER)]
    assert len(lines) == steps
    return xxhash.xxh3_64_hexdigest(repr(lines).encode())


def parquet(folder: Path) -> str:
    data = folder / "data"
    data.mkdir()
    for part in range(3):
        pq.write_table(TABLE.slice(part * 70, 70), data / f"{part}.parquet", row_group_size=11)
    return str(data)
