"""A student with half of its teacher's layers learns to reproduce the teacher's embeddings."""

from __future__ import annotations

import datasets
from ray.train import ScalingConfig
from torch import nn

from offline import start
from ray_st import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from ray_st.evaluation import EmbeddingSimilarityEvaluator, MSEEvaluator, SequentialEvaluator
from ray_st.losses import MSELoss


def main(scaling_config: ScalingConfig | None = None) -> None:
    """Trains the student, and evaluates it before and after."""
    teacher = SentenceTransformer("all-MiniLM-L6-v2")
    student = without_every_second_layer(SentenceTransformer("all-MiniLM-L6-v2"))

    # Labels are the teacher's embeddings
    stsb = datasets.load_dataset("sentence-transformers/stsb", split="train")
    texts = sorted({*stsb["sentence1"], *stsb["sentence2"]})
    labels = teacher.encode(texts, batch_size=64)
    train_dataset = {"sentence": texts, "label": labels.tolist()}

    dev = datasets.load_dataset("sentence-transformers/stsb", split="validation")
    evaluator = SequentialEvaluator(
        [
            EmbeddingSimilarityEvaluator(dev["sentence1"], dev["sentence2"], dev["score"], name="sts-dev"),
            MSEEvaluator(dev["sentence1"], dev["sentence1"], teacher_model=teacher, name="dev"),
        ]
    )
    before = evaluator(student)
    args = SentenceTransformerTrainingArguments(
        output_dir="models/distillation",
        num_train_epochs=1,
        per_device_train_batch_size=64,
        learning_rate=1e-4,
        warmup_ratio=0.1,
    )
    trainer = SentenceTransformerTrainer(
        model=student,
        args=args,
        train_dataset=train_dataset,
        loss=MSELoss(student),
        scaling_config=scaling_config,
    )
    trainer.train()
    after = evaluator(student)
    for name in ("sts-dev_spearman_cosine", "dev_negative_mse"):
        print(f"{name}: {before[name]:.4f} -> {after[name]:.4f}")
    student.save_pretrained("models/distillation/final")


def without_every_second_layer(model: SentenceTransformer) -> SentenceTransformer:
    """The model without layers 1, 3, 5, …; for BERT-like encoders."""
    encoder = model[0].auto_model
    encoder.encoder.layer = nn.ModuleList(list(encoder.encoder.layer)[::2])
    encoder.config.num_hidden_layers = len(encoder.encoder.layer)
    return model


if __name__ == "__main__":
    start(main)
