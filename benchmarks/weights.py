"""What weights cost on their way: memory of the driver and the node, bytes that travel, and waiting, by the model's size.

    python benchmarks/weights.py                                   # a random decoder of 0.1B weights, every kind of run
    python benchmarks/weights.py --sizes 0.6B --types bfloat16 --kinds lora --workers 1 2

Each line is a run of three steps in a driver of its own, on a Ray cluster of its own. The driver's memory is its highest
resident memory over what it had with everything imported, before the model was opened. The node's is the highest sum over
the driver and all processes that it started, pages that several share (a mapped file, the object store) counted once,
less what the same run takes with a model of next to nothing. "Allowed" is 1.3 times the weights' file, and for each rank
what it trains: 4 bytes a trained weight for the float32 weight and 4 for its gradient (the optimizer is SGD), under FSDP
divided by the ranks. What travels is the most that the object store held. Times are from ``train()`` to the first step's end and from the last step's to
``train()``'s. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import psutil

MIB = 2**20
SIZES = {
    "none": {"hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 64, "vocab_size": 100},
    "0.02B": {"hidden_size": 256, "num_hidden_layers": 4, "intermediate_size": 768, "vocab_size": 50_000},
    "0.1B": {"hidden_size": 512, "num_hidden_layers": 10, "intermediate_size": 1536, "vocab_size": 150_000},
    "0.6B": {"hidden_size": 1024, "num_hidden_layers": 28, "intermediate_size": 3072, "vocab_size": 151_669},
}
KINDS = ("plain", "lora", "fsdp")
STEPS = 3


def main() -> None:
    """Prints the table, or measures one run in the process of its own."""
    options = arguments()
    if options.one:
        print("RESULT " + json.dumps(measure(Path(options.folder), *options.one.split(":"))), flush=True)
        return
    print(
        "| size, type | kind, workers | driver MiB | node MiB | allowed MiB | travels MiB | to step 1, s | to result, s |"
    )
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    nothing = table(options, "none", "float32", {})
    for size in options.sizes:
        for kind_of_number in options.types:
            table(options, size, kind_of_number, nothing)


def table(
    options: argparse.Namespace, size: str, kind_of_number: str, nothing: dict[str, float]
) -> dict[str, float]:
    """Prints a line for each kind of run with a model, and returns each run's memory of the node."""
    memory = {}
    with tempfile.TemporaryDirectory() as folder:
        file_mib = decoder(Path(folder) / "model", size, kind_of_number)
        for kind, workers in itertools.product(options.kinds, options.workers):
            run = f"{kind}, {workers}"
            found = in_own_process(folder, kind, workers)
            if found is not None:
                memory[run] = found["node"]
                found["node"] -= nothing.get(run, 0)
            report(f"{size} {kind_of_number}", run, file_mib, workers, found)
    return memory


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES)[1:], default=["0.1B"])
    parser.add_argument(
        "--types", nargs="+", choices=["bfloat16", "float32"], default=["bfloat16", "float32"]
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


def decoder(folder: Path, size: str, kind_of_number: str) -> float:
    """Writes a random decoder with last-token pooling to a folder; returns the MiB of its weights' file."""
    import torch
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

    from ray_st import SentenceTransformer
    from ray_st.models import Pooling, Transformer

    warnings.simplefilter("ignore")
    config = Qwen3Config(
        num_attention_heads=8, num_key_value_heads=4, head_dim=64, **SIZES[size], tie_word_embeddings=True
    )
    torch.manual_seed(0)
    model = Qwen3Model(config).to(getattr(torch, kind_of_number))
    model.save_pretrained(folder / "encoder")
    tokenizer(PreTrainedTokenizerFast).save_pretrained(folder / "encoder")
    modules = [Transformer(folder / "encoder"), Pooling(config.hidden_size, pooling_mode="lasttoken")]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "whole"))
    return sum(file.stat().st_size for file in (folder / "whole").rglob("*.safetensors")) / MIB


