"""A search of rerankers over loss, learning rate and number of negatives, for tests and drivers that they kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Dataset

from ray_st import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
from ray_st.cross_encoder import losses
from ray_st.cross_encoder.evaluation import CrossEncoderRerankingEvaluator

WORDS = ["good", "bad", "weather", "man", "eats", "pasta", "sunny", "text"]
QUERIES, MOST_NEGATIVES = 24, 4
LOSSES = ["BinaryCrossEntropyLoss", "MSELoss", "LambdaLoss"]
LISTWISE = "LambdaLoss"
OBJECTIVE = "eval_dev_map"
TRIALS, RUNGS, EPOCHS, BATCH = 12, 4, 4, 8


def query(number: int) -> str:
    return f"{WORDS[number % 8]} {WORDS[number * 3 % 7]}"


def documents(number: int) -> list[str]:
    """The relevant document of a query, with its first word, then ones with others."""
    words = [WORDS[(number + place) % 8] for place in range(1 + MOST_NEGATIVES)]
    return [f"the {word} {number * place % 10}" for place, word in enumerate(words)]


def rows(negatives: int, lists: bool = False) -> Dataset:
    """So many negatives for each query, as pairs with labels, or with lists of documents."""
    kept = [documents(number)[: 1 + negatives] for number in range(QUERIES)]
    labels = [1.0] + [0.0] * negatives
    queries = [query(number) for number in range(QUERIES)]
    if lists:
        return Dataset.from_dict({"query": queries, "docs": kept, "labels": [labels] * QUERIES})
    pairs = [
        (queries[number], text, label)
        for number, texts in enumerate(kept)
        for text, label in zip(texts, labels, strict=True)
    ]
    return Dataset.from_dict(dict(zip(("query", "doc", "label"), zip(*pairs, strict=True), strict=True)))


def rows_of_trial(trial: Any) -> Dataset:
    return rows(trial["negatives"], lists=trial["loss"] == LISTWISE)


def evaluator() -> CrossEncoderRerankingEvaluator:
    samples = [
        {"query": query(number), "positive": texts[:1], "negative": texts[1:]}
        for number in range(QUERIES)
        if (texts := documents(number))
    ]
    return CrossEncoderRerankingEvaluator(samples, name="dev")


def space(trial: Any) -> dict[str, Any]:
    return {
        "loss": trial.suggest_categorical("loss", LOSSES),
        "learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-2, log=True),
        "negatives": trial.suggest_int("negatives", 1, MOST_NEGATIVES),
    }


def steps(values: dict[str, Any]) -> int:
    """How long a trial with these hyperparameters is."""
    return EPOCHS * -(-len(rows_of_trial(values)) // BATCH)


def make_trainer(folder: Path, model_folder: Path, **arguments: Any) -> CrossEncoderTrainer:
    def model_init(trial: Any) -> CrossEncoder:
        return CrossEncoder(str(model_folder), device="cpu")

    def loss_init(model: Any, trial: Any = None) -> Any:
        return getattr(losses, trial["loss"] if trial else LOSSES[0])(model)

    args = CrossEncoderTrainingArguments(
        str(folder),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH,
        report_to=[],
        use_cpu=True,
        **{"save_strategy": "no", **arguments},
    )
    return CrossEncoderTrainer(
        model_init=model_init, args=args, train_dataset=rows(1), loss=loss_init, evaluator=evaluator()
    )


def search(folder: Path, model_folder: Path, name: str, backend: str = "optuna", **arguments: Any) -> Any:
    """Searches twelve trials, bad ones stopped early; by default one at a time, which a repetition repeats."""
    return make_trainer(folder, model_folder, **arguments).hyperparameter_search(
        space,
        OBJECTIVE,
        TRIALS,
        "maximize",
        backend,
        name=name,
        rungs=RUNGS,
        data_init=rows_of_trial,
        max_concurrent_trials=2 if backend == "ray" else 1,
    )
