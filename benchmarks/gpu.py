"""What a device does with models of real shapes: tokens a second, share of its peak, waits and launches, memory.

    python benchmarks/gpu.py encode|train|loss|start|ingest|search [--model qwen3-0.6b] [--json]

Weights are random and texts are token ids of lengths from a fixed table, so nothing is downloaded. Needs neither Ray nor a
GPU: what only a GPU can tell is null on a CPU. Figures are medians over the rounds:

    tokens_per_s      real tokens, without padding
    share_of_peak     arithmetic of the encoder's matrix products by the device's peak in the type that they run in
    busy              time in which a kernel ran, by all time
    syncs, launches   how often the host waited for the device, and kernels and copies started, a step or a batch
    peak_mib          most memory allocated beyond the weights

"encode" embeds texts with ``encode``; "train" takes steps of the trainer's loop with a ranking loss over queries and documents;
"loss" takes steps of the cached ranking loss alone, at a batch of 1,024; "start" is the time of a whole process that
takes 16 steps of two rows; "ingest" is rows a second through tokenizing, padding and copying to the device; "search" finds the nearest of 100,000
documents. ``--peer`` measures sentence-transformers in turn with encode and loss.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast
from transformers.utils import logging

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "minilm": ("bert", {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536, "num_attention_heads": 12}),
    "bert-base": ("bert", {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072, "num_attention_heads": 12}),
    "qwen3-0.6b": (
        "qwen3",
        {"hidden_size": 1024, "num_hidden_layers": 28, "intermediate_size": 3072, "num_attention_heads": 16,
         "num_key_value_heads": 8, "head_dim": 128},
    ),
    "qwen3-8b": (
        "qwen3",
        {"hidden_size": 4096, "num_hidden_layers": 36, "intermediate_size": 12288, "num_attention_heads": 32,
         "num_key_value_heads": 8, "head_dim": 128},
    ),
    "tiny": ("bert", {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "num_attention_heads": 2}),
}  # fmt: skip
WORDS = 30_000
QUERIES, DOCUMENTS = (4, 7, 9, 11, 14, 18, 25, 40), (20, 45, 70, 96, 128, 170, 210, 250)
"""Words of texts, in equal parts: lengths of short questions, and of paragraphs."""

PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40": 181e12, "L4": 121e12, "A10": 125e12}
"""Dense 16-bit matrix products of a device a second, from the manufacturer's data sheets."""

Job = Callable[[], tuple[int, int]]
"""Does the work once; returns its real tokens, or rows of "ingest" and "search", and how many steps or batches it took."""


def main() -> None:
    """Measures and prints."""
    options = arguments()
    warnings.simplefilter("ignore")
    logging.disable_progress_bar()
    if options.what == "start":
        found = {"seconds": statistics.median(in_new_process(options) for _ in range(options.rounds))}
        report(options, "ray_st", found)
        return
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as place:
        folder = save_model(Path(place), options.model)
        names = ["ray_st", "sentence_transformers"] if options.peer else ["ray_st"]
        jobs = {name: JOBS[options.what](name, folder, options) for name in names}
        for job in jobs.values():
            job()  # libraries choose kernels and take memory
        found = {name: [measured(job, options) for _ in range(options.rounds)] for name, job in jobs.items()}
        for name, rounds in found.items():
            report(options, name, {key: middle([one[key] for one in rounds]) for key in rounds[0]})


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=[*JOBS, "start"])
    parser.add_argument("--model", choices=MODELS, default="minilm")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rows", type=int, help="texts to encode, rows of a step (1,024 or 64)")
    parser.add_argument("--lora", action="store_true", help="train adapters")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.rows = options.rows or {"train": 64, "loss": 1024, "start": 16}.get(options.what, 4096)
    return options


def report(options: argparse.Namespace, name: str, found: dict[str, Any]) -> None:
    """Prints one library's figures."""
    device = torch.cuda.get_device_name() if options.device.startswith("cuda") else "cpu"
    line = {
        "what": options.what,
        "model": options.model,
        "device": device,
        "library": name,
        "rows": options.rows,
        **found,
    }
    print(
        json.dumps(line)
        if options.json
        else "  ".join(f"{key} {shown(value)}" for key, value in line.items()),
        flush=True,
    )


def shown(value: Any) -> str:
    """A value for people."""
    if value is None:
        return "unknown"
    return f"{value:,.3g}" if isinstance(value, float) else f"{value}"


