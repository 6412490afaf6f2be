"""Callbacks: a custom one, one of transformers, and the installed trackers."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import datasets
from ray.train import ScalingConfig
from transformers import EarlyStoppingCallback, TrainerCallback

from offline import start
from ray_st import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from ray_st.evaluation import EmbeddingSimilarityEvaluator
from ray_st.losses import CoSENTLoss


class LossCurve(TrainerCallback):
    """Collects the losses on the workers, where the loop runs. Its attributes come back to the driver."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        """Called whenever something is logged."""
        if "loss" in logs:
            self.losses.append(logs["loss"])


def main(scaling_config: ScalingConfig | None = None) -> None:
    """Trains with callbacks and shows what they collected."""
    model = SentenceTransformer("microsoft/mpnet-base")
    stsb = datasets.load_dataset("sentence-transformers/stsb", split="validation")
    evaluator = EmbeddingSimilarityEvaluator(
        stsb["sentence1"], stsb["sentence2"], stsb["score"], name="sts-dev"
    )
    args = SentenceTransformerTrainingArguments(
        output_dir="models/mpnet-base-stsb",
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_steps=10,
        load_best_model_at_end=True,
        metric_for_best_model="eval_sts-dev_spearman_cosine",
        # "wandb", "mlflow" and "codecarbon", too; a list for several, "all" for all that are installed
        report_to="tensorboard" if find_spec("tensorboard") else "none",
        run_name="mpnet-base-stsb",
    )
    curve = LossCurve()
    trainer = SentenceTransformerTrainer(
        model=model,
        args=args,
        train_dataset=datasets.load_dataset("sentence-transformers/stsb", split="train"),
        loss=CoSENTLoss(model),
        evaluator=evaluator,
        callbacks=[curve, EarlyStoppingCallback(early_stopping_patience=3)],
        scaling_config=scaling_config,
    )
    trainer.train()
    print("losses:", [round(loss, 3) for loss in curve.losses])
    print("best:", trainer.state.best_metric, "at step", trainer.state.best_global_step)


if __name__ == "__main__":
    start(main)
