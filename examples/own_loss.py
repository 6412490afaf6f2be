"""A custom loss with its own weights: a sigmoid of the cosine similarity predicts the score.

Any module with this forward works; docs/custom-loss.md shows what the library's base class adds.
"""

from __future__ import annotations

import datasets
import torch
import torch.nn.functional as F
from ray.train import ScalingConfig
from torch import Tensor, nn

from offline import start
from ray_st import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments


class SigmoidLoss(nn.Module):
    """Cross entropy between scores in [0, 1] and ``sigmoid(scale * cosine + bias)``, with both numbers learned.

    Args:
        model: Makes embeddings.
    """

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.model = model
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.bias = nn.Parameter(torch.tensor(-5.0))

    def forward(self, sentence_features: list[dict[str, Tensor]], labels: Tensor) -> Tensor:
        """Mean over the rows of a batch (n) with labels (n)."""
        first, second = (self.model(column)["sentence_embedding"] for column in sentence_features)
        cosines = F.cosine_similarity(first, second)
        return F.binary_cross_entropy_with_logits(self.scale * cosines + self.bias, labels.to(cosines))


def main(scaling_config: ScalingConfig | None = None) -> None:
    """Trains the model and the two weights of the loss."""
    model = SentenceTransformer("microsoft/mpnet-base")
    loss = SigmoidLoss(model)
    args = SentenceTransformerTrainingArguments(
        output_dir="models/own-loss",
        num_train_epochs=4,
        per_device_train_batch_size=16,
        # New weights need a higher learning rate than pretrained ones.
        learning_rate_mapping={"^scale$|^bias$": 1e-2},
        logging_steps=10,
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=args,
        train_dataset=datasets.load_dataset("sentence-transformers/stsb", split="train"),
        loss=loss,
        scaling_config=scaling_config,
    )
    trainer.train()
    print("losses:", [round(entry["loss"], 3) for entry in trainer.state.log_history if "loss" in entry])
    print(f"scale {loss.scale.item():.3f}, bias {loss.bias.item():.3f}")


if __name__ == "__main__":
    start(main)
