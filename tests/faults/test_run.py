"""A run that is told to stop, twice: one of its workers first, then its driver. Nothing is lost or repeated."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.train
from transformers import TrainerCallback

from ray_st import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
)
from ray_st.training.checkpoint.lease import LEASE
from ray_st.training.checkpoint.sample_log import LEDGER, read_ledger
from ray_st.util.endings import INTERRUPTED, Interrupted

ROWS, STEPS = 48, 6

pytestmark = pytest.mark.ray


class ToldToEnd(TrainerCallback):
    """Gets its worker told to end, and waits until the worker knows; the next worker gets its driver told."""

    def __init__(self, worker: Path, driver: Path) -> None:
        self.worker, self.driver = worker, driver
        self.begun = False

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        from ray_st.runtime.supervision.ray_callbacks import stop_request

        if self.begun or args.process_index == 0 or self.driver.exists():
            return
        self.begun = True
        if self.worker.exists():
            self.driver.touch()
        else:
            self.worker.touch()
            os.kill(os.getpid(), signal.SIGTERM)
        while not stop_request.why:
            threading.Event().wait(0.01)


def pass_on(marker: Path, over: threading.Event) -> None:
    while not over.wait(0.05):
        if marker.exists():
            os.kill(os.getpid(), signal.SIGTERM)
            return


def make(folder: Path, model_folder: Path, **options: Any) -> SentenceTransformerTrainer:
    model = SentenceTransformer(model_folder, device="cpu")
    return SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            str(folder),
            num_train_epochs=1,
            per_device_train_batch_size=ROWS // STEPS // 2,
            save_strategy="no",
            logging_steps=1,
            ledger=True,
            report_to="none",
        ),
        train_dataset={"a": [f"one {i}" for i in range(ROWS)], "b": [f"two {i * i}" for i in range(ROWS)]},
        loss=losses.MultipleNegativesRankingLoss(model),
        scaling_config=ray.train.ScalingConfig(num_workers=2),
        **options,
    )


@pytest.mark.long
def test_a_worker_and_then_the_driver_are_told_to_end(
    cluster: None, tiny_folder: Path, tmp_path: Path, capfd: Any
) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    folder, marker, over = tmp_path / "run", tmp_path / "driver", threading.Event()
    thread = threading.Thread(target=pass_on, args=(marker, over))
    thread.start()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as raised:
        make(folder, tiny_folder, callbacks=[ToldToEnd(tmp_path / "worker", marker)]).train()
    over.set()
    thread.join()
    assert raised.value.exit_code == INTERRUPTED
    assert signal.getsignal(signal.SIGTERM) is before
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
    assert json.loads((folder / LEASE).read_text())["released"]  # the file stays

    resumed = make(folder, tiny_folder)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == STEPS
    lines = list(read_ledger(folder / LEDGER))
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert sorted(row for line in lines for batch in line["rows"] for row in batch) == list(range(ROWS))
