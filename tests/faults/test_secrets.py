"""A canary in arguments, environment and run files turns up in nothing that a run writes."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.train
from ray._private import worker as ray_worker
from transformers import TrainerCallback

from ray_st import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
)
from ray_st.cli import main

CANARY = "canary-5e1d-b0a7"
SECRET_VARIABLES = ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY")
RUN = """
model: somewhere
data: {train: rows.csv}
args: {output_dir: out, hub_token: VALUE}
"""


def holding(folder: Path) -> Iterator[Path]:
    """The files below a folder that hold the canary."""
    for path in folder.rglob("*"):
        if path.is_file() and CANARY.encode() in path.read_bytes():
            yield path


class Plant(TrainerCallback):
    """Puts the canary into the worker's environment, as a node's secrets would be."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        os.environ.update(dict.fromkeys(SECRET_VARIABLES, CANARY))
        assert args.hub_token == CANARY, "it has to get where it is used"


@pytest.mark.ray
def test_a_run_writes_no_secret(
    cluster: None, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    for name in SECRET_VARIABLES:
        monkeypatch.setenv(name, CANARY)
    monkeypatch.setenv("RAY_ST_LOG_FORMAT", "json")
    model = SentenceTransformer(tiny_folder, device="cpu")
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            str(tmp_path / "run"),
            max_steps=3,
            save_steps=1,
            logging_steps=1,
            report_to="none",
            hub_token=CANARY,
        ),
        train_dataset={"a": ["one", "two", "three"] * 8, "b": ["eins", "zwei", "drei"] * 8},
        loss=losses.MultipleNegativesRankingLoss(model),
        callbacks=[Plant()],
        scaling_config=ray.train.ScalingConfig(num_workers=1),
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    shown = capfd.readouterr()
    assert '"event": "train.figures"' in shown.out, "workers' events reach the driver's log"
    assert CANARY not in shown.out + shown.err
    assert list(holding(tmp_path)) == []
    assert list(holding(Path(ray_worker._global_node.get_logs_dir_path()))) == []


@pytest.mark.parametrize("value", [f"[{CANARY}]", f"{{it: {CANARY}}}"])
def test_a_refused_run_file_says_no_secret(value: str, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(RUN.replace("VALUE", value))
    assert main(["train", str(path)]) == 2
    assert "hub_token" in (said := capsys.readouterr().err)
    assert CANARY not in said


def test_records_of_arguments_have_placeholders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    args = SentenceTransformerTrainingArguments(str(tmp_path), hub_token=CANARY, report_to="none")
    assert (
        CANARY not in f"{args.to_dict()}{args.to_json_string()}{args.to_sanitized_dict()}{args}{caplog.text}"
    )
