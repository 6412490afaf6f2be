"""Embeddings whose leading dimensions are embeddings, too: trained and evaluated at several sizes."""

from __future__ import annotations

import datasets
from ray.train import ScalingConfig

from offline import start
from ray_st import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from ray_st.evaluation import EmbeddingSimilarityEvaluator, SequentialEvaluator
from ray_st.losses import CoSENTLoss, MatryoshkaLoss


def main(scaling_config: ScalingConfig | None = None) -> None:
    """Trains at four sizes, and loads the model with the smallest."""
    model = SentenceTransformer("microsoft/mpnet-base")
    whole = model.get_sentence_embedding_dimension() or 0
    sizes = [whole, whole // 2, whole // 4, whole // 8]
    stsb = datasets.load_dataset("sentence-transformers/stsb", split="validation")
    evaluator = SequentialEvaluator(
        [
            EmbeddingSimilarityEvaluator(
                stsb["sentence1"], stsb["sentence2"], stsb["score"], name=f"sts-dev-{size}", truncate_dim=size
            )
            for size in sizes
        ],
        main_score_function=lambda scores: scores[0],  # the whole embedding's
    )
    args = SentenceTransformerTrainingArguments(
        output_dir="models/matryoshka",
        num_train_epochs=4,
        per_device_train_batch_size=16,
        eval_strategy="epoch",
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=args,
        train_dataset=datasets.load_dataset("sentence-transformers/stsb", split="train"),
        loss=MatryoshkaLoss(model, CoSENTLoss(model), matryoshka_dims=sizes),
        evaluator=evaluator,
        scaling_config=scaling_config,
    )
    trainer.train()
    folder = "models/matryoshka/final"
    model.save_pretrained(folder)

    metrics = evaluator(model)
    for size in sizes:
        print(f"{size} dimensions: {metrics[f'sts-dev-{size}_spearman_cosine']:.3f}")
    small = SentenceTransformer(folder, truncate_dim=sizes[-1])
    print("an embedding:", small.encode("A short one.").shape)


if __name__ == "__main__":
    start(main)
