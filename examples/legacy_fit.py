"""The older way of training, without a trainer: it still works, also on a cluster."""

from __future__ import annotations

from ray.train import ScalingConfig
from torch.utils.data import DataLoader

from offline import start
from ray_st import InputExample, SentenceTransformer, losses


def main(scaling_config: ScalingConfig | None = None) -> None:
    """Trains on two pairs."""
    model = SentenceTransformer("distilbert/distilbert-base-uncased")
    train_examples = [
        InputExample(texts=["My first sentence", "My second sentence"], label=0.8),
        InputExample(texts=["Another pair", "Unrelated sentence"], label=0.3),
    ]
    train_dataloader = DataLoader(train_examples, shuffle=True, batch_size=16)
    train_loss = losses.CosineSimilarityLoss(model)
    model.fit(
        train_objectives=[(train_dataloader, train_loss)],
        epochs=1,
        warmup_steps=100,
        output_path="models/legacy-fit",
        scaling_config=scaling_config,
    )
    print("similarity:", model.similarity(*model.encode(train_examples[0].texts)).item())


if __name__ == "__main__":
    start(main)
