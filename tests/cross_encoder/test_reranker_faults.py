"""A reranker's run that loses a worker, and one that is evaluated beside training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.train import ScalingConfig
from transformers import EarlyStoppingCallback

from ray_st import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
from ray_st.cross_encoder import losses
from ray_st.training.checkpoint.sample_log import LEDGER, read_ledger
from reranker_rows import correlation, rows
from runtime_helpers import KillOnce, difference, losses_of

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

ROWS, BATCH, EPOCHS = 40, 8, 2
METRIC = "eval_dev_spearman"


def train(
    folder: Path, model_folder: Path, form: str, loss: str, arguments: Any = None, **options: Any
) -> CrossEncoderTrainer:
    """Trains forty rows on two workers in ten steps."""
    model = CrossEncoder(str(model_folder), device="cpu")
    given = {
        "num_train_epochs": EPOCHS,
        "global_train_batch_size": BATCH,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": 3,
        "ledger": True,
        "report_to": "none",
        "use_cpu": True,
        **(arguments or {}),
    }
    trainer = CrossEncoderTrainer(
        model=model,
        args=CrossEncoderTrainingArguments(str(folder), **given),
        train_dataset=rows(form, ROWS),
        loss=getattr(losses, loss)(model),
        scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
        **options,
    )
    trainer.train()
    return trainer


def ledger(folder: Path) -> list[dict[str, Any]]:
    return list(read_ledger(folder / LEDGER))


@pytest.mark.long
@pytest.mark.parametrize(
    ("form", "loss"),
    [
        ("triplets", "MultipleNegativesRankingLoss"),  # draws its negatives
        ("lists", "LambdaLoss"),
    ],
)
def test_a_killed_worker_is_replaced_and_the_run_ends_as_if_unbroken(
    form: str, loss: str, tmp_path: Path, tiny_reranker: Path
) -> None:
    whole = train(tmp_path / "whole", tiny_reranker, form, loss)
    killed = tmp_path / "killed"
    broken = train(tmp_path / "broken", tiny_reranker, form, loss, callbacks=[KillOnce(5, killed)])
    assert killed.exists()
    steps = EPOCHS * ROWS // BATCH
    assert len(losses_of(broken)) == steps
    assert losses_of(broken) == pytest.approx(losses_of(whole), abs=1e-7)
    assert difference(broken, whole) == 0.0
    lines = ledger(tmp_path / "broken")
    assert lines == ledger(tmp_path / "whole")
    assert [line["step"] for line in lines] == list(range(1, steps + 1))
    for epoch in range(EPOCHS):
        epoch_lines = lines[epoch * steps // EPOCHS : (epoch + 1) * steps // EPOCHS]
        used = sorted(row for line in epoch_lines for batch in line["rows"] for row in batch)
        assert used == list(range(ROWS))


def scores(trainer: CrossEncoderTrainer) -> dict[int, float]:
    return {entry["step"]: entry[METRIC] for entry in trainer.state.log_history if METRIC in entry}


@pytest.mark.long
def test_evaluation_beside_training_stops_early_and_finds_the_best_model(
    tmp_path: Path, tiny_reranker: Path
) -> None:
    arguments = {
        "num_train_epochs": 20,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_steps": 1,
        "save_total_limit": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": METRIC,
        "greater_is_better": True,
    }
    background = {"eval_on": "background", "eval_resources": {"CPU": 1}}
    beside, within = (
        train(
            tmp_path / name,
            tiny_reranker,
            "scores",
            "MSELoss",
            {**arguments, **more},
            evaluator=correlation(),
            callbacks=[EarlyStoppingCallback(2)],
        )
        for name, more in (("beside", background), ("within", {}))
    )
    found, expected = scores(beside), scores(within)
    stopped = max(expected)
    # Beside training it stops later, never earlier, with the same figures up to there.
    assert stopped <= max(found) < 20 * ROWS // BATCH
    assert [found[step] for step in expected] == pytest.approx(list(expected.values()), abs=1e-6)
    for trainer, known in ((beside, found), (within, expected)):
        best = max(known, key=lambda step: known[step])
        assert trainer.state.best_global_step == best
        assert trainer.state.best_model_checkpoint == str(
            Path(trainer.args.output_dir) / f"checkpoint-{best}"
        )
        assert correlation()(trainer.model)["dev_spearman"] == pytest.approx(known[best], abs=1e-6)