def middle(values: list[float | None]) -> float | None:
    """The median; None if any value is unknown."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if len(known) == len(values) else None


# ---- models and texts ----


def save_model(folder: Path, name: str) -> Path:
    """Writes an encoder with random weights and a tokenizer of words."""
    kind, sizes = MODELS[name]
    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *(f"w{i}" for i in range(WORDS))])}
    tokenizer = Tokenizer(models.WordLevel(words, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=512
    ).save_pretrained(folder)
    special = dict.fromkeys(("bos_token_id", "eos_token_id"), 1)
    config = AutoConfig.for_model(kind, vocab_size=len(words), pad_token_id=0, **special, **sizes)
    with torch.device("cpu"):
        AutoModel.from_config(config, dtype=torch.bfloat16 if name == "qwen3-8b" else None).save_pretrained(
            folder
        )
    return folder


def open_model(library: str, folder: Path, options: argparse.Namespace) -> Any:
    """The model in a folder, as one library opens it."""
    if library == "ray_st":
        from ray_st import SentenceTransformer
        from ray_st.models import Pooling, Transformer
    else:
        from sentence_transformers import SentenceTransformer  # type: ignore[assignment]
        from sentence_transformers.models import Pooling, Transformer  # type: ignore[assignment]
    encoder = Transformer(str(folder), max_seq_length=512)
    size = MODELS[options.model][1]["hidden_size"]
    return SentenceTransformer(modules=[encoder, Pooling(size)], device=options.device)


def texts(count: int, lengths: tuple[int, ...]) -> list[str]:
    """Texts of random words."""
    draw = torch.Generator().manual_seed(len(lengths) * sum(lengths) + count)
    numbers = torch.randint(WORDS, (count, max(lengths)), generator=draw).tolist()
    return [" ".join(f"w{n}" for n in row[: lengths[i % len(lengths)]]) for i, row in enumerate(numbers)]


def words(*columns: list[str]) -> int:
    """The real tokens of texts."""
    return sum(text.count(" ") + 1 for column in columns for text in column)


# ---- what is measured ----


def encode(library: str, folder: Path, options: argparse.Namespace) -> Job:
    """Embeds texts of all lengths."""
    model, given = open_model(library, folder, options), texts(options.rows, QUERIES + DOCUMENTS)
    model.to(torch.bfloat16 if options.device.startswith("cuda") else torch.float32)

    def job() -> tuple[int, int]:
        model.encode(given, batch_size=256, convert_to_tensor=True, show_progress_bar=False)
        return words(given), -(-len(given) // 256)

    return job


def loss(library: str, folder: Path, options: argparse.Namespace) -> Job:
    """Steps of the cached ranking loss, as a loop of one's own would take them."""
    model, module = (
        open_model(library, folder, options).train(),
        __import__(f"{library}.losses", fromlist=["losses"]),
    )
    cached = module.CachedMultipleNegativesRankingLoss(model, mini_batch_size=64)
    queries, documents = texts(options.rows, QUERIES), texts(options.rows, DOCUMENTS)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5, fused=options.device.startswith("cuda"))
    features = [
        {
            name: value.to(options.device)
            for name, value in model.tokenize(column).items()
            if isinstance(value, torch.Tensor)
        }
        for column in (queries, documents)
    ]

    def job() -> tuple[int, int]:
        with torch.autocast(
            torch.device(options.device).type, torch.bfloat16, enabled=options.device.startswith("cuda")
        ):
            value = cached([dict(column) for column in features], None)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        return words(queries, documents), 1

    return job


def train(library: str, folder: Path, options: argparse.Namespace) -> Job:
    """Steps of the trainer's loop, without Ray."""
    if library != "ray_st":
        raise SystemExit("benchmarks/train_throughput.py compares training with the peer's.")
    model, steps = open_model(library, folder, options), 8
    if options.lora:
        from peft import LoraConfig

        model.add_adapter(LoraConfig(r=16, target_modules="all-linear"))
    rows = {"query": texts(options.rows * steps, QUERIES), "document": texts(options.rows * steps, DOCUMENTS)}

    def job() -> tuple[int, int]:
        loop_over(model, rows, options, folder).train()
        return words(*rows.values()), steps

    return job


def loop_over(model: Any, rows: dict[str, list[str]], options: argparse.Namespace, folder: Path) -> Any:
    """A worker's trainer over rows; accelerate's state is one for a process, which otherwise has one trainer."""
    from accelerate.state import AcceleratorState, GradientState

    from ray_st import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from ray_st.losses import MultipleNegativesRankingLoss
    from ray_st.training.data.local_source import local_context

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    given = {"report_to": "none", "save_strategy": "no", "logging_steps": 1000, "disable_tqdm": True}
    args = SentenceTransformerTrainingArguments(
        str(folder / "run"),
        per_device_train_batch_size=options.rows,
        num_train_epochs=1,
        bf16=options.device.startswith("cuda"),
        use_cpu=options.device == "cpu",
        **given,  # type: ignore[arg-type]
    )
    trainer = SentenceTransformerTrainer(
        model, args, train_dataset=rows, loss=MultipleNegativesRankingLoss(model)
    )
    return trainer.spec().rebuild(local_context(trainer.data.train_specs(1), str(folder / "run")))


