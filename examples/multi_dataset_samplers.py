"""Which of several datasets each batch is drawn from: in proportion to their sizes, or each in turn."""

from __future__ import annotations

from datasets import Dataset, DatasetDict
from ray.train import ScalingConfig

from offline import start
from ray_st import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from ray_st.losses import CoSENTLoss
from ray_st.training_args import MultiDatasetBatchSamplers

GENERAL = {
    "sentence_A": ["It's nice weather outside today.", "He drove to work."],
    "sentence_B": ["It's so sunny.", "He took the car to the bank."],
    "score": [0.9, 0.4],
}
MEDICAL = {
    "sentence_A": ["The patient has a fever.", "The doctor prescribed pills.", "The patient is sweating."],
    "sentence_B": [
        "The patient feels hot.",
        "Pills were given to the patient.",
        "The patient is perspiring.",
    ],
    "score": [0.8, 0.6, 0.7],
}
LEGAL = {
    "sentence_A": ["This contract is legally binding.", "The parties agree to the terms and conditions."],
    "sentence_B": [
        "Both parties acknowledge their obligations.",
        "By signing, the parties enter a relationship.",
    ],
    "score": [0.7, 0.8],
}


def main(scaling_config: ScalingConfig | None = None) -> None:
    """Trains on three small datasets."""
    train_dataset = DatasetDict(
        {
            "general": Dataset.from_dict(GENERAL),
            "medical": Dataset.from_dict(MEDICAL),
            "legal": Dataset.from_dict(LEGAL),
        }
    )
    model = SentenceTransformer("microsoft/mpnet-base")
    args = SentenceTransformerTrainingArguments(
        output_dir="models/proportional",
        multi_dataset_batch_sampler=MultiDatasetBatchSamplers.PROPORTIONAL,  # ROUND_ROBIN: 3 steps an epoch, not 4
        num_train_epochs=1,
        per_device_train_batch_size=2,
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=args,
        train_dataset=train_dataset,
        loss=CoSENTLoss(model),
        scaling_config=scaling_config,
    )
    trainer.train()
    print(trainer.state.global_step, "steps")


if __name__ == "__main__":
    start(main)
