"""Callbacks: one of our own, one of transformers', and the trackers that are installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback

from offline import Run, command_line
from ray_st import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from ray_st.evaluation import EmbeddingSimilarityEvaluator
from ray_st.losses import CoSENTLoss

TRACKERS = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow", "codecarbon": "codecarbon"}
"""Trackers by the name of their package; the first writes files, the others need accounts, servers or sensors."""


class LossCurve(TrainerCallback):
    """Collects the losses, where the loop runs: on the workers. What it holds at the end comes back to the caller."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        """Called wherever something is logged."""
        if "loss" in logs:
            self.losses.append(logs["loss"])


def main(run: Run) -> None:
    """Trains with callbacks and shows what they know at the end."""
    model = SentenceTransformer(run.model("microsoft/mpnet-base"))
    stsb = run.load_dataset("sentence-transformers/stsb", split="validation")
    evaluator = EmbeddingSimilarityEvaluator(
        stsb["sentence1"], stsb["sentence2"], stsb["score"], name="sts-dev"
    )
    installed = [name for name, package in TRACKERS.items() if find_spec(package)]
    print("trackers:", installed or "none installed")
    args = SentenceTransformerTrainingArguments(
        output_dir=run.folder("mpnet-base-stsb"),
        eval_strategy="steps",
        eval_steps=100,
        save_strategy="steps",
        save_steps=100,
        logging_steps=100,
        load_best_model_at_end=True,
        metric_for_best_model="eval_sts-dev_spearman_cosine",
        report_to=[] if run.offline else installed,
        run_name="mpnet-base-stsb",
    )
    curve = LossCurve()
    trainer = SentenceTransformerTrainer(
        model=model,
        args=run.arguments(args),
        train_dataset=run.load_dataset("sentence-transformers/stsb", split="train"),
        loss=CoSENTLoss(model),
        evaluator=evaluator,
        callbacks=[curve, EarlyStoppingCallback(early_stopping_patience=3)],
        scaling_config=run.scaling,
    )
    trainer.train()
    print("losses:", [round(loss, 3) for loss in curve.losses])
    print("best:", trainer.state.best_metric, "at step", trainer.state.best_global_step)


if __name__ == "__main__":
    main(command_line(__doc__))
