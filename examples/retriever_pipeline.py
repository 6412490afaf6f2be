"""One run for a retriever: mine hard negatives, train a reranker, distil it into the embedder, measure both.

A stage whose folder is there is skipped; a training that was cut off goes on from its newest checkpoint.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, load_from_disk
from ray.train import ScalingConfig
from torch import nn

from offline import start
from ray_st import (
    CrossEncoder,
    CrossEncoderTrainer,
    CrossEncoderTrainingArguments,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    mine_hard_negatives,
)
from ray_st.cross_encoder.evaluation import CrossEncoderRerankingEvaluator
from ray_st.cross_encoder.losses import MultipleNegativesRankingLoss
from ray_st.evaluation import InformationRetrievalEvaluator
from ray_st.losses import MarginMSELoss

BASE = "sentence-transformers/all-MiniLM-L6-v2"
RUN = Path("models/retriever_pipeline")
MINING: Any = {"range_min": 1, "range_max": 30, "num_negatives": 4, "output_format": "n-tuple"}
ARGS: Any = {"num_train_epochs": 1, "per_device_train_batch_size": 32, "save_steps": 50}


def main(scaling_config: ScalingConfig | None = None) -> None:
    """Runs all stages."""
    pairs = datasets.load_dataset("sentence-transformers/natural-questions", split="train[:2000]")
    held_out = datasets.load_dataset("sentence-transformers/natural-questions", split="train[2000:]")
    embedder = SentenceTransformer(BASE)
    mined = load_from_disk(stage("mined", lambda: mine_hard_negatives(pairs, embedder, **MINING)))

    model = CrossEncoder(BASE, num_labels=1, max_length=128)
    trainer: Any = CrossEncoderTrainer(
        model=model,
        args=CrossEncoderTrainingArguments(str(RUN / "reranker-run"), **ARGS),
        train_dataset=mined,  # query, answer, negative_1 to negative_4
        loss=MultipleNegativesRankingLoss(model),
        scaling_config=scaling_config,
    )
    reranker = CrossEncoder(stage("reranker", lambda: trained(trainer)))
    scored = load_from_disk(stage("scored", lambda: score(mined, reranker)))

    student = SentenceTransformer(BASE)
    distiller = SentenceTransformerTrainer(
        model=student,
        args=SentenceTransformerTrainingArguments(str(RUN / "embedder-run"), **ARGS),
        train_dataset=scored,
        loss=MarginMSELoss(student),
        scaling_config=scaling_config,
    )
    student = SentenceTransformer(stage("embedder", lambda: trained(distiller)))
    measure(held_out, embedder, reranker, student)


def stage(name: str, make: Any) -> str:
    """The folder of what a stage makes, a dataset or a model, unless an earlier start left it."""
    folder, unfinished = RUN / name, RUN / f"{name}.unfinished"
    print(f"{name}: {'there already' if folder.exists() else 'starts'}")
    if not folder.exists():
        made = make()
        (made.save_to_disk if isinstance(made, Dataset) else made.save_pretrained)(str(unfinished))
        os.replace(unfinished, folder)  # a folder of this name is complete
    return str(folder)


def trained(trainer: Any) -> Any:
    """The model after training, which goes on from the newest complete checkpoint if there is one."""
    found = any(Path(trainer.args.output_dir).glob("checkpoint-*/manifest.json"))
    trainer.train(resume_from_checkpoint=found)
    return trainer.model


def score(mined: Dataset, reranker: CrossEncoder) -> Dataset:
    """The mined rows with the reranker's scores: probabilities, as embeddings of length one are not as far apart as logits."""
    query, *texts = mined.column_names
    pairs = [(row[query], row[name]) for row in mined for name in texts]
    scores = reranker.predict(pairs, activation_fn=nn.Sigmoid()).reshape(-1, len(texts))
    return mined.add_column("label", scores.tolist())


def measure(rows: Dataset, before: Any, reranker: CrossEncoder, after: Any) -> None:
    """Prints how well the embedder finds answers before and after, and the reranker between."""
    queries, corpus = (dict(enumerate(rows[name])) for name in ("query", "answer"))
    retrieval = InformationRetrievalEvaluator(queries, corpus, {number: {number} for number in queries})
    found = before.similarity(before.encode_query(rows["query"]), before.encode_document(rows["answer"]))
    best = found.topk(min(20, len(rows))).indices.tolist()
    samples = [
        {"query": row["query"], "positive": [row["answer"]], "documents": [corpus[place] for place in places]}
        for row, places in zip(rows, best, strict=True)
    ]
    ndcg = CrossEncoderRerankingEvaluator(samples)(reranker)["ndcg@10"]
    figures = [retrieval(model)["cosine_ndcg@10"] for model in (before, after)]
    print(f"ndcg@10: {figures[0]:.4f}, reranked {ndcg:.4f}, distilled {figures[1]:.4f}")


if __name__ == "__main__":
    start(main)
