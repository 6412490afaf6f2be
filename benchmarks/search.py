"""What a search costs beyond its training: seconds a trial, and memory, over many trials that do next to nothing.

    python benchmarks/search.py --trials 1000

One trial at a time, in one process that is used again: a random encoder of one layer makes one step. A trial's overhead is
the time from one trial's end to the next one's, less what passed between the begin and the end of training. Memory is
that of the driver and of the trials' process, after the first tenth of the trials and after all of them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import string
import tempfile
import threading
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
from datasets import Dataset
from transformers import BertConfig, BertModel, BertTokenizer, TrainerCallback

from ray_st import SentenceTransformer, SentenceTransformerTrainer, losses
from ray_st.evaluation import EmbeddingSimilarityEvaluator
from ray_st.models import Pooling, Transformer
from ray_st.training_args import SentenceTransformerTrainingArguments

TEXTS = ["good weather", "a sunny day", "bad weather", "rain", "pasta", "she eats", "a man", "a text"]
SCORES = [0.9, 0.1, 0.8, 0.3, 0.7, 0.2, 0.6, 0.4]
MIB = 2**20


class Clock(TrainerCallback):
    """Writes down each trial's training time and its process's memory."""

    def __init__(self, path: str) -> None:
        self.path = path

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Starts the clock."""
        self.start = time.monotonic()

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Notes the time."""
        process = psutil.Process()
        noted = {"train": time.monotonic() - self.start, "pid": process.pid, "rss": process.memory_info().rss}
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(noted) + "\n")


def main() -> None:
    """Searches, and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    trials = parser.parse_args().trials
    os.environ.setdefault("RAY_ADDRESS", "local")  # never join a cluster that happens to run here
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        driver: list[float] = []
        threading.Thread(target=watch, args=(driver,), daemon=True).start()
        best = search(Path(folder), trials)
        events = [
            json.loads(line) for line in (Path(folder) / "s" / "journal.jsonl").read_text().splitlines()
        ]
        noted = [json.loads(line) for line in (Path(folder) / "clock").read_text().splitlines()]
    told = [event["time"] for event in events if event["event"] == "told"]
    between = [end - begin for begin, end in itertools.pairwise(told)]
    overhead = sorted(gap - note["train"] for gap, note in zip(between, noted[1:], strict=True))
    states = Counter(trial.state.name for trial in best.run_summary.study.trials)
    tenth = max(1, trials // 10)
    print(f"{trials} trials in {told[-1] - told[0]:.0f} s: {dict(states)}")
    print(
        f"overhead of a trial: median {statistics.median(overhead):.2f} s, "
        f"95 of 100 below {overhead[int(0.95 * len(overhead))]:.2f} s"
    )
    early, late = driver[len(driver) // 10], driver[-1]
    print(f"driver: {early:.0f} MiB after a tenth of the time, {late:.0f} MiB at the end")
    early, late = noted[tenth]["rss"] / MIB, noted[-1]["rss"] / MIB
    processes = len({note["pid"] for note in noted})
    print(f"trials: {early:.0f} MiB after {tenth}, {late:.0f} MiB at the end; {processes} process(es)")


def watch(memory: list[float]) -> None:
    """Notes the driver's memory each second."""
    while True:
        memory.append(psutil.Process().memory_info().rss / MIB)
        time.sleep(1)


def search(folder: Path, trials: int) -> Any:
    """A search of learning rates."""
    name = str(small_model(folder))
    trainer = SentenceTransformerTrainer(
        args=SentenceTransformerTrainingArguments(
            str(folder), max_steps=1, eval_strategy="no", save_strategy="no", report_to=[], use_cpu=True
        ),
        train_dataset=Dataset.from_dict({"a": TEXTS, "b": TEXTS[::-1], "score": SCORES}),
        evaluator=EmbeddingSimilarityEvaluator(TEXTS, TEXTS[::-1], SCORES, name="dev"),
        model_init=lambda: SentenceTransformer(name, device="cpu"),
        loss=lambda model: losses.CoSENTLoss(model),
        callbacks=[Clock(str(folder / "clock"))],
    )
    return trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-2, log=True)},
        "eval_dev_spearman_cosine",
        trials,
        "maximize",
        name="s",
        max_concurrent_trials=1,
    )


def small_model(folder: Path) -> Path:
    """A folder with a random encoder of one layer."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.ascii_lowercase]
    words += [f"##{letter}" for letter in string.ascii_lowercase]
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
    config = BertConfig(vocab_size=len(words), max_position_embeddings=32, **sizes)
    encoder, model = folder / "encoder", folder / "model"
    BertModel(config, add_pooling_layer=False).save_pretrained(encoder)
    BertTokenizer(vocab={word: place for place, word in enumerate(words)}).save_pretrained(encoder)
    SentenceTransformer(modules=[Transformer(str(encoder)), Pooling(16)], device="cpu").save(str(model))
    return model


if __name__ == "__main__":
    main()