def tokenizer(make: Any) -> Any:
    """A word-level tokenizer of a hundred words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *(f"w{n}" for n in range(98))])}
    inner = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return make(tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", padding_side="left")


def in_own_process(folder: str, kind: str, workers: int) -> dict[str, float] | None:
    """One run's figures; None if it failed."""
    command = [sys.executable, __file__, "--folder", folder, "--one", f"{kind}:{workers}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        print(done.stderr[-500:], file=sys.stderr)
        return None
    return dict(json.loads(line.split(" ", 1)[1]))


class Peaks(threading.Thread):
    """Samples this process's memory, that of all processes of the run, and what the object store holds."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()
        self.own = self.node = self.store = 0.0
        self.before = psutil.Process().memory_info().rss

    def run(self) -> None:
        """Samples five times a second."""
        process = psutil.Process()
        while not self.over.wait(0.2):
            self.own = max(self.own, (process.memory_info().rss - self.before) / MIB)
            self.node = max(self.node, shared_out(process) / MIB)
            self.store = max(self.store, held(process) / MIB)


def shared_out(process: psutil.Process) -> int:
    """Bytes of memory of a process and all that it started; of a page that n processes share, each has 1/n."""
    total = 0
    for each in (process, *process.children(recursive=True)):
        with contextlib.suppress(OSError, IndexError):  # it has just ended
            text = Path(f"/proc/{each.pid}/smaps_rollup").read_text()
            total += 1024 * int(text.split("\nPss:")[1].split()[0])
    return total


def held(process: psutil.Process) -> int:
    """Bytes of the files in shared memory that processes of the run have open: Ray's objects."""
    sizes: dict[int, int] = {}
    for each in process.children(recursive=True):
        entries: list[str] = []
        with contextlib.suppress(OSError):  # the process has just ended
            entries = os.listdir(f"/proc/{each.pid}/fd")
        for entry in entries:
            with contextlib.suppress(OSError):  # the file has just been closed
                path = f"/proc/{each.pid}/fd/{entry}"
                if os.readlink(path).startswith("/dev/shm/"):
                    found = os.stat(path)
                    sizes[found.st_ino] = 512 * found.st_blocks
    return sum(sizes.values())


def measure(folder: Path, kind: str, workers: str) -> dict[str, float]:
    """Trains three steps and returns the figures."""
    os.environ |= {"RAY_ADDRESS": "local", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    warnings.simplefilter("ignore")
    import ray.train
    from datasets import Dataset
    from transformers import TrainerCallback

    from ray_st import SentenceTransformer, SentenceTransformerTrainer, losses
    from ray_st.training_args import SentenceTransformerTrainingArguments

    class Times(TrainerCallback):
        """Writes down when each step ended."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Notes the time on the first rank."""
            if state.is_world_process_zero:
                with (folder / "times").open("a") as stream:
                    stream.write(f"{time.time()}\n")

    ray.init(num_cpus=4, log_to_driver=False)
    if kind == "lora":
        import peft
    (folder / "times").unlink(missing_ok=True)
    peaks = Peaks()
    peaks.start()
    model = SentenceTransformer(str(folder / "model" / "whole"), device="cpu")
    if kind == "lora":
        model.add_adapter(peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=8))
    rows = {"a": [f"w{n} w{n + 1}" for n in range(24)], "b": [f"w{n + 2}" for n in range(24)]}
    args = SentenceTransformerTrainingArguments(
        str(folder / "out"),
        max_steps=STEPS,
        global_train_batch_size=4,
        save_strategy="no",
        report_to="none",
        optim="sgd",
        fsdp=kind == "fsdp",
    )
    trainer = SentenceTransformerTrainer(
        model,
        args,
        train_dataset=Dataset.from_dict(rows),
        loss=losses.MultipleNegativesRankingLoss(model),
        callbacks=[Times()],
        scaling_config=ray.train.ScalingConfig(num_workers=int(workers)),
    )
    start = time.time()
    trainer.train()
    end = time.time()
    peaks.over.set()
    peaks.join()
    times = [float(line) for line in (folder / "times").read_text().split()]
    return {
        "driver": peaks.own,
        "node": peaks.node,
        "store": peaks.store,
        "trained": sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        "first": times[0] - start,
        "result": end - times[-1],
    }


def report(model: str, run: str, file_mib: float, workers: int, found: dict[str, float] | None) -> None:
    """Prints a line of the table."""
    if found is None:
        print(f"| {model} | {run} | failed |  |  |  |  |  |", flush=True)
        return
    ranks = 1 if run.startswith("fsdp") else workers
    allowed = 1.3 * file_mib + ranks * 8 * found["trained"] / MIB
    print(
        f"| {model} | {run} | {found['driver']:,.0f} | {found['node']:,.0f} | {allowed:,.0f} "
        f"| {found['store']:,.0f} | {found['first']:.1f} | {found['result']:.1f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
