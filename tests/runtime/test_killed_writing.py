"""Workers on Ray killed while a thread writes a checkpoint: Ray starts them again, and the run ends as if unbroken."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray.train
from datasets import Dataset
from transformers import TrainerCallback

from checkpoint_phases import PHASES
from ray_st import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from ray_st.losses import MultipleNegativesRankingLoss
from ray_st.training.checkpoint.sample_log import LEDGER, read_ledger
from runtime_helpers import difference, losses_of

pytestmark = [pytest.mark.ray, pytest.mark.long]

ROWS, BATCH, STEPS, EVERY = 48, 6, 8, 2


class KillInPhase(TrainerCallback):
    """Kills the first rank in a phase of its second checkpoint, the first time only."""

    def __init__(self, owner: Any, name: str, marker: Path) -> None:
        self.owner, self.name, self.marker = owner, name, marker

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.process_index == 0 and not self.marker.exists():
            setattr(self.owner, self.name, self._dying(getattr(self.owner, self.name)))

    def _dying(self, function: Callable[..., Any]) -> Callable[..., Any]:
        calls = iter((False, True))

        def call(*given: Any, **options: Any) -> Any:
            if next(calls):
                self.marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*given, **options)

        return call


def train(folder: Path, model_folder: Path, **options: Any) -> Any:
    model = SentenceTransformer(model_folder, device="cpu")
    texts = {"a": [f"one {i}" for i in range(ROWS)], "b": [f"two {i * i}" for i in range(ROWS)]}
    args = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        global_train_batch_size=BATCH,
        num_train_epochs=1,
        learning_rate=0.01,
        report_to="none",
        logging_steps=1,
        save_strategy="steps",
        save_steps=EVERY,
        save_total_limit=1,
        ledger=True,
    )
    trainer = SentenceTransformerTrainer(
        model,
        args,
        train_dataset=Dataset.from_dict(texts),
        loss=MultipleNegativesRankingLoss(model, gather_across_devices=True),
        scaling_config=ray.train.ScalingConfig(num_workers=2),
        **options,
    )
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def unbroken(cluster: None, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("unbroken")
    return train(folder, tiny_folder), folder


@pytest.mark.parametrize("phase", PHASES)
def test_it_ends_as_if_unbroken(
    unbroken: tuple[Any, Path], tiny_folder: Path, tmp_path: Path, phase: str
) -> None:
    expected, folder = unbroken
    marker = tmp_path / "killed"
    found = train(tmp_path / "out", tiny_folder, callbacks=[KillInPhase(*PHASES[phase], marker)])
    assert marker.exists()
    ours, theirs = (list(read_ledger(place / LEDGER)) for place in (tmp_path / "out", folder))
    assert [line["step"] for line in ours] == list(range(1, STEPS + 1))
    assert ours == theirs
    assert losses_of(found) == losses_of(expected)
    assert difference(found, expected) == 0.0
    left = [[path.name for path in place.glob("checkpoint-*")] for place in (tmp_path / "out", folder)]
    assert left == [[f"checkpoint-{STEPS}"]] * 2
