"""Search over a whole pipeline: how negatives are mined, how many, and whether a reranker teaches.

Each trial mines its own rows (``data_init``) and picks its loss by what they hold. Trials share a folder with the
embeddings of the texts, so only the first one embeds; on a cluster, give one that all nodes see.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset
from ray.train import ScalingConfig
from torch import nn

from offline import start
from ray_st import (
    CrossEncoder,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
    mine_hard_negatives,
)
from ray_st.evaluation import InformationRetrievalEvaluator

BASE = "sentence-transformers/all-MiniLM-L6-v2"
TEACHERS = {"reranker": "cross-encoder/ms-marco-MiniLM-L6-v2"}  # names or folders, by short names


def hp_space(trial: Any) -> dict[str, Any]:
    """The pipeline's parameters, then training arguments; the trial is Optuna's."""
    trial.suggest_int("skipped", 0, 5)  # best candidates, which may be unmarked answers
    trial.suggest_int("depth", 10, 50, log=True)  # candidates after those
    trial.suggest_int("negatives", 1, 4)  # of each question
    trial.suggest_categorical("teacher", ["none", *TEACHERS])
    return {"learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-4, log=True)}


@dataclass(frozen=True)
class Mining:
    """Makes a trial's rows from questions and answers; keeps embeddings in a folder."""

    pairs: Dataset
    cache: str

    def __call__(self, trial: Any) -> Dataset:
        """Question, answer, ``negative_1`` to ``negative_n``; with a teacher a label, its scores."""
        mined = mine_hard_negatives(
            self.pairs,
            SentenceTransformer(BASE),
            range_min=trial["skipped"],
            range_max=trial["skipped"] + trial["depth"],
            num_negatives=trial["negatives"],
            sampling_strategy="random",
            output_format="n-tuple",
            cache_folder=self.cache,
            verbose=False,
        )
        return mined if trial["teacher"] == "none" else taught(mined, TEACHERS[trial["teacher"]])


def taught(mined: Dataset, teacher: str) -> Dataset:
    """The rows with a reranker's scores of the answer and of each negative."""
    query, *texts = mined.column_names
    pairs = [(row[query], row[name]) for row in mined for name in texts]
    # Probabilities: embeddings of length one are not as far apart as logits.
    scores = CrossEncoder(teacher, num_labels=1).predict(pairs, activation_fn=nn.Sigmoid())
    return mined.add_column("label", scores.reshape(-1, len(texts)).tolist())


def loss_init(model: SentenceTransformer, trial: Any) -> nn.Module:
    """What the rows are for; outside a search there is no trial."""
    if trial is None or trial["teacher"] == "none":
        return losses.MultipleNegativesRankingLoss(model)
    return losses.MarginMSELoss(model)


def main(scaling_config: ScalingConfig | None = None, n_trials: int = 20) -> None:
    """Describes the training of a trial, and searches."""
    pairs = datasets.load_dataset("sentence-transformers/natural-questions", split="train[:2000]")
    held_out = datasets.load_dataset("sentence-transformers/natural-questions", split="train[2000:4000]")
    queries, corpus = (dict(enumerate(held_out[name])) for name in ("query", "answer"))
    trainer: Any = SentenceTransformerTrainer(
        model_init=lambda: SentenceTransformer(BASE),
        loss=loss_init,
        args=SentenceTransformerTrainingArguments(
            "models/pipeline_search", num_train_epochs=1, per_device_train_batch_size=32, save_strategy="no"
        ),
        train_dataset=pairs,  # each trial mines its negatives
        evaluator=InformationRetrievalEvaluator(
            queries, corpus, {number: {number} for number in queries}, name="held-out"
        ),
        scaling_config=scaling_config,
    )
    best = trainer.hyperparameter_search(
        hp_space,
        "eval_held-out_cosine_ndcg@10",
        n_trials,
        "maximize",
        data_init=Mining(pairs, str(Path("models/pipeline_search/embeddings").absolute())),
        rungs=3,
    )
    print(f"ndcg@10 {best.objective:.4f} with {best.hyperparameters}")


if __name__ == "__main__":
    start(main)