def ingest(library: str, folder: Path, options: argparse.Namespace) -> Job:
    """Tokenizes, pads and copies."""
    model, given = open_model(library, folder, options), texts(options.rows, DOCUMENTS)

    def job() -> tuple[int, int]:
        for start in range(0, len(given), 64):
            for value in model.tokenize(given[start : start + 64]).values():
                if isinstance(value, torch.Tensor):
                    value.to(options.device, non_blocking=True)
        return len(given), -(-len(given) // 64)

    return job


def search(library: str, folder: Path, options: argparse.Namespace) -> Job:
    """Finds the 100 nearest of 100,000 documents for each query."""
    module = __import__(f"{library}.util", fromlist=["semantic_search"])
    documents = torch.nn.functional.normalize(torch.randn(100_000, 384), dim=1).to(options.device)
    queries = torch.nn.functional.normalize(torch.randn(options.rows, 384), dim=1).to(options.device)

    def job() -> tuple[int, int]:
        module.semantic_search(queries, documents, top_k=100)
        return len(queries), 1

    return job


JOBS = {"encode": encode, "train": train, "loss": loss, "ingest": ingest, "search": search}


# ---- how it is measured ----


def measured(job: Job, options: argparse.Namespace) -> dict[str, float | None]:
    """The figures of one round: timed by itself, then once more under the profiler."""
    on_gpu = options.device.startswith("cuda")
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    begin = time.perf_counter()
    amount, steps = job()
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    unit = "rows_per_s" if options.what in ("ingest", "search") else "tokens_per_s"
    found: dict[str, float | None] = {unit: amount / seconds, "step_ms": 1000 * seconds / steps}
    found["share_of_peak"] = share_of_peak(options, amount / seconds) if unit == "tokens_per_s" else None
    found["peak_mib"] = (torch.cuda.max_memory_allocated() - before) / 2**20 if on_gpu else None
    return found | (profiled(job) if on_gpu else dict.fromkeys(("busy", "syncs", "launches")))


def profiled(job: Job) -> dict[str, float | None]:
    """What only a profiler sees; it slows the host, so "busy" is a lower bound."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        begin = time.perf_counter()
        _, steps = job()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - begin
    events = profile.events() or []
    kernels = [event for event in events if event.device_type == torch.autograd.DeviceType.CUDA]
    names = [event.name for event in events if event.device_type == torch.autograd.DeviceType.CPU]
    waits = [name for name in names if name.startswith("cuda") and "Synchronize" in name]
    return {
        "busy": covered([(event.time_range.start, event.time_range.end) for event in kernels])
        / 1e6
        / seconds,
        "syncs": (len(waits) - 1) / steps,  # the last one is this function's
        "launches": len(kernels) / steps,
    }


def covered(spans: list[tuple[float, float]]) -> float:
    """The length of the union of spans: kernels of several streams overlap."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def share_of_peak(options: argparse.Namespace, tokens_per_s: float) -> float | None:
    """The share of the device's arithmetic that the encoder's matrix products take, attention left out.

    Two operations for each weight and token, and for training as many for each of the two gradients; of frozen weights
    below adapters one.
    """
    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else ""
    peak = next((peak for device, peak in PEAK.items() if device in name), None)
    if peak is None:
        return None
    with torch.device("meta"):
        kind, sizes = MODELS[options.model]
        encoder = AutoModel.from_config(AutoConfig.for_model(kind, vocab_size=2, **sizes))
    weights = sum(part.weight.numel() for part in encoder.modules() if isinstance(part, torch.nn.Linear))
    passes = {"encode": 1, "train": 2 if options.lora else 3, "loss": 4}[options.what]
    return 2 * weights * passes * tokens_per_s / peak


def in_new_process(options: argparse.Namespace) -> float:
    """Seconds from a new process to the end of its first steps."""
    script = [
        sys.executable,
        __file__,
        "train",
        "--model",
        options.model,
        "--device",
        options.device,
        "--rows",
        "2",
        "--rounds",
        "1",
    ]
    begin = time.perf_counter()
    subprocess.run(script, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
