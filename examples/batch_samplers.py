"""The three ways to group rows into batches, and training with one of them."""

from __future__ import annotations

from datasets import Dataset
from ray.train import ScalingConfig

from offline import start
from ray_st import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from ray_st.losses import MultipleNegativesRankingLoss
from ray_st.sampler import DefaultBatchSampler, GroupByLabelBatchSampler, NoDuplicatesBatchSampler
from ray_st.training_args import BatchSamplers

PAIRS = {
    "anchor": ["It's nice weather outside today.", "He drove to work.", "It's nice weather outside today."],
    "positive": ["It's so sunny.", "He took the car to the office.", "The sky is blue."],
}
TOPICS = {
    "sentence": ["It rains.", "He runs.", "It snows.", "She swims.", "A storm comes.", "They play chess."],
    "label": [0, 1, 0, 1, 0, 1],
}


def main(scaling_config: ScalingConfig | None = None) -> None:
    """Shows the batches of each sampler, then trains."""
    pairs, topics = Dataset.from_dict(PAIRS), Dataset.from_dict(TOPICS)

    # Samplers work without a model. Batches are lists of rows.
    print("in the given order:", list(DefaultBatchSampler(range(3), batch_size=2, drop_last=False)))
    print("no text twice:", list(NoDuplicatesBatchSampler(pairs, batch_size=2, drop_last=False)))
    grouped = GroupByLabelBatchSampler(topics, batch_size=4, drop_last=False, valid_label_columns=["label"])
    print("labels that come in twos:", [[TOPICS["label"][row] for row in batch] for batch in grouped])

    # Losses with in-batch negatives need NO_DUPLICATES. Those that find positives by label, such as
    # BatchHardTripletLoss, need BatchSamplers.GROUP_BY_LABEL, and data like TOPICS.
    model = SentenceTransformer("microsoft/mpnet-base")
    args = SentenceTransformerTrainingArguments(
        output_dir="models/no-duplicates", batch_sampler=BatchSamplers.NO_DUPLICATES
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=args,
        train_dataset=pairs,
        loss=MultipleNegativesRankingLoss(model),
        scaling_config=scaling_config,
    )
    print(trainer.train())


if __name__ == "__main__":
    start(main)
