"""A student with half of its teacher's layers learns to give the teacher's embeddings."""

from __future__ import annotations

from torch import nn

from offline import Run, command_line
from ray_st import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from ray_st.evaluation import EmbeddingSimilarityEvaluator, MSEEvaluator, SequentialEvaluator
from ray_st.losses import MSELoss


def main(run: Run) -> None:
    """Trains the student, and measures it before and after."""
    teacher = SentenceTransformer(run.model("all-MiniLM-L6-v2"))
    student = without_every_second_layer(SentenceTransformer(run.model("all-MiniLM-L6-v2")))

    # Labels are the teacher's embeddings
    stsb = run.load_dataset("sentence-transformers/stsb", split="train")
    texts = sorted({*stsb["sentence1"], *stsb["sentence2"]})
    labels = teacher.encode(texts, batch_size=64)
    train_dataset = {"sentence": texts, "label": labels.tolist()}

    dev = run.load_dataset("sentence-transformers/stsb", split="validation")
    evaluator = SequentialEvaluator(
        [
            EmbeddingSimilarityEvaluator(dev["sentence1"], dev["sentence2"], dev["score"], name="sts-dev"),
            MSEEvaluator(dev["sentence1"], dev["sentence1"], teacher_model=teacher, name="dev"),
        ]
    )
    before = evaluator(student)
    args = SentenceTransformerTrainingArguments(
        output_dir=run.folder("distillation"),
        num_train_epochs=1,
        per_device_train_batch_size=64,
        learning_rate=1e-4,
        warmup_ratio=0.1,
    )
    trainer = SentenceTransformerTrainer(
        model=student,
        args=run.arguments(args),
        train_dataset=train_dataset,
        loss=MSELoss(student),
        scaling_config=run.scaling,
    )
    trainer.train()
    after = evaluator(student)
    for name in ("sts-dev_spearman_cosine", "dev_negative_mse"):
        print(f"{name}: {before[name]:.4f} -> {after[name]:.4f}")
    student.save_pretrained(run.folder("distillation/final"))


def without_every_second_layer(model: SentenceTransformer) -> SentenceTransformer:
    """The model without layers 1, 3, 5, …; for encoders of BERT's family."""
    encoder = model[0].auto_model
    encoder.encoder.layer = nn.ModuleList(list(encoder.encoder.layer)[::2])
    encoder.config.num_hidden_layers = len(encoder.encoder.layer)
    return model


if __name__ == "__main__":
    main(command_line(__doc__))
