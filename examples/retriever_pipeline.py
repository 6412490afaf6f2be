"""One run for a retriever: mine hard negatives, train a reranker, distil it into the embedder, measure both.

Each stage leaves its result in the output folder and is skipped if that is there; a training that was cut off
goes on from its newest checkpoint. On a cluster the folder must be shared:
    ray job submit --working-dir . -- python examples/retriever_pipeline.py --workers 8 --gpu --output /shared/run
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import datasets
from datasets import Dataset, load_from_disk
from ray.train import ScalingConfig

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
from ray_st.cross_encoder.losses import BinaryCrossEntropyLoss
from ray_st.evaluation import InformationRetrievalEvaluator
from ray_st.losses import MarginMSELoss

BASE = "all-MiniLM-L6-v2"
RUN = Path("models/retriever_pipeline")
NEGATIVES = 4


def main(scaling_config: ScalingConfig | None = None) -> None:
    """Runs all stages."""
    pairs = datasets.load_dataset("sentence-transformers/natural-questions", split="train[:2000]")
    held_out = datasets.load_dataset("sentence-transformers/natural-questions", split="train[2000:]")
    embedder = SentenceTransformer(BASE)
    retrieval = retrieval_evaluator(held_out)
    before = retrieval(embedder)

    mined = kept("mined", lambda: mine(pairs, embedder))
    reranker = trained_reranker(mined, scaling_config)
    reranking = reranking_evaluator(held_out, embedder)
    print({name: round(value, 4) for name, value in reranking(reranker).items()})

    scored = kept("scored", lambda: score(mined, reranker))
    student = distilled(scored, embedder, scaling_config)
    after = retrieval(student)
    name = retrieval.primary_metric
    print(f"{name}: {before[name]:.4f} -> {after[name]:.4f}")


def kept(name: str, make: Callable[[], Dataset]) -> Dataset:
    """The rows of a stage: from its folder if an earlier run finished it."""
    folder = RUN / name
    if not folder.exists():
        unfinished = RUN / f"{name}.unfinished"
        make().save_to_disk(unfinished)
        os.replace(unfinished, folder)
    return load_from_disk(folder)


def mine(pairs: Dataset, embedder: SentenceTransformer) -> Dataset:
    """A row for each pair: query, answer, and the nearest other answers."""
    return mine_hard_negatives(
        pairs, embedder, num_negatives=NEGATIVES, range_min=1, range_max=30, output_format="n-tuple"
    )


def trained_reranker(mined: Dataset, scaling_config: ScalingConfig | None) -> CrossEncoder:
    """A reranker that tells answers from mined negatives."""
    final = RUN / "reranker" / "final"
    if not final.exists():
        model = CrossEncoder(BASE, num_labels=1, max_length=128)
        query, answer, *negatives = mined.column_names
        labelled = {
            query: [text for text in mined[query] for _ in range(1 + len(negatives))],
            "text": [row[name] for row in mined for name in (answer, *negatives)],
            "label": [float(name == answer) for _ in mined for name in (answer, *negatives)],
        }
        trainer = CrossEncoderTrainer(
            model=model,
            args=CrossEncoderTrainingArguments(
                str(RUN / "reranker"), num_train_epochs=1, per_device_train_batch_size=32, save_steps=50
            ),
            train_dataset=Dataset.from_dict(labelled),
            loss=BinaryCrossEntropyLoss(model),
            scaling_config=scaling_config,
        )
        trainer.train(resume_from_checkpoint=has_checkpoint("reranker"))
        trainer.save_model(str(final))
    return CrossEncoder(str(final))


def score(mined: Dataset, reranker: CrossEncoder) -> Dataset:
    """The mined rows with the reranker's margins: how much better the answer is than each negative."""
    query, answer, *negatives = mined.column_names
    texts = [answer, *negatives]
    pairs = [(row[query], row[name]) for row in mined for name in texts]
    scores = reranker.predict(pairs, activation_fn=lambda logits: logits).reshape(-1, len(texts))
    return mined.add_column("label", (scores[:, :1] - scores[:, 1:]).tolist())


def distilled(
    scored: Dataset, embedder: SentenceTransformer, scaling_config: ScalingConfig | None
) -> SentenceTransformer:
    """The embedder after it has learnt the reranker's margins."""
    final = RUN / "embedder" / "final"
    if not final.exists():
        trainer = SentenceTransformerTrainer(
            model=embedder,
            args=SentenceTransformerTrainingArguments(
                str(RUN / "embedder"), num_train_epochs=1, per_device_train_batch_size=32, save_steps=50
            ),
            train_dataset=scored,
            loss=MarginMSELoss(embedder),
            scaling_config=scaling_config,
        )
        trainer.train(resume_from_checkpoint=has_checkpoint("embedder"))
        trainer.save_model(str(final))
    return SentenceTransformer(str(final))


def has_checkpoint(stage: str) -> bool | None:
    """Whether a training of an earlier run left a checkpoint to go on from."""
    return any((RUN / stage).glob("checkpoint-*")) or None


def retrieval_evaluator(rows: Dataset) -> InformationRetrievalEvaluator:
    """Finds the answer of each question among all answers."""
    queries = {f"q{number}": text for number, text in enumerate(rows["query"])}
    corpus = {f"d{number}": text for number, text in enumerate(rows["answer"])}
    relevant = {f"q{number}": {f"d{number}"} for number in range(len(rows))}
    return InformationRetrievalEvaluator(queries, corpus, relevant, name="held-out")


def reranking_evaluator(rows: Dataset, embedder: SentenceTransformer) -> CrossEncoderRerankingEvaluator:
    """Orders the answers that the embedder finds for each question."""
    found = embedder.similarity(
        embedder.encode_query(rows["query"]), embedder.encode_document(rows["answer"])
    )
    samples = [
        {"query": row["query"], "positive": [row["answer"]], "documents": texts_at(rows["answer"], best)}
        for row, best in zip(rows, found.topk(min(20, len(rows))).indices.tolist(), strict=True)
    ]
    return CrossEncoderRerankingEvaluator(samples, name="held-out")


def texts_at(texts: Sequence[str], places: Sequence[int]) -> list[str]:
    """Some of the texts."""
    return [texts[place] for place in places]


if __name__ == "__main__":
    start(main)
