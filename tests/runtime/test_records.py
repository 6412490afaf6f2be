"""Records of a run whose workers were killed and started again: one tracker's run, and the card of the whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset
from ray.train import ScalingConfig

from ray_st import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
)
from runtime_helpers import KillOnce

pytestmark = pytest.mark.ray


@pytest.mark.long
def test_a_killed_run_is_one_run_for_trackers_and_in_the_card(
    cluster: None, tiny_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = SentenceTransformer(tiny_folder, device="cpu")
    rows = {"a": [f"one {i}" for i in range(24)], "b": [f"two {i * i}" for i in range(24)]}
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            str(tmp_path / "out"),
            max_steps=6,
            per_device_train_batch_size=2,
            logging_steps=1,
            save_strategy="steps",
            save_steps=2,
            report_to="tensorboard",
            hub_token="hf_canaryCANARYcanary",
        ),
        train_dataset=Dataset.from_dict(rows),
        loss=losses.MultipleNegativesRankingLoss(model),
        callbacks=[KillOnce(3, tmp_path / "killed")],
        scaling_config=ScalingConfig(num_workers=2),
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    assert (tmp_path / "killed").exists()

    (events,) = (tmp_path / "out" / "runs").iterdir()
    assert 2 <= len(list(events.iterdir())) <= 3  # the first start's, if it came so far, and the second's
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator(str(events))
    accumulator.Reload()
    assert [event.step for event in accumulator.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]

    text = (tmp_path / "final" / "README.md").read_text()
    for part in (
        "- **Rows:** 24",
        "- **Workers:** 2",
        "- **Nodes:** 1",
        "- **Devices:** 2 × CPU",
        "| 6 |",
        "### Time",
    ):
        assert part in text
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or b"hf_canary" not in file.read_bytes(), file
    assert "hf_canary" not in "".join(capfd.readouterr())
