"""All parts of a training together: triplets, a loss, arguments, an evaluator before, during and after."""

from __future__ import annotations

import datasets
from ray.train import ScalingConfig

from offline import start
from ray_st import (
    SentenceTransformer,
    SentenceTransformerModelCardData,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from ray_st.evaluation import TripletEvaluator
from ray_st.losses import MultipleNegativesRankingLoss
from ray_st.training_args import BatchSamplers


def main(scaling_config: ScalingConfig | None = None) -> None:
    """Loads, evaluates, trains, evaluates on other rows, saves."""
    # 1. A model, with data for its card
    model = SentenceTransformer(
        "microsoft/mpnet-base",
        model_card_data=SentenceTransformerModelCardData(
            language="en",
            license="apache-2.0",
            model_name="MPNet base trained on AllNLI triplets",
        ),
    )

    # 2. Data: (anchor, positive, negative)
    train_dataset = datasets.load_dataset("sentence-transformers/all-nli", "triplet", split="train[:100000]")
    eval_dataset = datasets.load_dataset("sentence-transformers/all-nli", "triplet", split="dev")
    test_dataset = datasets.load_dataset("sentence-transformers/all-nli", "triplet", split="test")

    # 3. A loss that fits them; the other rows of a batch are negatives, too
    loss = MultipleNegativesRankingLoss(model)

    # 4. Arguments; only the folder is required
    args = SentenceTransformerTrainingArguments(
        output_dir="models/mpnet-base-all-nli-triplet",
        num_train_epochs=1,
        per_device_train_batch_size=16,
        per_device_eval_batch_size=16,
        learning_rate=2e-5,
        warmup_ratio=0.1,
        fp16=False,  # True on a GPU; bf16=True instead where the GPU can
        batch_sampler=BatchSamplers.NO_DUPLICATES,  # a text must not be its own negative
        eval_strategy="steps",
        eval_steps=100,
        save_strategy="steps",
        save_steps=100,
        save_total_limit=2,
        logging_steps=100,
        run_name="mpnet-base-all-nli-triplet",  # what trackers call the run
    )

    # 5. An evaluator: how often is the positive closer than the negative?
    dev_evaluator = TripletEvaluator(
        anchors=eval_dataset["anchor"],
        positives=eval_dataset["positive"],
        negatives=eval_dataset["negative"],
        name="all-nli-dev",
    )
    print("before training:", dev_evaluator(model))

    # 6. Train, on the requested number of workers
    trainer = SentenceTransformerTrainer(
        model=model,
        args=args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        loss=loss,
        evaluator=dev_evaluator,
        scaling_config=scaling_config,
    )
    trainer.train()

    # 7. The trained model is back on the driver: evaluate it on unseen rows, save it, publish it
    test_evaluator = TripletEvaluator(
        anchors=test_dataset["anchor"],
        positives=test_dataset["positive"],
        negatives=test_dataset["negative"],
        name="all-nli-test",
    )
    print("after training:", test_evaluator(model))
    model.save_pretrained("models/mpnet-base-all-nli-triplet/final")
    # model.push_to_hub("mpnet-base-all-nli-triplet")


if __name__ == "__main__":
    start(main)
