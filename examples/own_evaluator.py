"""A custom evaluator that selects the best checkpoint: are paraphrases close, and other texts spread out?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import torch
from ray.train import ScalingConfig

from offline import start
from ray_st import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from ray_st.evaluation import SentenceEvaluator
from ray_st.losses import MultipleNegativesRankingLoss


class AlignmentEvaluator(SentenceEvaluator):
    """Alignment and uniformity of pairs (Wang and Isola 2020, arXiv:2005.10242); less is better.

    Args:
        first: Texts (n).
        second: Their paraphrases (n).
        name: Prefix of the metrics.
    """

    greater_is_better = False

    def __init__(self, first: Sequence[str], second: Sequence[str], name: str = "") -> None:
        self.first, self.second, self.name = list(first), list(second), name
        self.primary_metric = "sum"

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: float = -1, steps: int = -1
    ) -> dict[str, float]:
        """During training, ``encode`` is distributed over all workers, and each gets all embeddings."""
        one, two = (
            model.encode(texts, convert_to_tensor=True, normalize_embeddings=True)
            for texts in (self.first, self.second)
        )
        alignment = (one - two).pow(2).sum(1).mean().item()
        uniformity = torch.pdist(one).pow(2).mul(-2).exp().mean().log().item()
        metrics = {"alignment": alignment, "uniformity": uniformity, "sum": alignment + uniformity}
        return self.prefix_name_to_metrics(metrics, self.name)


def main(scaling_config: ScalingConfig | None = None) -> None:
    """Trains, and keeps the checkpoint with the best metric."""
    model = SentenceTransformer("microsoft/mpnet-base")
    dev = datasets.load_dataset("sentence-transformers/all-nli", "pair", split="dev")
    evaluator = AlignmentEvaluator(dev["anchor"], dev["positive"], name="dev")
    print("before:", evaluator(model))
    args = SentenceTransformerTrainingArguments(
        output_dir="models/own-evaluator",
        num_train_epochs=2,
        per_device_train_batch_size=16,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="eval_dev_sum",
        greater_is_better=False,
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=args,
        train_dataset=datasets.load_dataset("sentence-transformers/all-nli", "pair", split="train[:10000]"),
        loss=MultipleNegativesRankingLoss(model),
        evaluator=evaluator,
        scaling_config=scaling_config,
    )
    trainer.train()
    print("after:", evaluator(model))
    print("best checkpoint:", trainer.state.best_model_checkpoint)


if __name__ == "__main__":
    start(main)
