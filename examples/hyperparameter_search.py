"""Search over learning rate, batch size, warmup and epochs, with as many concurrent trials as fit."""

from __future__ import annotations

from typing import Any

import datasets
from ray.train import ScalingConfig

from offline import start
from ray_st import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
)
from ray_st.evaluation import EmbeddingSimilarityEvaluator, SimilarityFunction
from ray_st.training_args import BatchSamplers


def hpo_search_space(trial: Any) -> dict[str, Any]:
    """The search space; the trial is Optuna's."""
    return {
        "num_train_epochs": trial.suggest_int("num_train_epochs", 1, 2),
        "per_device_train_batch_size": trial.suggest_int("per_device_train_batch_size", 32, 128),
        "warmup_ratio": trial.suggest_float("warmup_ratio", 0, 0.3),
        "learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-4, log=True),
    }


def hpo_model_init(trial: Any) -> SentenceTransformer:
    """Each trial has its own model."""
    return SentenceTransformer("distilbert-base-uncased")


def hpo_loss_init(model: SentenceTransformer) -> losses.MultipleNegativesRankingLoss:
    """Each trial has its own loss."""
    return losses.MultipleNegativesRankingLoss(model)


def hpo_compute_objective(metrics: dict[str, float]) -> float:
    """The metric to maximise, of those that the evaluator and the evaluation data give."""
    return metrics["eval_sts-dev_spearman_cosine"]


def main(scaling_config: ScalingConfig | None = None, n_trials: int = 20) -> None:
    """Describes the training of a trial, and searches."""
    train_dataset = datasets.load_dataset("sentence-transformers/all-nli", "triplet", split="train[:10000]")
    eval_dataset = datasets.load_dataset("sentence-transformers/all-nli", "triplet", split="dev[:1000]")
    stsb = datasets.load_dataset("sentence-transformers/stsb", split="validation")
    dev_evaluator = EmbeddingSimilarityEvaluator(
        sentences1=stsb["sentence1"],
        sentences2=stsb["sentence2"],
        scores=stsb["score"],
        main_similarity=SimilarityFunction.COSINE,
        name="sts-dev",
    )
    args = SentenceTransformerTrainingArguments(
        output_dir="models/search",
        # max_steps=10000,  # to limit the cost of a trial
        fp16=False,  # True on a GPU
        batch_sampler=BatchSamplers.NO_DUPLICATES,
        eval_strategy="no",  # a trial is measured at its end
        save_strategy="no",
        logging_steps=10,
        run_name="hpo",
    )
    trainer = SentenceTransformerTrainer(
        model=None,
        args=args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        evaluator=dev_evaluator,
        model_init=hpo_model_init,
        loss=hpo_loss_init,
        scaling_config=scaling_config,  # the workers of each trial
    )
    best_trial = trainer.hyperparameter_search(
        hp_space=hpo_search_space,
        compute_objective=hpo_compute_objective,
        n_trials=n_trials,
        direction="maximize",
        backend="optuna",
    )
    print(best_trial)


if __name__ == "__main__":
    start(main)
